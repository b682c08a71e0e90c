"""The answer to a client that is refused before the application sees a request."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serve.http.errors import ApiError


def refusal(error: ApiError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Bytes of an HTTP answer with OpenAI's error object, after which the connection ends.

    Args:
        error: its message, status and headers.
        headers: more of them.
    """
    body = error.body.model_dump_json().encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **error.headers}
    lines = [*headers, *((name.encode(), value.encode()) for name, value in own.items())]
    return STATUS_LINE[error.status] + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n" + body
