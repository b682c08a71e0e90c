"""What belongs to one HTTP request: its id, its line in the log, its count in the metrics."""

import contextvars
import logging
import sys
import time
import uuid

from pythonjsonlogger.json import JsonFormatter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import GenerationFailed
from serve.metrics import Metrics

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")
logger = logging.getLogger("focusdiff.access")


class RequestContext:
    """Gives each request an id, sends it back as x-request-id, and logs and counts the answer.

    What nobody else has answered for is logged with its traceback, and answered 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = request_id.set(uuid.uuid4().hex)
        started, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.get().encode())]
            await send(message)

        api = scope["path"].startswith("/v1/")
        self._metrics.open += api
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s broke", request_id.get())
            if not status:
                broken = GenerationFailed(f"something broke here; the log says what, under {request_id.get()}")
                await JSONResponse(broken.body.model_dump(), broken.status)(scope, receive, send_with_id)
        finally:
            self._metrics.open -= api
            route = getattr(scope.get("route"), "path", "none")  # a client's own path would be a label without end
            self._metrics.answer(route, status)
            seconds = round(time.monotonic() - started, 4)
            path = scope["raw_path"].decode("latin-1")  # escaped: a path must not forge lines of the log
            details = {"method": scope["method"], "path": path, "status": status, "seconds": seconds}
            level = (
                logging.DEBUG if route == "none" and status < 400 else logging.INFO
            )  # the page's own files and calls
            logger.log(level, "%(method)s %(path)s %(status)s %(seconds)s s", details, extra=details)
            request_id.reset(token)


def set_up_logging(*, level: str, format: str) -> None:
    """One handler for everything, to standard error: a line for people, or a JSON object a line, with request ids."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s%(request_suffix)s"))
        handler.addFilter(_with_suffix)
    handler.addFilter(_with_request_id)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the page's requests are in our log already
    # its own lines of start and stop say less than ours
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _with_suffix(record: logging.LogRecord) -> bool:
    """For people: nothing where no request is being answered."""
    known = request_id.get()
    record.request_suffix = "" if known == "-" else f" ({known})"
    return True


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True
