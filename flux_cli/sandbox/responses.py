"""HTTP responses of both origins: JSON, errors, byte ranges, and raw bytes that break HTTP's rules."""

import asyncio
import hashlib
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Middleware

from flux_cli.sandbox.tasks import to_json
from flux_cli.sandbox.validation import RejectedError

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TRICKLE_SECONDS = 0.2
MAX_LOGGED = 120

TASK = web.RequestKey("task", str)
"""The task of a request, for the log."""
FAULT = web.RequestKey("fault", str)
"""The fault that altered the response to a request, for the log."""

_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_GATEWAY_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>{0} {1}</title></head>\n"
    "<body><center><h1>{0} {1}</h1></center><hr><center>sandbox</center></body></html>\n"
)


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


def html_page(status: int) -> web.Response:
    """Return an HTML page like that of a gateway."""
    page = _GATEWAY_PAGE.format(status, _phrase(status))
    return web.Response(text=page, status=status, content_type="text/html")


def ranged_response(request: web.Request, content: bytes, content_type: str) -> web.Response:
    """Return a file, or the requested range of it unless `If-Range` names another version."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if "Range" not in request.headers or request.headers.get("If-Range", etag) != etag:
        return web.Response(body=content, content_type=content_type, headers=headers)
    try:
        start, end, _ = request.http_range.indices(len(content))
    except ValueError:
        start = end = len(content)
    if start >= end:
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return web.Response(body=content[start:end], status=206, content_type=content_type, headers=headers)


def reset(request: web.BaseRequest) -> NoResponse:
    """Reset the connection: the client sees ECONNRESET, not an orderly end."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        request.transport.abort()
    return NoResponse()


def raw_response(
    request: web.BaseRequest, headers: Mapping[str, str], body: bytes, status: int = 200
) -> NoResponse:
    """Write header and body unchanged, even if they contradict each other, and close the connection."""
    if request.transport is not None:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
        request.transport.write(head + body)
    return NoResponse()


async def repeat(request: web.BaseRequest, part: bytes, seconds: float) -> NoResponse:
    """Write a part at this interval until the client disconnects."""
    while request.transport is not None and not request.transport.is_closing():
        request.transport.write(part)
        await asyncio.sleep(seconds)
    return NoResponse()


async def hang() -> NoResponse:
    """Send nothing for an hour; the handler is cancelled when the client disconnects."""
    await asyncio.sleep(3600)
    return NoResponse()


def logged(log: Callable[[str], None]) -> Middleware:
    """Return the outermost middleware of an origin: a log line per request, and a response to every error."""

    @web.middleware
    async def respond(request: web.Request, handler: RequestHandler) -> web.StreamResponse:
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


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Status"
