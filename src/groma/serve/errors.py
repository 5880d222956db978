"""What a client is told when something is wrong: OpenAI's form, one sentence, no traces."""

from typing import Any

from starlette.responses import JSONResponse

from groma.engine.ticket import BusyError, CancelledError, StoppedError, TimeLimitError
from groma.errors import GromaError, InputError

GONE = 499
"""Status of a request whose client has gone before anything was told."""


class HttpError(GromaError):
    """An error with the status that it has in HTTP."""

    def __init__(self, status: int, text: str, *, param: str | None = None, headers: dict[str, str] | None = None):
        """Say it in one sentence."""
        super().__init__(text)
        self.status, self.param, self.headers = status, param, headers or {}


MAX_TOLD = 400
"""Characters of an error: what was sent is not told again in full length."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    GONE: "cancelled",
    503: "unavailable_error",
    504: "timeout_error",
}
"""Status -> type of the error; any other: "api_error"."""


def as_http(error: GromaError) -> HttpError:
    """What an error of the engine is in HTTP."""
    match error:
        case HttpError():
            return error
        case BusyError():
            return HttpError(429, str(error), headers={"Retry-After": str(error.retry_after_s)})
        case TimeLimitError():
            return HttpError(504, str(error))
        case StoppedError():
            return HttpError(503, "the server is stopping: ask again in a moment", headers={"Retry-After": "5"})
        case CancelledError():
            return HttpError(GONE, str(error))
        case InputError():
            return HttpError(400, str(error))
        case _:
            return HttpError(500, "the question could not be answered: the server's log says why")


def error_body(error: HttpError) -> dict[str, Any]:
    """The reply's JSON."""
    kind = TYPES.get(error.status, "api_error")
    text = str(error).encode("utf-8", "replace").decode()
    text = text if len(text) <= MAX_TOLD else text[: MAX_TOLD - 4] + " ..."
    return {"error": {"message": text, "type": kind, "param": error.param, "code": None}}


def error_response(error: GromaError) -> JSONResponse:
    """The reply."""
    told = as_http(error)
    return JSONResponse(error_body(told), status_code=told.status, headers=told.headers)
