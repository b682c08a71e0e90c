"""A gRPC connection to one model of one Triton server: requests out, streamed answers in. Imports no torch."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from serve.backends.triton.wire import Refusal, event_of_json
from serve.engine.events import Event

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a server that returns is found within seconds
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, so that models do not share its limits
]


class Lost(Exception):
    """The server is gone, or cannot answer; the message says why."""


class ModelLost(Lost):
    """Triton answers, but our model in it does not."""


class Refused(Exception):
    """The server refused the request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True)
class Answer:
    """One answer: JSON, and the picture that belongs to it."""

    content: bytes
    picture: Image.Image | None

    @property
    def event(self) -> Event:
        """The answer as an event of a job."""
        return event_of_json(json.loads(self.content), self.picture)


class Connection:
    """Used on one event loop; calls of one connection share its socket.

    Args:
        url: host:port of Triton's gRPC service.
        model: name in Triton.
    """

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        self._client = InferenceServerClient(url, channel_args=_OPTIONS)
        self._calls: set[Any] = set()

    async def ask(self, request: BaseModel) -> Answer:
        """Answer to a request that has one; raises like `stream`."""
        last = None
        async with aclosing(self.request(request)) as answers:
            async for answer in answers:
                last = answer
        if last is None:
            raise Lost("the server ended the call without an answer")
        return last

    async def request(self, request: BaseModel) -> AsyncGenerator[Answer]:
        """Answers to a request that has several; raises like `stream`."""
        async with aclosing(self.stream(_once(request))) as answers:
            async for answer in answers:
                yield answer

    async def stream(self, requests: AsyncIterator[BaseModel]) -> AsyncGenerator[Answer]:
        """Send requests and yield the answers. Closing the iterator cancels the requests.

        Raises:
            Refused: a request is refused.
            Lost: the connection broke, Triton itself refuses, or `drop` was called.
        """
        call = self._client.stream_infer(
            {"model_name": self._model, "inputs": [_tensor(one)]} async for one in requests
        )
        self._calls.add(call)
        try:
            async for result, error in call:
                if error is not None:
                    raise _error(error.message())
                picture = result.as_numpy("picture")
                content = result.as_numpy("event")
                if content is None:
                    continue  # the end of a cancelled request
                yield Answer(content.tobytes(), None if picture is None else Image.fromarray(picture))
        except grpc.RpcError as error:
            raise Lost(_reason(error)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # this task is cancelled, not the call
            raise Lost("the server does not answer") from None
        finally:
            self._calls.discard(call)
            call.cancel()

    def drop(self) -> None:
        """End all calls, which then raise Lost."""
        calls = list(self._calls)
        self._calls.clear()
        for call in calls:
            call.cancel()

    async def close(self) -> None:
        """Close the socket."""
        await self._client.close()


async def _once(request: BaseModel) -> AsyncIterator[BaseModel]:
    yield request


def _tensor(request: BaseModel) -> InferInput:
    content = np.frombuffer(request.model_dump_json().encode(), np.uint8)
    tensor = InferInput("request", [content.size], "UINT8")
    tensor.set_data_from_numpy(content)
    return tensor


def _error(message: str) -> ModelLost | Refused:
    """Error of Triton's message: ours is a Refusal as JSON."""
    try:
        return Refused(Refusal.model_validate_json(message))
    except ValidationError:
        return ModelLost(message)


def _reason(error: grpc.RpcError) -> str:
    details = getattr(error, "details", lambda: None)()
    return " ".join((details or type(error).__name__).split())
