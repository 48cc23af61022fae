"""What a client did wrong, or what went wrong here, in the form of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that gets no picture: a status, a sentence, the field and a word for programs."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        retry_s: int | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        again = {} if retry_s is None else {"Retry-After": str(retry_s)}
        self.headers = {**again, **(headers or {})}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if status in (408, 413):  # what is left of the body is not read
            self.headers["Connection"] = "close"

    def response(self) -> JSONResponse:
        """The answer to the client."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        body: dict[str, Any] = {
            "message": self.message,
            "type": kind if self.status < 500 else "server_error",
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": body}, self.status, self.headers)
