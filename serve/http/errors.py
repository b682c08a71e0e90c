"""Errors of the API, answered as OpenAI's error object, or as AUTOMATIC1111's web UI does.

ApiError                   status, type
├── InvalidRequest         400  invalid_request_error    a field is wrong; `param` names it
│   ├── Unauthorized       401  authentication_error     no API key, or an unknown one
│   ├── ModelNotFound      404  invalid_request_error    the message lists the known names
│   ├── NotFound           404  invalid_request_error    no such route or picture, or it has expired
│   ├── Conflict           409  invalid_request_error    the name is taken, or it is the only model
│   ├── ClientTooSlow      408  invalid_request_error    the request is not complete in time
│   ├── TooLarge           413  invalid_request_error    the body is over the size limit
│   └── HeadersTooLarge    431  invalid_request_error    the headers are too long or too many
├── Busy                   429  rate_limit_error         queue full or rate limit reached; sets Retry-After
├── GenerationFailed       500  server_error             an image cannot be drawn, or an unexpected error
├── Unavailable            503  server_error             loading, stopping, or the engine has failed
│   └── Crowded            503  server_error             too many connections or bodies; sets Retry-After
└── DeadlinePassed         504  timeout_error            the request's time limit passed
"""

import math

from starlette.responses import JSONResponse

from serve.http.schemas import ErrorDetail, ErrorResponse


class ApiError(Exception):
    """Base class of the API's errors."""

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        return {}

    @property
    def body(self) -> ErrorResponse:
        """OpenAI's error object."""
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return ErrorResponse(error=detail)


class InvalidRequest(ApiError):
    """A field is missing, out of range or unknown."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(InvalidRequest):
    """No API key was sent, or an unknown one."""

    status = 401
    type = "authentication_error"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class ModelNotFound(InvalidRequest):
    """No such model."""

    status = 404


class NotFound(InvalidRequest):
    """No such route or picture, or the picture has expired."""

    status = 404


class Conflict(InvalidRequest):
    """The request conflicts with the loaded models."""

    status = 409


class ClientTooSlow(InvalidRequest):
    """The request was not complete in time."""

    status = 408


class TooLarge(InvalidRequest):
    """The request body is over the size limit."""

    status = 413


class HeadersTooLarge(InvalidRequest):
    """The request line and headers are over the size limit, or too many."""

    status = 431


class Busy(ApiError):
    """The queue is full, or the caller's rate limit is reached; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, code: str, retry_after: float) -> None:
        super().__init__(message, code=code)
        self.retry_after = max(1, math.ceil(retry_after))

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class GenerationFailed(ApiError):
    """Drawing failed through no fault of the request."""


class Unavailable(ApiError):
    """No model is loaded, the engine has failed or the server is stopping."""

    status = 503


class Crowded(Unavailable):
    """Too many connections are open, or too many bytes of request bodies are held."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "5"}


class DeadlinePassed(ApiError):
    """The request's time limit passed."""

    status = 504
    type = "timeout_error"


def error_answer(error: ApiError, path: str) -> JSONResponse:
    """Answer of an error, in the format of the interface that `path` belongs to."""
    if not path.startswith("/sdapi/"):
        return JSONResponse(error.body.model_dump(), error.status, headers=error.headers)
    headers = {"WWW-Authenticate": "Basic"} if isinstance(error, Unauthorized) else error.headers
    content = {"error": type(error).__name__, "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(content, error.status, headers=headers)
