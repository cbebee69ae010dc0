"""The images' origin: another port, as the service's pictures come from another host. It must never see a key."""

import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from flux_cli.sandbox.access import FAULT, TASK, guarded
from flux_cli.sandbox.asked import Asked
from flux_cli.sandbox.faults import Stage
from flux_cli.sandbox.service import Service
from flux_cli.sandbox.tasks import FileFormat, file_format
from flux_cli.sandbox.wire import hang, html_page, json_answer, raw, refuse_with, reset, trickle

HUGE_IMAGE_BYTES = 300 * 1024 * 1024
_CHUNK = 256 * 1024

EXPIRED = '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>\n'
LEAKED = "a key was sent to the images' origin: the API's key belongs to the API's origin only\n"
_USUAL_HEADERS = ("host", "accept", "accept-encoding", "user-agent", "connection")


@dataclass(frozen=True)
class Download:
    """A picture that is asked for: its bytes, what they are called, and the faults that it meets."""

    request: web.Request
    picture: bytes
    format: FileFormat
    asked: Asked
    fault: str

    @property
    def half(self) -> bytes:
        """The first half of the bytes."""
        return self.picture[: len(self.picture) // 2]


class Cdn:
    """The handlers of one server's images' origin."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(middlewares=[guarded(self._service.settings.log)])
        application.router.add_get("/{name}.{extension}", self._picture)
        application.router.add_route("*", "/{anything:.*}", self._nothing)
        return application

    def _leaks(self, request: web.Request) -> bool:
        """Count, and say loudly, when a request carries a key: in its Authorization header or anywhere else."""
        elsewhere = [value for name, value in request.headers.items() if name.lower() not in _USUAL_HEADERS]
        if "Authorization" not in request.headers and not self._service.holds_key([request.raw_path, *elsewhere]):
            return False
        self._service.stats.leaked_keys += 1
        self._service.settings.log(f"WARNING: {LEAKED.strip()}; {request.method} was answered with 400")
        return True

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=LEAKED, status=400) if self._leaks(request) else _missing()

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.images += 1
        if self._leaks(request):
            return web.Response(text=LEAKED, status=400)
        task_id = request.match_info["name"].removesuffix("-original")
        submission = await self._service.find(task_id)
        if submission is None:
            return _missing()
        request[TASK] = task_id
        asked = self._service.asked(submission)
        if not self._service.has_picture(submission):
            return _missing()
        if "expired-url" in asked and request.query.get("fresh") != "1":
            self._service.expire(submission)
            return web.Response(text=EXPIRED, status=403, content_type="application/xml")
        fault = None
        if "again" not in request.query:
            fault = self._service.occurrences.next(task_id, asked, Stage.IMAGE, MANNERS)
        sent_as = file_format(asked)
        is_original = request.match_info["name"] != task_id
        picture = await self._service.darkroom.picture(submission, is_original, sent_as.pillow)
        if fault is None:
            return web.Response(body=picture, content_type=sent_as.mime)
        request[FAULT] = fault[0]
        return await MANNERS[fault[0]](Download(request, picture, sent_as, asked, fault[0]))


def _missing() -> web.Response:
    return web.Response(text="no such picture\n", status=404)


async def _http(download: Download) -> web.StreamResponse:
    return refuse_with(int(download.asked.text(download.fault, "CODE")))


async def _html(_: Download) -> web.StreamResponse:
    return html_page(200)


async def _json(_: Download) -> web.StreamResponse:
    return json_answer({"message": "the picture is not here"})


async def _empty(download: Download) -> web.StreamResponse:
    return web.Response(body=b"", content_type=download.format.mime)


async def _reset(download: Download) -> web.StreamResponse:
    raw(download.request, _headers(download, len(download.picture)), download.half)
    return reset(download.request)


async def _cut(download: Download) -> web.StreamResponse:
    return raw(download.request, _headers(download, len(download.picture)), download.half)


async def _short_length(download: Download) -> web.StreamResponse:
    return raw(download.request, _headers(download, len(download.half)), download.half)


async def _no_length(download: Download) -> web.StreamResponse:
    return raw(download.request, _headers(download), download.picture)


async def _cut_no_length(download: Download) -> web.StreamResponse:
    return raw(download.request, _headers(download), download.half)


async def _chunked(download: Download) -> web.StreamResponse:
    response = web.StreamResponse(headers=_headers(download))
    response.enable_chunked_encoding()
    await response.prepare(download.request)
    for start in range(0, len(download.picture), 16 * 1024):
        await response.write(download.picture[start : start + 16 * 1024])
    return response


async def _cut_chunked(download: Download) -> web.StreamResponse:
    chunk = f"{len(download.half):x}\r\n".encode() + download.half + b"\r\n"
    return raw(download.request, _headers(download) | {"Transfer-Encoding": "chunked"}, chunk)


async def _gzip(download: Download) -> web.StreamResponse:
    return web.Response(
        body=gzip.compress(download.picture, 1), headers=_headers(download) | {"Content-Encoding": "gzip"}
    )


async def _cut_gzip(download: Download) -> web.StreamResponse:
    compressed = gzip.compress(download.picture, 1)
    half = compressed[: len(compressed) // 2]
    return raw(download.request, _headers(download, len(half)) | {"Content-Encoding": "gzip"}, half)


async def _trickle(download: Download) -> web.StreamResponse:
    return await trickle(download.request, download.picture, download.format.mime)


async def _hang(download: Download) -> web.StreamResponse:
    response = web.StreamResponse(headers=_headers(download, len(download.picture)))
    await response.prepare(download.request)
    await response.write(download.half)
    return await hang()


async def _huge(download: Download) -> web.StreamResponse:
    response = web.StreamResponse(headers=_headers(download, HUGE_IMAGE_BYTES))
    await response.prepare(download.request)
    await response.write(download.half.ljust(_CHUNK, b"\x00")[:_CHUNK])
    for _ in range(HUGE_IMAGE_BYTES // _CHUNK - 1):
        await response.write(bytes(_CHUNK))
    return response


async def _redirect(download: Download) -> web.StreamResponse:
    url = download.asked.argument(download.fault, "URL") or f"{download.request.path}?again=1"
    return web.Response(status=302, headers={"Location": str(url)})


async def _redirect_loop(download: Download) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": download.request.path})


def _headers(download: Download, length: int | None = None) -> dict[str, str]:
    headers = {"Content-Type": download.format.mime}
    return headers if length is None else headers | {"Content-Length": str(length)}


MANNERS: Mapping[str, Callable[[Download], Awaitable[web.StreamResponse]]] = {
    "image-http": _http,
    "html-image": _html,
    "json-image": _json,
    "empty-image": _empty,
    "image-reset": _reset,
    "cut-download": _cut,
    "short-length": _short_length,
    "no-length": _no_length,
    "cut-no-length": _cut_no_length,
    "chunked": _chunked,
    "cut-chunked": _cut_chunked,
    "gzip": _gzip,
    "cut-gzip": _cut_gzip,
    "image-trickle": _trickle,
    "image-hang": _hang,
    "huge-image": _huge,
    "image-redirect": _redirect,
    "redirect-loop": _redirect_loop,
}
