"""One gRPC call to a model of a Triton server: requests out, answers in. Imports no torch."""

import asyncio
import json
from collections.abc import AsyncIterator
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


class Call:
    """A call that has begun; used on one event loop.

    It is read by a task of its own, since gRPC cancels a call when the task that waits for its next answer is cancelled.

    answers: an exception says why the request failed; None is the end.
    answered: set by the first answer, and at the end.
    """

    def __init__(self, client: InferenceServerClient, model: str, requests: AsyncIterator[BaseModel]) -> None:
        self.answers: asyncio.Queue[Answer | Exception | None] = asyncio.Queue()
        self.answered = asyncio.Event()
        self._silent = False
        self._call = client.stream_infer(self._inputs(model, requests))
        self._reading = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        """Whether no answer will follow."""
        return self._reading.done()

    async def until_ended(self) -> None:
        await asyncio.wait({self._reading})

    def send_no_more(self) -> None:
        """Send no further requests."""
        self._silent = True

    def cancel(self) -> None:
        """End the call by gRPC's means."""
        self._call.cancel()

    async def _inputs(self, model: str, requests: AsyncIterator[BaseModel]) -> AsyncIterator[dict[str, Any]]:
        async for one in requests:
            if self._silent:
                return
            yield {"model_name": model, "inputs": [_tensor(one)]}

    async def _read(self) -> None:
        try:
            async for result, error in self._call:
                self.answered.set()
                if error is not None:
                    self.answers.put_nowait(_error(error.message()))
                    continue
                content = result.as_numpy("event")
                if content is None:
                    continue  # the end of a cancelled request
                picture = result.as_numpy("picture")
                image = None if picture is None else Image.fromarray(picture)
                self.answers.put_nowait(Answer(content.tobytes(), image))
        except grpc.RpcError as error:
            self.answers.put_nowait(Lost(_reason(error)))
        except asyncio.CancelledError:
            self.answers.put_nowait(Lost("the server does not answer"))
        finally:
            self.answered.set()
            self.answers.put_nowait(None)


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
