"""What the API answers when a request cannot be served, as OpenAI's error object.

ApiError                   status, type
├── InvalidRequest         400  invalid_request_error    a field is wrong; `param` names it
│   ├── Unauthorized       401  authentication_error     no key, or not one of ours
│   ├── ModelNotFound      404  invalid_request_error    answers with the known names
│   ├── NotFound           404  invalid_request_error    no such thing, or not any more
│   ├── Conflict           409  invalid_request_error    what is asked for does not go with what is there
│   └── TooLarge           413  invalid_request_error    the body is longer than the server reads
├── Busy                   429  rate_limit_error         Retry-After says when to come again
├── GenerationFailed       500  server_error             an image broke; says which, and why
├── Unavailable            503  server_error             the engine has failed, or the server is stopping
└── DeadlinePassed         504  timeout_error            the images did not come in time
"""

import math

from serve.http.schemas import ErrorDetail, ErrorResponse


class ApiError(Exception):
    """Base of everything the API refuses or fails with."""

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {}

    @property
    def body(self) -> ErrorResponse:
        """OpenAI's error object."""
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return ErrorResponse(error=detail)


class InvalidRequest(ApiError):
    """A field is missing, out of range or not understood."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(InvalidRequest):
    """No key was sent, or one that nobody was given."""

    status = 401
    type = "authentication_error"

    @property
    def headers(self) -> dict[str, str]:
        """How to send one."""
        return {"WWW-Authenticate": "Bearer"}


class ModelNotFound(InvalidRequest):
    """A model that this server does not have."""

    status = 404


class NotFound(InvalidRequest):
    """Something that is not here, or not any more."""

    status = 404


class Conflict(InvalidRequest):
    """Something that does not go with what is there."""

    status = 409


class TooLarge(InvalidRequest):
    """A body longer than the server reads."""

    status = 413


class Busy(ApiError):
    """Not now: the queue is full, or a key has asked for all that it may; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, code: str, retry_after: float) -> None:
        super().__init__(message, code=code)
        self.retry_after = max(1, math.ceil(retry_after))

    @property
    def headers(self) -> dict[str, str]:
        """When to come again."""
        return {"Retry-After": str(self.retry_after)}


class GenerationFailed(ApiError):
    """Decoding broke for a reason that is not the request's."""


class Unavailable(ApiError):
    """Nothing is drawn here any more."""

    status = 503


class DeadlinePassed(ApiError):
    """The images did not come in time."""

    status = 504
    type = "timeout_error"
