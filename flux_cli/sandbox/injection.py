"""Fault injection: which fault happens, and the handlers that alter a response."""

import asyncio
import gzip
import json
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import cast

from aiohttp import web

from flux_cli.sandbox.faults import FAULTS, Faults, Stage
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.responses import FAULT, NoResponse, error_response, json_response
from flux_cli.sandbox.tasks import reason_in

DEPTH = 100_000
TRICKLE_SECONDS = 0.2
MAX_COUNTS = 10_000
JSON = "application/json"
_CHUNK = 256 * 1024
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_GATEWAY_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>{0} {1}</title></head>\n"
    "<body><center><h1>{0} {1}</h1></center><hr><center>sandbox</center></body></html>\n"
)


@dataclass(frozen=True)
class Occurrence:
    """A fault that happens now: its name, its arguments by name, and how often it has happened before."""

    name: str
    arguments: Mapping[str, str]
    count: int

    @property
    def is_rejection(self) -> bool:
        """Whether a submission with this fault is neither accepted nor charged."""
        if self.name != "http":
            return self.name in ("rate-limit", "rejected", "redirect")
        code = int(self.arguments["CODE"])
        return code in (301, 302, 307, 308) or (400 <= code < 500 and code not in (408, 409, 425))


class FaultCounter:
    """Counts how often each fault happened per subject: a task, or for submissions a prompt."""

    def __init__(self) -> None:
        self._counts: Recent[tuple[str, str], int] = Recent(MAX_COUNTS)

    def next(self, subject: str, faults: Faults, stage: Stage, also: str = "") -> Occurrence | None:
        """Count and return the fault that happens now, if any.

        It is the first in the table that has a handler, or is `also`, and has not happened TIMES times. After the
        last fault of a submission the counts are reset, so that the same prompt can be used again.
        """
        altering = (name for name in FAULTS if name in faults and (name in HANDLERS or name == also))
        candidates = [name for name in altering if FAULTS[name].stage is stage]
        for name in candidates:
            arguments = FAULTS[name].arguments(faults[name])
            count = self._counts.get((subject, name), 0)
            if count < float(arguments.get("TIMES", "1" if name.endswith("rate-limit") else "inf")):
                self._counts[subject, name] = count + 1
                return Occurrence(name, arguments, count)
        if stage is Stage.SUBMISSION:
            for name in candidates:
                self._counts.pop((subject, name), None)
        return None


