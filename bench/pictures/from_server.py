"""Pictures of a server that speaks OpenAI's Images API."""

import asyncio
import base64
import binascii
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
from PIL import Image

from bench.pictures.errors import GenerationError
from bench.pictures.generator import Drawings, Drawn
from bench.pictures.picture import Part
from train.provenance import provenance

logger = logging.getLogger("focusdiff")
_RETRIES = 8  # of a request, with back-off or after the time that the server names
_SECONDS = 600.0  # timeout of a request
_SAMPLING = ("guidance_scale", "temperature", "top_k", "top_p")


class ServerGenerator:
    """Draws through any server with `/v1/images/generations`.

    Seeds are sent as the field `seed`. A server that refuses it draws with its own, and the settings say so: then a
    picture cannot be drawn again.

    Args:
        url: base URL, with /v1.
        model: name at the server; None takes its only model, or our server's first.
        key: API key.
        at_once: requests at the same time.
        sampling: settings that the request names; None leaves one to the server.

    Raises:
        GenerationError: the server cannot be reached, or has no such model.
    """

    def __init__(
        self, url: str, model: str | None, *, key: str, at_once: int, sampling: Mapping[str, float | int | None]
    ) -> None:
        self._url, self._key, self._at_once = url, key, at_once
        entry = self._find(model)
        self._model: str = entry["id"]
        self._sent = {name: sampling[name] for name in _SAMPLING if sampling.get(name) is not None}
        self._known = {**entry.get("sampling", {}), **self._sent}
        self._seeded = "sampling" in entry or self._takes_seeds()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, whether seeds decide its pictures, and sampling settings as far as they are known."""
        return {"generator": "server", "model": self._model, "seeded": self._seeded, "sampling": self._known}

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {**provenance(device="server", dtype="unknown"), "server": self._url, "openai": openai.__version__}

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Draw each part (`bench.pictures.generator.Generator`); requests go on while the caller asks for more."""
        with asyncio.Runner() as runner:  # leaving it cancels the requests in flight
            drawn: asyncio.Queue[Drawn | Exception] = asyncio.Queue()
            drawing = runner.get_loop().create_task(self._draw_all(parts, drawn))
            for _ in parts:
                one = runner.run(drawn.get())
                if isinstance(one, Exception):
                    raise one
                yield one
            runner.run(asyncio.wait([drawing]))

    async def _draw_all(self, parts: Sequence[Part], drawn: asyncio.Queue[Drawn | Exception]) -> None:
        waiting = iter(parts)
        async with self._client() as client:
            await asyncio.gather(*(self._draw_some(client, waiting, drawn) for _ in range(self._at_once)))

    async def _draw_some(
        self, client: openai.AsyncOpenAI, waiting: Iterator[Part], drawn: asyncio.Queue[Drawn | Exception]
    ) -> None:
        for part in waiting:
            try:
                drawn.put_nowait(Drawn(part, await self._picture(client, part.prompt, part.seed, seeded=self._seeded)))
            except openai.APIConnectionError as error:
                drawn.put_nowait(GenerationError(f"{self._url} is gone: {error.__cause__ or error}"))
            except openai.OpenAIError as error:
                drawn.put_nowait(GenerationError(f"{part.picture.file}: {self._url} refuses it: {error}"))
            except Exception as error:  # raised where it is taken from the queue
                drawn.put_nowait(error)

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self._url, api_key=self._key, max_retries=_RETRIES, timeout=_SECONDS)

    def _find(self, model: str | None) -> dict[str, Any]:
        """The server's entry of a model."""
        try:
            entries = asyncio.run(self._entries())
        except openai.OpenAIError as error:
            hint = "" if urlsplit(self._url).path.strip("/") else " (most servers have it under /v1)"
            raise GenerationError(f"{self._url} has no list of models{hint}: {error.__cause__ or error}") from None
        names = [entry["id"] for entry in entries]
        if model is None and entries and (len(entries) == 1 or "sampling" in entries[0]):
            return entries[0]
        for entry in entries:
            if model in (entry["id"], *(entry.get("aliases") or ())):
                return entry
        known = f"must be one of {', '.join(names)}" if names else "cannot be found: the server lists none"
        raise GenerationError(f"--server-model {known}" + ("" if model is None else f", not {model!r}"))

    async def _entries(self) -> list[dict[str, Any]]:
        async with self._client() as client:
            return [entry.model_dump() async for entry in client.models.list()]

    def _takes_seeds(self) -> bool:
        """Whether the server takes a seed, asked with a picture that is not used."""
        try:
            asyncio.run(self._try_seed())
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            logger.warning("%s takes no seed: %s", self._url, error)
            return False
        except openai.OpenAIError as error:
            raise GenerationError(f"{self._url} draws nothing: {error.__cause__ or error}") from None
        return True

    async def _try_seed(self) -> None:
        async with self._client() as client:
            await self._picture(client, "a red circle", 0, seeded=True)

    async def _picture(self, client: openai.AsyncOpenAI, prompt: str, seed: int, *, seeded: bool) -> Image.Image:
        extra = {**self._sent, **({"seed": seed} if seeded else {})}
        answer = await client.images.generate(model=self._model, prompt=prompt, n=1, extra_body=extra)
        if not answer.data:
            raise GenerationError(f"{self._url} answered without a picture")
        one = answer.data[0]
        if one.b64_json:
            content = _decoded(one.b64_json, self._url)
        elif one.url:
            content = await self._download(one.url)
        else:
            raise GenerationError(f"{self._url} answered with neither b64_json nor url")
        try:
            return Image.open(io.BytesIO(content)).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise GenerationError(f"{self._url} answered with a file that is no picture ({error})") from None

    async def _download(self, url: str) -> bytes:
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, follow_redirects=True) as client:
                return (await client.get(httpx.URL(self._url).join(url))).raise_for_status().content
        except httpx.HTTPError as error:
            raise GenerationError(f"{url} cannot be downloaded: {error}") from None


def _decoded(text: str, url: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise GenerationError(f"{url} answered with b64_json that is no base64") from None
