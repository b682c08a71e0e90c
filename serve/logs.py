"""Logging as text or JSON; every line has the id of its HTTP request."""

import contextvars
import logging
import sys

from pythonjsonlogger.json import JsonFormatter

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


def set_up_logging(*, level: str, format: str) -> None:
    """Log the whole process to standard error.

    Args:
        level: debug, info, warning or error.
        format: "json" for one object per line, else text.
    """
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
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the demo page's requests are already in our access log
    # uvicorn's start and stop messages repeat ours
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _with_suffix(record: logging.LogRecord) -> bool:
    """Set the suffix of text lines: " (id)" inside a request, else empty."""
    known = request_id.get()
    record.request_suffix = "" if known == "-" else f" ({known})"
    return True


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True
