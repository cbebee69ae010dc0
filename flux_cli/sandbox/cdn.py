"""The images' origin: another port, as the service's images are on another host. No key must be sent to it."""

import hashlib
import time

from aiohttp import web

from flux_cli.sandbox.faults import Stage
from flux_cli.sandbox.formats import file_format
from flux_cli.sandbox.injection import inject
from flux_cli.sandbox.responses import TASK, logged
from flux_cli.sandbox.service import SandboxService

EXPIRED = '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>\n'
LEAKED = "a key was sent to the images' origin: the API's key belongs to the API's origin only\n"
MISSING = "no such picture\n"
AGAIN = (None, "1", "größe")
"""The values of `again` in the URLs of redirects; any other comes from a wrongly decoded `Location`."""
_USUAL_HEADERS = ("host", "accept", "accept-encoding", "user-agent", "connection", "range", "if-range")


class Cdn:
    """The handlers of one server's images' origin."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(middlewares=[logged(self._service.log)])
        application.router.add_get("/{name}.{extension}", self.picture)
        application.router.add_route("*", "/{anything:.*}", self._not_found)
        return application

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """Return a picture, altered by a fault if there is one."""
        self._service.stats.images += 1
        if self._leaks(request):
            return web.Response(text=LEAKED, status=400)
        name = request.match_info["name"]
        task_id = name.removesuffix("-original")
        again = request.query.get("again")
        task = self._service.store.find(task_id)
        if task is None or not task.has_picture(time.time()) or again not in AGAIN:
            return web.Response(text=MISSING, status=404)
        request[TASK] = task_id
        if "expired-url" in task.faults and request.query.get("fresh") != "1":
            self._service.expired[task_id] = None
            return web.Response(text=EXPIRED, status=403, content_type="application/xml")
        fault = None if again else self._service.counter.next(task_id, task.faults, Stage.IMAGE)
        content = await self._service.picture(task, original=name != task_id)
        response = ranged_response(request, content, file_format(task.faults).content_type)
        return await inject(request, response, fault, f"{request.path}?again=1", content)

    async def _not_found(self, request: web.Request) -> web.StreamResponse:
        return (
            web.Response(text=LEAKED, status=400)
            if self._leaks(request)
            else web.Response(text=MISSING, status=404)
        )

    def _leaks(self, request: web.Request) -> bool:
        """Count and log a request that contains a key, in its Authorization header or anywhere else."""
        texts = [value for name, value in request.headers.items() if name.lower() not in _USUAL_HEADERS]
        if "Authorization" not in request.headers and not self._service.contains_key([request.raw_path, *texts]):
            return False
        self._service.stats.leaked_keys += 1
        self._service.log(f"WARNING: {LEAKED.strip()}; {request.method} got a 400")
        return True


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
