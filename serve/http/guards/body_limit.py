"""Bodies longer than the server reads are refused before they are read to the end."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses longer bodies with 413; FastAPI's own limit answers in plain text, not in OpenAI's shape."""

    def __init__(self, app: ASGIApp, mib: float) -> None:
        self._app = app
        self._mib = mib
        self._limit = int(mib * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            if said.isdecimal() and int(said) > self._limit:
                raise self._refusal
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._refusal
            return message

        await self._app(scope, receive_bounded, send)

    @property
    def _refusal(self) -> HTTPException:
        # the framework hands an HTTPException on to our handler; it would answer any other with 400
        return HTTPException(413, f"the body must be at most {self._mib:g} MiB")
