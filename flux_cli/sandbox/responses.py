"""HTTP responses of both origins: JSON, errors, no response at all, and their log."""

import time
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler, Middleware

from flux_cli.sandbox.tasks import to_json
from flux_cli.sandbox.validation import RejectedError

MAX_LOGGED = 120

TASK = web.RequestKey("task", str)
"""The task of a request, for the log."""
FAULT = web.RequestKey("fault", str)
"""The fault that altered the response to a request, for the log."""


class NoResponse(web.StreamResponse):
    """Writes nothing (more) and closes the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's
        """Write no header."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write no end."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(text=to_json(value), status=status, headers=headers, content_type="application/json")


def error_response(status: int, *reasons: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as the service sends it: 401 and 500 without a reason."""
    body = {} if status in (401, 500) else {"errors": [{"msg": reason} for reason in reasons]}
    return json_response(body, status, headers)


def logged(log: Callable[[str], None]) -> Middleware:
    """Return the outermost middleware of an origin: a log line per request, and a response to every error."""

    @web.middleware
    async def respond(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except RejectedError as error:
            response = error_response(error.status, *error.reasons)
        except web.HTTPException as error:
            response = error_response(error.status, error.reason)
        except ConnectionError:
            response = NoResponse()
        log(_log_line(request, response, 1000 * (time.perf_counter() - started)))
        return response

    return respond


def _log_line(request: web.Request, response: web.StreamResponse, milliseconds: float) -> str:
    """Return the log line of a request, without header and query, which can contain a key."""
    status = "---" if isinstance(response, NoResponse) else str(response.status)
    fault = f"[[{request[FAULT]}]]" if FAULT in request else ""
    path = request.path if len(request.path) <= MAX_LOGGED else f"{request.path[: MAX_LOGGED - 1]}…"
    task = request.get(TASK, "")[:MAX_LOGGED]
    words = (request.method[:MAX_LOGGED], path, status, task, fault, f"{milliseconds:.0f} ms")
    return " ".join(filter(None, words))
