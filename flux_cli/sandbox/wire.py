"""Answers as they go over the wire: good ones, refusals, and what a dying connection makes of them."""

import asyncio
import socket
import struct
import sys
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from flux_cli.sandbox.tasks import to_json

TRICKLE_SECONDS = 0.2

_LINGER_NOT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

GATEWAY_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>{code} {phrase}</title></head>\n"
    "<body><center><h1>{code} {phrase}</h1></center><hr><center>sandbox</center></body></html>\n"
)


class Silence(web.StreamResponse):
    """Says nothing (more), after which the connection is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's
        """Write no headers."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write no end."""


def json_answer(answer: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer of the service."""
    return web.Response(text=to_json(answer), status=status, headers=headers, content_type="application/json")


def refusal(status: int, *reasons: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a refusal in the service's form; 401 and 500 say nothing there."""
    body = {} if status in (401, 500) else {"errors": [{"msg": reason} for reason in reasons]}
    return json_answer(body, status, headers)


def html_page(status: int) -> web.Response:
    """Return the page that a gateway shows."""
    page = GATEWAY_PAGE.format(code=status, phrase=_phrase(status))
    return web.Response(text=page, status=status, content_type="text/html")


def refuse_with(status: int) -> web.Response:
    """Return the answer with a status that somebody asked for."""
    if status in (204, 205, 304):
        return web.Response(status=status)
    return html_page(status) if status >= 502 else refusal(status, f"the sandbox was asked for status {status}")


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Status"


def reset(request: web.BaseRequest) -> Silence:
    """Reset the connection: the client sees ECONNRESET, not an orderly end."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        request.transport.abort()
    return Silence()


def raw(request: web.BaseRequest, headers: Mapping[str, str], body: bytes, status: int = 200) -> Silence:
    """Write headers and body as they stand, however they contradict each other, and close the connection."""
    if request.transport is not None:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
        request.transport.write(head + body)
    return Silence()


async def trickle(request: web.BaseRequest, body: bytes, content_type: str) -> web.StreamResponse:
    """Send a body a byte at a time."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.content_length = len(body)
    await response.prepare(request)
    for index in range(len(body)):
        await response.write(body[index : index + 1])
        await asyncio.sleep(TRICKLE_SECONDS)
    return response


async def hang() -> Silence:
    """Say nothing for an hour; a client that leaves ends it."""
    await asyncio.sleep(3600)
    return Silence()