@dataclass(frozen=True)
class Injection:
    """A response to alter. `location` is the default target of a redirect; a download may be a range of `file`."""

    request: web.Request
    response: web.Response
    fault: Occurrence
    location: str
    file: bytes = b""

    def argument(self, name: str, default: str = "") -> str:
        """Return an argument of the fault."""
        return self.fault.arguments.get(name, default)

    @property
    def body(self) -> bytes:
        """The body without the fault."""
        return cast(bytes, self.response.body or b"")

    @property
    def half(self) -> bytes:
        """The first half of the body."""
        return self.body[: len(self.body) // 2]

    def write(self, content: bytes) -> None:
        """Write bytes to the connection, which need not be HTTP, unless the client has disconnected."""
        if self.request.transport is not None:
            self.request.transport.write(content)

    def raw(self, body: bytes, length: int | None = None, **headers: str) -> NoResponse:
        """Write header and body unchanged, even if they contradict each other, and close the connection."""
        fields = {**self.response.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if length is not None:
            fields["Content-Length"] = str(length)
        lines = [f"HTTP/1.1 {self.response.status} {self.response.reason}", *map(": ".join, fields.items())]
        self.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        return NoResponse()

    def altered(self, body: bytes) -> web.Response:
        """Return the response with another body."""
        return web.Response(body=body, status=self.response.status, headers=self.response.headers)

    async def stream(
        self, pieces: Iterable[bytes], length: int | None = None, pause: float = 0.0
    ) -> web.StreamResponse:
        """Send a body piece by piece, with a Content-Length or in chunks."""
        response = web.StreamResponse(status=self.response.status, headers=self.response.headers)
        if length is None:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        await response.prepare(self.request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause)
        return response

    async def repeat(self, part: bytes, seconds: float) -> NoResponse:
        """Write a part at this interval until the client disconnects."""
        while self.request.transport is not None and not self.request.transport.is_closing():
            self.write(part)
            await asyncio.sleep(seconds)
        return NoResponse()


Outcome = web.StreamResponse | Coroutine[None, None, web.StreamResponse]
FaultHandler = Callable[[Injection], Outcome]


async def inject(
    request: web.Request, response: web.Response, fault: Occurrence | None, location: str, file: bytes = b""
) -> web.StreamResponse:
    """Return a response, altered by the fault if there is one. The arguments are those of `Injection`."""
    if fault is None:
        return response
    request[FAULT] = fault.name
    outcome = HANDLERS[fault.name](Injection(request, response, fault, location, file))
    return outcome if isinstance(outcome, web.StreamResponse) else await outcome


def _http(injection: Injection) -> web.StreamResponse:
    status = int(injection.argument("CODE"))
    if status in (204, 205, 304):
        return web.Response(status=status)
    if status < 300:
        injection.response.set_status(status)
        return injection.response
    if status >= 502:
        return _html(status)
    headers = {"Location": injection.location} if status < 400 else {}
    return error_response(status, f"the prompt asked for status {status}", headers=headers)


def _html(status: int) -> web.Response:
    """Return an HTML page like that of a gateway."""
    response = web.Response(status=status, content_type="text/html")
    response.text = _GATEWAY_PAGE.format(status, response.reason)
    return response


def _redirect(status: int, url: str) -> web.StreamResponse:
    return web.Response(status=status, headers={"Location": url})


def _rate_limit(injection: Injection) -> web.StreamResponse:
    after = injection.argument("RETRY-AFTER", "1")
    if after == "date":
        after = formatdate(time() + 1, usegmt=True)
    return error_response(429, "too many requests", headers={} if after == "none" else {"Retry-After": after})


def _charset(injection: Injection) -> web.StreamResponse:
    charset = injection.argument("CHARSET")
    text = json.dumps(json.loads(injection.body), ensure_ascii=False)
    headers = {"Content-Type": f"{JSON}; charset={charset}"}
    return web.Response(body=text.encode(charset, "backslashreplace"), headers=headers)


def _reset(injection: Injection, halfway: bool = False) -> web.StreamResponse:
    """Reset the connection: the client sees ECONNRESET, not an orderly end."""
    if halfway:
        injection.raw(injection.half, len(injection.body))
    if injection.request.transport is not None:
        connection = injection.request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        injection.request.transport.abort()
    return NoResponse()


async def _hang(injection: Injection, halfway: bool = False) -> web.StreamResponse:
    """Send nothing for an hour; the handler is cancelled when the client disconnects."""
    if halfway:
        injection.raw(injection.half, len(injection.body))
    await asyncio.sleep(3600)
    return NoResponse()


def _gzip(injection: Injection, share: int = 1) -> web.StreamResponse:
    body = gzip.compress(injection.body, 1)
    body = body[: len(body) // share]
    return injection.raw(body, len(body), Content_Encoding="gzip")


def _wrong_range(injection: Injection) -> web.StreamResponse:
    is_range = injection.response.status == 206
    return injection.altered(injection.file[: len(injection.body)]) if is_range else injection.response


def _changed_file(injection: Injection) -> web.StreamResponse:
    """Return a PNG with one more chunk after its header, which every reader skips."""
    content = b"version 2"
    chunk = len(content).to_bytes(4) + b"prVt" + content + zlib.crc32(b"prVt" + content).to_bytes(4)
    end = len(b"\x89PNG\r\n\x1a\n") + 4 + 4 + 13 + 4
    body = injection.file[:end] + chunk + injection.file[end:]
    return web.Response(body=body, content_type=injection.response.content_type, headers={"ETag": '"version-2"'})


def _damaged(injection: Injection) -> web.StreamResponse:
    half = injection.half
    wrong, rest = injection.body[len(half) : len(half) + 1], injection.body[len(half) + 1 :]
    return injection.altered(half + bytes(byte ^ 0xFF for byte in wrong) + rest)


def _early_hints(injection: Injection) -> web.StreamResponse:
    injection.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    return injection.response


async def _slow_header(injection: Injection) -> web.StreamResponse:
    injection.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    return await injection.repeat(b"x", TRICKLE_SECONDS)


def _trickle(injection: Injection) -> Outcome:
    body = b" " * 100_000 if injection.response.content_type == JSON else injection.body
    return injection.stream(_pieces(body, 1), len(body), TRICKLE_SECONDS)


def _pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def _huge(injection: Injection, start: bytes, size: int, end: bytes = b"") -> Outcome:
    times, rest = divmod(size - len(start) - len(end), _CHUNK)
    return injection.stream([start, *[b"x" * _CHUNK] * times, b"x" * rest, end], size)


_FLAKY: tuple[FaultHandler, ...] = (
    lambda _: _html(503),
    _reset,
    _rate_limit,
    lambda _: _html(200),
    lambda _: error_response(500),
    lambda injection: injection.raw(injection.half, len(injection.body)),
    lambda _: _html(504),
)
_HANDLERS: Mapping[str, FaultHandler] = {
    "http": _http,
    "html": lambda _: _html(200),
    "reset": _reset,
    "lost-reply": lambda _: NoResponse(),
    "empty": lambda injection: web.Response(body=b"", content_type=injection.response.content_type),
    "truncated-json": lambda injection: injection.raw(injection.half, len(injection.half)),
    "cut-json": lambda injection: injection.raw(injection.half, len(injection.body)),
    "json": lambda injection: web.Response(text=injection.argument("JSON"), content_type=JSON),
    "nested": lambda injection: injection.altered(
        b"{%b: %b}" % (json.dumps(injection.argument("KEY", "data")).encode(), injection.body)
    ),
    "padded-json": lambda injection: injection.altered(
        b"<!-- gateway -->\n" + injection.body + b"\n<!-- 12 ms -->\n"
    ),
    "charset": _charset,
    "redirect": lambda injection: _redirect(307, injection.argument("URL", injection.location)),
    "rate-limit": _rate_limit,
    "early-hints": _early_hints,
    "endless-continue": lambda injection: injection.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "slow-header": _slow_header,
    "trickle": _trickle,
    "hang": _hang,
    "huge-answer": lambda injection: _huge(injection, injection.body[:-1] + b', "padding": "', 64 * 2**20, b'"}'),
    "deep-json": lambda _: web.Response(text="[" * DEPTH + "]" * DEPTH, content_type=JSON),
    "rejected": lambda injection: json_response(
        reason_in(injection.argument("FIELD", "error"), "the prompt asked for this rejection")
    ),
    "fetch-flaky": lambda injection: _FLAKY[injection.fault.count % len(_FLAKY)](injection),
    "html-image": lambda _: _html(200),
    "json-image": lambda _: json_response({"message": "the picture is not here"}),
    "empty-image": lambda injection: web.Response(body=b"", content_type=injection.response.content_type),
    "image-reset": lambda injection: _reset(injection, halfway=True),
    "cut-download": lambda injection: injection.raw(injection.half, len(injection.body)),
    "short-length": lambda injection: injection.raw(injection.half, len(injection.half)),
    "no-length": lambda injection: injection.raw(injection.body),
    "cut-no-length": lambda injection: injection.raw(injection.half),
    "chunked": lambda injection: injection.stream(_pieces(injection.body, 16 * 1024)),
    "cut-chunked": lambda injection: injection.raw(
        b"%x\r\n%b\r\n" % (len(injection.half), injection.half), Transfer_Encoding="chunked"
    ),
    "gzip": _gzip,
    "cut-gzip": lambda injection: _gzip(injection, 2),
    "content-encoding": lambda injection: injection.raw(
        injection.body, len(injection.body), Content_Encoding=injection.argument("CODING")
    ),
    "ignore-range": lambda injection: web.Response(
        body=injection.file, content_type=injection.response.content_type
    ),
    "wrong-range": _wrong_range,
    "changed-file": _changed_file,
    "damaged-image": _damaged,
    "trailing-data": lambda injection: injection.altered(injection.body + bytes(64 * 1024)),
    "image-hang": lambda injection: _hang(injection, halfway=True),
    "huge-image": lambda injection: _huge(injection, injection.half[:_CHUNK], 300 * 2**20),
    "image-redirect": lambda injection: _redirect(302, injection.argument("URL", injection.location)),
    "utf8-redirect": lambda injection: _redirect(302, f"{injection.request.path}?again=größe"),
    "redirect-loop": lambda injection: _redirect(302, injection.request.path),
}
"""A handler by the name of its fault, and of that fault with a prefix at another stage."""

HANDLERS: Mapping[str, FaultHandler] = {
    name: handler
    for name in FAULTS
    if (handler := _HANDLERS.get(name) or _HANDLERS.get(name.removeprefix("fetch-").removeprefix("image-")))
}
"""The handler of each fault that alters a response; the others change only the content."""
