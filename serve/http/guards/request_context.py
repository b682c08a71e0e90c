"""Request id, access log line and metrics of each HTTP request."""

import logging
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.errors import GenerationFailed, error_answer
from serve.http.metrics import Metrics
from serve.logs import request_id

logger = logging.getLogger("focusdiff.access")


class RequestContext:
    """Middleware that gives each request an id, returns it as x-request-id, and logs and counts the answer.

    Fields that the route ignored are named in x-ignored-fields.

    An unhandled exception is logged with its traceback and answered with status 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = request_id.set(uuid.uuid4().hex)
        started, status = time.monotonic(), 0
        state = scope.setdefault("state", {})

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.get().encode())]
                if ignored := state.get("ignored_fields"):
                    message["headers"].append((b"x-ignored-fields", ignored.encode()))
            await send(message)

        api = scope["path"].startswith(("/v1/", "/sdapi/"))
        self._metrics.open += api
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s broke", request_id.get())
            if not status:
                broken = GenerationFailed(f"something broke here; the log says what, under {request_id.get()}")
                await error_answer(broken, scope["path"])(scope, receive, send_with_id)
        finally:
            self._metrics.open -= api
            route = getattr(scope.get("route"), "path", "none")  # raw paths would make unbounded labels
            self._metrics.answer(route, status)
            seconds = round(time.monotonic() - started, 4)
            path = scope["raw_path"].decode("latin-1")  # escaped, so that a path cannot forge log lines
            details = {"method": scope["method"], "path": path, "status": status, "seconds": seconds}
            # requests of the demo page itself have no route of the API
            level = logging.DEBUG if route == "none" and status < 400 else logging.INFO
            logger.log(level, "%(method)s %(path)s %(status)s %(seconds)s s", details, extra=details)
            request_id.reset(token)
