"""What both origins do with every request: a line in the log, and no way out but an answer."""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from flux_cli.sandbox.intake import RefusedError
from flux_cli.sandbox.wire import Silence, refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Log = Callable[[str], None]

MAX_LOGGED = 120

TASK = web.RequestKey("task", str)
"""The task that a request is about, for the log."""
FAULT = web.RequestKey("fault", str)
"""The fault that a request met, for the log."""


def guarded(log: Log) -> Middleware:
    """Return the outermost middleware of an origin."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            response = await handler(request)
        except RefusedError as refused:
            response = refusal(refused.status, *refused.reasons)
        except web.HTTPException as refused:
            response = refusal(refused.status, refused.reason)
        except ConnectionError:
            response = Silence()
        log(_line(request, response, 1000 * (time.perf_counter() - started)))
        return response

    return answer


def _line(request: web.Request, response: web.StreamResponse, milliseconds: float) -> str:
    """Return a request's line: never a header or a query, which may hold a key."""
    status = "---" if isinstance(response, Silence) else str(response.status)
    fault = f"[[{request[FAULT]}]]" if FAULT in request else ""
    path = request.path if len(request.path) <= MAX_LOGGED else f"{request.path[: MAX_LOGGED - 1]}…"
    words = (
        request.method[:MAX_LOGGED],
        path,
        status,
        request.get(TASK, "")[:MAX_LOGGED],
        fault,
        f"{milliseconds:.0f} ms",
    )
    return " ".join(word for word in words if word)
