"""A gRPC connection to one model of one Triton server: requests out, streamed answers in. Imports no torch."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from pydantic import BaseModel
from tritonclient.grpc.aio import InferenceServerClient

from serve.backends.triton.call import Answer, Call, Lost, Refused
from serve.backends.triton.wire import Cancel, Draw

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a server that returns is found within seconds
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, so that models do not share its limits
]
_LEAVING_SECONDS = 5.0  # for a call to end after its job was cancelled


class Connection:
    """Used on one event loop; calls of one connection share its socket.

    A call is left by asking our model to cancel it, and read to its end: Triton (2.51) does not always forget a call that
    gRPC cancels, and then never unloads the model, nor ends before its time for that is over.

    Args:
        url: host:port of Triton's gRPC service.
        model: name in Triton.
    """

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        self._client = InferenceServerClient(url, channel_args=_OPTIONS)
        self._calls: set[Call] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def ask(self, request: BaseModel) -> Answer:
        """Answer to a request that has one; raises like `stream`."""
        last = None
        async with aclosing(self.stream(_once(request))) as answers:
            async for answer in answers:
                last = answer
        if last is None:
            raise Lost("the server ended the call without an answer")
        return last

    async def draw(self, draw: Draw) -> AsyncGenerator[Answer]:
        """Answers to a Draw; raises like `stream`. Closing the iterator cancels the job."""
        cancel = None if draw.key is None else Cancel(key=draw.key)
        async with aclosing(self.stream(_once(draw), cancel)) as answers:
            async for answer in answers:
                yield answer

    async def stream(self, requests: AsyncIterator[BaseModel], cancel: Cancel | None = None) -> AsyncGenerator[Answer]:
        """Send requests and yield the answers; closing the iterator sends no more requests, but `cancel`.

        Raises:
            Refused: a request is refused.
            Lost: the connection broke, Triton itself refuses, or `drop` was called.
        """
        call = Call(self._client, self._model, requests)
        self._calls.add(call)
        try:
            while (answer := await call.answers.get()) is not None:
                if isinstance(answer, Exception):
                    cancel = None
                    raise answer
                yield answer
        finally:
            if call.ended:
                self._calls.discard(call)
            else:
                leaving = asyncio.create_task(self._leave(call, cancel))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, call: Call, cancel: Cancel | None) -> None:
        call.send_no_more()
        try:
            async with asyncio.timeout(_LEAVING_SECONDS):
                if cancel is not None:
                    await call.answered.wait()  # before, our model may not have the request yet
                    if not call.ended:
                        async with aclosing(self.stream(_once(cancel))) as answers:
                            async for _ in answers:
                                pass
                await call.until_ended()
        except (TimeoutError, Lost, Refused):
            pass
        finally:
            call.cancel()
            self._calls.discard(call)

    def drop(self) -> None:
        """End all calls, which then raise Lost."""
        for call in list(self._calls):
            call.cancel()

    async def close(self) -> None:
        """Close the socket, once all calls have ended."""
        while self._leaving:
            await asyncio.wait(self._leaving)
        await self._client.close()


async def _once(request: BaseModel) -> AsyncIterator[BaseModel]:
    yield request
