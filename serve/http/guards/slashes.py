"""Paths with repeated slashes, which clients make of a base URL that ends in one."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send


class SinglePathSlashes:
    """Middleware that makes one slash of several in a path: //sdapi/v1/txt2img is /sdapi/v1/txt2img."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": re.sub("/{2,}", "/", scope["path"])}
        await self._app(scope, receive, send)
