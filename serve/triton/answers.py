"""Answers to the requests of Triton's clients. Imports no torch, and nothing of Triton's."""

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image
from pydantic import ValidationError

from pairs.picture_file import encode
from serve.backends.engine_backend import EngineBackend
from serve.backends.errors import NotRunning, QueueFull
from serve.backends.generation import Generation
from serve.backends.triton.wire import (
    MAX_REQUEST_BYTES,
    Cancel,
    Describe,
    Description,
    Draw,
    Pulse,
    Refusal,
    Request,
    event_as_json,
)
from serve.engine.events import Ended, Finished, Preview
from serve.triton.engine_keeper import EngineKeeper
from serve.triton.requests import job_of

logger = logging.getLogger("focusdiff")
_POLL_SECONDS = 0.1  # between two checks whether clients have cancelled


class Sender(Protocol):
    """Sends the answers to one request; no answer may follow the last one."""

    def send(self, event: bytes, *, picture: Image.Image | None = None, file: bytes | None = None, last: bool) -> None:
        """Send an answer: JSON, and a picture as pixels or as a file."""

    def refuse(self, message: str) -> None:
        """Send an error as the last answer."""

    def end(self) -> None:
        """End the answers without another one."""

    def is_cancelled(self) -> bool:
        """Whether the client has cancelled; False after the last answer."""


@dataclass(eq=False)
class Answers:
    """Answers requests with the engine that `keeper` keeps; used on one event loop only."""

    keeper: EngineKeeper
    _open: dict[Sender, "asyncio.Task[None]"] = field(default_factory=dict)
    _drawn: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)  # by key
    _described: tuple[EngineBackend, Description] | None = None

    async def answer(self, content: bytes, sender: Sender) -> None:
        """Answer one request, whose JSON is `content`; returns after the last answer."""
        if len(content) > MAX_REQUEST_BYTES:
            reason = f"request: at most {MAX_REQUEST_BYTES} bytes are allowed, got {len(content)}"
            _refuse(sender, Refusal(cause="invalid", reason=reason))
            return
        try:
            request = Request.validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"][1:]) or "request"
            _refuse(sender, Refusal(cause="invalid", reason=f"{place}: {first['msg']}"))
            return
        if isinstance(request, Draw):
            await self._draw(request, sender)
        elif isinstance(request, Cancel):
            if task := self._drawn.get(request.key):
                task.cancel()
            sender.end()
        elif isinstance(request, Describe):
            sender.send(self._description.model_dump_json().encode(), last=True)
        else:
            sender.send(self._pulse.model_dump_json().encode(), last=True)

    async def cancel_abandoned(self) -> None:
        """Cancel the jobs whose clients have cancelled; never returns."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self._cancel_abandoned()

    def _cancel_abandoned(self) -> None:
        # a function of its own, so that no variable holds a sender afterwards: Triton unloads a model only when all are gone
        for sender, task in list(self._open.items()):
            try:
                cancelled = sender.is_cancelled()
            except Exception:  # the others are still to be asked
                logger.exception("a client cannot be asked whether it has cancelled")
                cancelled = True
            if cancelled:
                task.cancel()

    @property
    def _description(self) -> Description:
        backend = self.keeper.backend
        if self._described is None or self._described[0] is not backend:
            description = Description(
                info=backend.info,
                tokenizer=backend.tokenizer.to_str(),
                max_prompt_tokens=backend.loaded.max_prompt_tokens,
                queue=backend.queue_limit,
            )
            self._described = backend, description
        return self._described[1]

    @property
    def _pulse(self) -> Pulse:
        backend = self.keeper.backend
        stats = backend.stats
        return Pulse(
            ready=backend.state == "ready",
            model=self._description.digest,
            running=stats.running,
            waiting=stats.waiting,
            slots=stats.slots,
            wait_seconds=backend.wait_seconds,
        )

    async def _draw(self, draw: Draw, sender: Sender) -> None:
        backend = self.keeper.backend
        try:
            generation = backend.submit(job_of(draw, backend))
        except QueueFull as full:
            _refuse(sender, Refusal(cause="queue full", reason=str(full), wait_seconds=full.wait_seconds))
        except NotRunning as error:
            _refuse(sender, Refusal(cause="not running", reason=str(error)))
        except ValueError as error:
            _refuse(sender, Refusal(cause="invalid", reason=str(error)))
        else:
            await self._follow(generation, draw, sender)

    async def _follow(self, generation: Generation, draw: Draw, sender: Sender) -> None:
        task = self._open[sender] = asyncio.create_task(_send_events(generation, draw, sender))
        if draw.key is not None:
            self._drawn[draw.key] = task
        await asyncio.wait({task})
        del self._open[sender]
        if draw.key is not None:
            self._drawn.pop(draw.key, None)
        if task.cancelled():
            sender.end()
        else:
            task.result()


async def _send_events(generation: Generation, draw: Draw, sender: Sender) -> None:
    async with generation:
        async for event in generation:
            content = json.dumps(event_as_json(event)).encode()
            picture = file = None
            if isinstance(event, Preview | Finished):
                if draw.format == "raw":
                    picture = event.picture
                else:
                    file = encode(event.picture, _settings(generation, event), format=draw.format)
            sender.send(content, picture=picture, file=file, last=isinstance(event, Ended))


def _settings(generation: Generation, event: Preview | Finished) -> dict[str, Any]:
    """Settings that reproduce a picture, but for the prompt: clients may send token ids."""
    job = generation.job
    return {"model": generation.info.name, "seed": job.seeds[event.index], **job.params.as_dict()}


def _refuse(sender: Sender, refusal: Refusal) -> None:
    sender.refuse(refusal.model_dump_json())
