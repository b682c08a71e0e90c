"""Size limit of request bodies, enforced before they are read completely."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Middleware that answers 413 to longer bodies, as OpenAI's error object; FastAPI's own limit sends plain text."""

    def __init__(self, app: ASGIApp, mib: float) -> None:
        self._app = app
        self._mib = mib
        self._limit = int(mib * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "0")
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            if content_length.isdecimal() and int(content_length) > self._limit:
                raise self._refusal
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._refusal
            return message

        await self._app(scope, receive_bounded, send)

    @property
    def _refusal(self) -> HTTPException:
        # FastAPI passes an HTTPException to our handler; any other error while reading becomes a 400
        return HTTPException(413, f"the body must be at most {self._mib:g} MiB")
