"""Limits on request bodies, of one and of all together, enforced before they are read completely."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.guards.body_budget import Body, BodyBudget


class BodyLimit:
    """Middleware that answers 413 to longer bodies, and 503 when those of all requests together are too long.

    Both are OpenAI's error object; FastAPI's own limit sends plain text.

    Args:
        app: the application.
        mib: of one body.
        budget: of all bodies.
    """

    def __init__(self, app: ASGIApp, mib: float, budget: BodyBudget) -> None:
        self._app = app
        self._mib = mib
        self._limit = int(mib * 2**20)
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "0")
        body = Body()

        async def receive_bounded() -> Message:
            if content_length.isdecimal() and int(content_length) > self._limit:
                raise self._too_large
            message = await body.read(receive)
            if body.size > self._limit:
                raise self._too_large
            if not self._budget.hold(body):
                raise self._used_up(body)
            return message

        try:
            await self._app(scope, receive_bounded, send)
        finally:
            self._budget.release(body)

    # FastAPI passes an HTTPException to our handler; any other error while reading becomes a 400

    @property
    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body must be at most {self._mib:g} MiB")

    def _used_up(self, body: Body) -> HTTPException:
        late = f", and this one was not complete after {self._budget.seconds:g} seconds" if body.gave_way else ""
        return HTTPException(503, f"this server holds at most {self._budget.mib:g} MiB of request bodies at once{late}")
