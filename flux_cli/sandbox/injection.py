"""Fault injection: the handlers that alter a response, one per `kind` in the table of faults."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import cast

from aiohttp import web

from flux_cli.sandbox.faults import Fault, FaultSet, Stage
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.responses import (
    TRICKLE_SECONDS,
    NoResponse,
    error_response,
    hang,
    html_page,
    json_response,
    raw_response,
    repeat,
    reset,
)
from flux_cli.sandbox.tasks import reason_in

HUGE_JSON_BYTES = 64 * 1024 * 1024
HUGE_IMAGE_BYTES = 300 * 1024 * 1024
DEPTH = 100_000
MAX_COUNTS = 10_000
JSON = "application/json"
_CHUNK = 256 * 1024


class FaultCounter:
    """Counts how often each fault happened per subject: a task, or for submissions a prompt."""

    def __init__(self) -> None:
        self._counts: Recent[tuple[str, str], int] = Recent(MAX_COUNTS)

    def next(
        self, subject: str, faults: FaultSet, stage: Stage, also: tuple[str, ...] = ()
    ) -> tuple[Fault, int] | None:
        """Count and return the fault that happens now, and how often it happened before; None for no fault.

        It is the first in the table that has a handler, or is in `also`, and has not happened TIMES times. After
        the last fault of a submission the counts are reset, so that the same prompt can be used again.
        """
        candidates = [fault for fault in faults.at(stage) if fault.kind or fault.name in also]
        for fault in candidates:
            default = "1" if fault.kind == "rate-limit" else "inf"
            count = self._counts.get((subject, fault.name), 0)
            if count < float(faults.argument(fault.name, "TIMES", default)):
                self._counts[subject, fault.name] = count + 1
                return fault, count
        if stage is Stage.SUBMISSION:
            for fault in candidates:
                self._counts.pop((subject, fault.name), None)
        return None


@dataclass(frozen=True)
class Injection:
    """A response to alter.

    Attributes:
        request: The request.
        response: The response without the fault.
        faults: All faults, for the arguments.
        fault: The one that happens.
        count: How often it happened before.
        location: The default target of a redirect.
        file: The whole file; the response may be a range of it.
    """

    request: web.Request
    response: web.Response
    faults: FaultSet
    fault: Fault
    count: int
    location: str
    file: bytes = b""

    def argument(self, name: str, default: str = "") -> str:
        """Return an argument of the fault."""
        return self.faults.argument(self.fault.name, name, default)

    @property
    def body(self) -> bytes:
        """The body without the fault."""
        return cast(bytes, self.response.body or b"")

    @property
    def half(self) -> bytes:
        """The first half of the body."""
        return self.body[: len(self.body) // 2]

    def headers(self, length: int | None = None, **headers: str) -> dict[str, str]:
        """Return the header without the fault, with another Content-Length or none."""
        usual = {"Content-Type": self.response.content_type, **self.response.headers}
        usual.pop("Content-Length", None)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return usual | more | ({} if length is None else {"Content-Length": str(length)})

    def raw(self, body: bytes, length: int | None = None, **headers: str) -> NoResponse:
        """Return a raw response with this body and Content-Length."""
        return raw_response(self.request, self.headers(length, **headers), body, self.response.status)

    def altered(self, body: bytes) -> web.Response:
        """Return the response with another body."""
        return web.Response(body=body, status=self.response.status, headers=self.headers())


Outcome = web.StreamResponse | Coroutine[None, None, web.StreamResponse]


async def inject(injection: Injection) -> web.StreamResponse:
    """Return the altered response."""
    outcome = HANDLERS[injection.fault.kind](injection)
    return outcome if isinstance(outcome, web.StreamResponse) else await outcome


def _http(injection: Injection) -> web.StreamResponse:
    status = int(injection.argument("CODE"))
    if status in (204, 205, 304):
        return web.Response(status=status)
    if status < 300:
        injection.response.set_status(status)
        return injection.response
    if status >= 502:
        return html_page(status)
    headers = {"Location": injection.location} if status < 400 else {}
    return error_response(status, f"the prompt asked for status {status}", headers=headers)


def _redirect(status: int, url: str) -> web.StreamResponse:
    return web.Response(status=status, headers={"Location": url})


def _rate_limit(injection: Injection) -> web.StreamResponse:
    after = injection.argument("RETRY-AFTER", "1")
    if after == "date":
        after = formatdate(time() + 1, usegmt=True)
    return error_response(429, "too many requests", headers={} if after == "none" else {"Retry-After": after})


def _rejected(injection: Injection) -> web.StreamResponse:
    return json_response(reason_in(injection.argument("FIELD", "error"), "the prompt asked for this rejection"))


def _json_text(text: str) -> web.StreamResponse:
    return web.Response(text=text, content_type=JSON)


def _charset(injection: Injection) -> web.StreamResponse:
    charset = injection.argument("CHARSET")
    text = json.dumps(json.loads(injection.body), ensure_ascii=False)
    headers = {"Content-Type": f"{JSON}; charset={charset}"}
    return web.Response(body=text.encode(charset, "backslashreplace"), headers=headers)


def _nested(injection: Injection) -> web.StreamResponse:
    return injection.altered(
        b"{%b: %b}" % (json.dumps(injection.argument("KEY", "data")).encode(), injection.body)
    )


def _padded(injection: Injection) -> web.StreamResponse:
    return injection.altered(b"<!-- gateway -->\n" + injection.body + b"\n<!-- 12 ms -->\n")


def _reset_halfway(injection: Injection) -> web.StreamResponse:
    injection.raw(injection.half, len(injection.body))
    return reset(injection.request)


async def _hang_halfway(injection: Injection) -> web.StreamResponse:
    injection.raw(injection.half, len(injection.body))
    return await hang()


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
    body, middle = injection.body, len(injection.body) // 2
    return injection.altered(
        body[:middle] + bytes(byte ^ 0xFF for byte in body[middle : middle + 1]) + body[middle + 1 :]
    )


def _early_hints(injection: Injection) -> web.StreamResponse:
    if injection.request.transport is not None:
        injection.request.transport.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    return injection.response


async def _slow_header(injection: Injection) -> web.StreamResponse:
    if injection.request.transport is not None:
        injection.request.transport.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    return await repeat(injection.request, b"x", TRICKLE_SECONDS)


async def _trickle(injection: Injection) -> web.StreamResponse:
    body = b" " * 100_000 if injection.response.content_type == JSON else injection.body
    response = web.StreamResponse(headers=injection.headers(len(body)))
    await response.prepare(injection.request)
    for index in range(len(body)):
        await response.write(body[index : index + 1])
        await asyncio.sleep(TRICKLE_SECONDS)
    return response


async def _huge(injection: Injection, start: bytes, size: int, end: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers=injection.headers(size))
    await response.prepare(injection.request)
    await response.write(start)
    for left in range(size - len(start) - len(end), 0, -_CHUNK):
        await response.write(b"x" * min(left, _CHUNK))
    await response.write(end)
    return response


async def _chunked(injection: Injection) -> web.StreamResponse:
    response = web.StreamResponse(status=injection.response.status, headers=injection.headers())
    response.enable_chunked_encoding()
    await response.prepare(injection.request)
    for start in range(0, len(injection.body), 16 * 1024):
        await response.write(injection.body[start : start + 16 * 1024])
    return response


def _cut_chunked(injection: Injection) -> web.StreamResponse:
    return injection.raw(b"%x\r\n%b\r\n" % (len(injection.half), injection.half), Transfer_Encoding="chunked")


def _flaky(injection: Injection) -> Outcome:
    handlers: tuple[FaultHandler, ...] = (
        lambda _: html_page(503),
        HANDLERS["reset"],
        _rate_limit,
        HANDLERS["html"],
        lambda _: error_response(500),
        HANDLERS["cut-json"],
        lambda _: html_page(504),
    )
    return handlers[injection.count % len(handlers)](injection)


FaultHandler = Callable[[Injection], Outcome]

HANDLERS: Mapping[str, FaultHandler] = {
    "http": _http,
    "html": lambda _: html_page(200),
    "reset": lambda injection: reset(injection.request),
    "lost-reply": lambda _: NoResponse(),
    "empty": lambda injection: web.Response(body=b"", content_type=injection.response.content_type),
    "truncated-json": lambda injection: injection.raw(injection.half, len(injection.half)),
    "cut-json": lambda injection: injection.raw(injection.half, len(injection.body)),
    "json": lambda injection: _json_text(injection.argument("JSON")),
    "nested": _nested,
    "padded-json": _padded,
    "charset": _charset,
    "redirect": lambda injection: _redirect(307, injection.argument("URL", injection.location)),
    "rate-limit": _rate_limit,
    "early-hints": _early_hints,
    "endless-continue": lambda injection: repeat(injection.request, b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "slow-header": _slow_header,
    "trickle": _trickle,
    "hang": lambda _: hang(),
    "huge-answer": lambda injection: _huge(
        injection, injection.body[:-1] + b', "padding": "', HUGE_JSON_BYTES, b'"}'
    ),
    "deep-json": lambda _: _json_text("[" * DEPTH + "]" * DEPTH),
    "rejected": _rejected,
    "flaky": _flaky,
    "json-image": lambda _: json_response({"message": "the picture is not here"}),
    "reset-halfway": _reset_halfway,
    "no-length": lambda injection: injection.raw(injection.body),
    "cut-no-length": lambda injection: injection.raw(injection.half),
    "chunked": _chunked,
    "cut-chunked": _cut_chunked,
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
    "hang-halfway": _hang_halfway,
    "huge-image": lambda injection: _huge(injection, injection.half[:_CHUNK], HUGE_IMAGE_BYTES, b""),
    "image-redirect": lambda injection: _redirect(302, injection.argument("URL", injection.location)),
    "utf8-redirect": lambda injection: _redirect(302, f"{injection.request.path}?again=größe"),
    "redirect-loop": lambda injection: _redirect(302, injection.request.path),
}
"""The handler of each `kind`."""
