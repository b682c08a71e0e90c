"""What the API answers when a request cannot be served, as OpenAI's error object.

ApiError                   status, type
├── InvalidRequest         400  invalid_request_error   a field is wrong; `param` names it
├── UnknownModel           404  invalid_request_error   answers with the known names
└── GenerationFailed       500  server_error            decoding broke; the reason is logged
"""

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


class GenerationFailed(ApiError):
    """Decoding broke for a reason that is not the request's."""
