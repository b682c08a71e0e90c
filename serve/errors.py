"""What the API answers when a request cannot be served, as OpenAI's error object.

ApiError                   status, type
├── InvalidRequest         400  invalid_request_error   a field is wrong; `param` names it
│   └── UnknownModel       404  invalid_request_error   answers with the known names
├── TooBusy                429  rate_limit_error        the queue is full; Retry-After says when to come again
├── GenerationFailed       500  server_error            an image broke; says which, and why
├── Unavailable            503  server_error            the engine has failed, or the server is stopping
└── DeadlinePassed         504  timeout_error           the images did not come in time
"""

import math
from typing import Any


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

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    """A field is missing, out of range or not understood."""

    status = 400
    type = "invalid_request_error"


class UnknownModel(InvalidRequest):
    """A model that this server does not have."""

    status = 404


class TooBusy(ApiError):
    """So many images wait that another would have to wait too long; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, code="queue_full")
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
