"""Answers for paths and methods without a route."""

from collections.abc import Sequence

from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from serve.http.errors import NotFound


class Unmatched:
    """ASGI app that answers OPTIONS with the methods of a path, redirects to add or drop a trailing slash, and else
    answers 405 or 404 as OpenAI's error object.

    Without it the page mounted at / would answer in its own format.

    Args:
        routes: routes of the API.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        methods = self._methods(scope)
        if methods:
            allowed = ", ".join(sorted(methods))
            if method == "OPTIONS":
                await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
                return
            raise HTTPException(405, f"{path} takes {allowed}, not {method}", headers={"Allow": allowed})
        other = {**scope, "path": path.rstrip("/") if path.endswith("/") else f"{path}/"}
        if self._methods(other):
            await RedirectResponse(URL(scope=other))(scope, receive, send)
            return
        raise NotFound(f"no such route: {path}")

    def _methods(self, scope: Scope) -> set[str]:
        """HTTP methods of the routes that match this path."""
        there = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        return {method for route in there for method in getattr(route, "methods", None) or ()}
