"""Client of the HTTP API for the demo page."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

_SECONDS = httpx.Timeout(10, read=900)  # a queue may be long; the server reports the wait


class ApiFailure(Exception):
    """Error of the server; the message is a sentence for users."""


@dataclass(frozen=True)
class Model:
    """A served model.

    rows: rows of codes per picture.
    sampling: its own settings.
    since: when it was loaded, in seconds of Unix time.
    """

    name: str
    image_size: int
    rows: int
    sampling: Mapping[str, float]
    since: int


class NotFollowed(ApiFailure):
    """The server has nothing under this path."""


@dataclass(frozen=True)
class Curve:
    """Values of a training run: for each name, one for each step; None where a step has none."""

    run: str
    steps: Sequence[int]
    values: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Api:
    """Client of one server; `key` is the API key, if it needs one."""

    url: str
    key: str | None = None

    async def models(self) -> dict[str, Model]:
        """Served models by name, in the server's order.

        Raises:
            ApiFailure: the server does not answer, or needs a key.
        """
        entries = (await self._json("GET", "/v1/models"))["data"]
        return {
            entry["id"]: Model(
                entry["id"],
                entry["image_size"],
                round(entry["image_tokens"] ** 0.5),
                entry["sampling"],
                entry["created"],
            )
            for entry in entries
        }

    async def pairs(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Stream the events of a pair; closing the iterator cancels the pair on the server.

        Raises:
            ApiFailure: the request was refused, or failed while streaming.
        """
        body = {**request, "stream": True, "queue_events": True}
        try:
            async with (
                httpx.AsyncClient(timeout=_SECONDS) as client,
                client.stream("POST", f"{self.url}/v1/images/pairs", json=body, headers=self._headers) as answer,
            ):
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            raise ApiFailure(event["error"]["message"])
                        yield event
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def judge(self, prompts: Sequence[str], images: Sequence[Sequence[str]]) -> list[list[list[float | None]]]:
        """Probabilities of yes, indexed [picture's prompt][picture][judged prompt]; empty if judging fails."""
        try:
            answer = await self._json("POST", "/v1/judgements", {"prompts": list(prompts), "images": list(images)})
        except ApiFailure:
            return []
        return [[one["yes"] for one in row] for row in answer["images"]]

    async def training(self) -> Curve | None:
        """Values of the training run that the server follows; None if it follows none.

        Raises:
            ApiFailure: the server does not answer, or needs a key.
        """
        try:
            answer = await self._json("GET", "/v1/training")
        except NotFollowed:
            return None
        return Curve(answer["run"], answer["steps"], answer["values"])

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_SECONDS) as client:
                answer = await client.request(method, self.url + path, json=body, headers=self._headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.content)
        content: dict[str, Any] = answer.json()
        return content

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def _unreachable(self, error: httpx.TransportError) -> ApiFailure:
        return ApiFailure(f"{self.url} does not answer ({type(error).__name__}). Is the server running?")


def _refusal(status: int, content: bytes) -> ApiFailure:
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the server answered with status {status}"
    hints = {401: " Put a key into the settings.", 429: ""}
    kind = NotFollowed if status == 404 else ApiFailure
    return kind(f"{message[:1].upper()}{message[1:]}.{hints.get(status, '')}")
