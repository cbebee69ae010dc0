"""The HTTP server for webhooks, in its own thread. It uses aiohttp, since `http.server` blocks on idle sockets.

Each connection has one request and one time limit, and the number of connections is limited, so idle and slow
senders block nothing. Requests are rejected as early as possible.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from flux_cli.errors import ServiceDownError, UsageError, os_reason
from flux_cli.webhooks.event import MAX_BODY_BYTES, PATH, WebhookEvent, read_event
from flux_cli.webhooks.secret import SECRET_HEADER, is_secret

if TYPE_CHECKING:
    from flux_cli.webhooks.bridge import Bridge

REQUEST_SECONDS = 10.0
LINGER_SECONDS = 2.0
"""How long to keep reading a rejected body, so that the sender receives the response."""
MAX_CONNECTIONS = 256
"""Another one closes the oldest. A thousand idle ones would use up the file descriptors that downloads need."""
BACKLOG = 1024
"""Connections that wait in the system to be accepted."""
ACCEPTS_PER_TURN = 16
"""How many connections are accepted before accepted ones are read; a burst would otherwise exceed the limit."""

TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_SILENT = logging.Logger("flux_cli.webhooks.receiver", logging.CRITICAL + 1)
"""Discards aiohttp's messages about requests that are not HTTP: the sender gets a 400."""


class RejectedRequestError(Exception):
    """The response to a request is not 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@contextmanager
def receiving(
    host: str, port: int, secret: str | None, bridge: "Bridge", seconds: float = REQUEST_SECONDS
) -> Iterator[str]:
    """Receive webhooks in a daemon thread until the block ends; yield the local URL.

    Port 0 picks a free one. `secret` is the required value of the header; None accepts any request. `bridge` is
    called in the server's thread. A request has `seconds` to arrive, from the start of its connection.

    Raises:
        UsageError: The port is in use, or the host is not this machine.
    """
    try:
        listening = _bound(host, port)
    except OSError as error:
        reason = os_reason(error).partition(" (")[0]  # Python appends the address
        raise UsageError(
            f"cannot listen on port {port} of {host}: {reason}", "try another --port or --host"
        ) from None
    url = _url(listening)
    thread = _ServerThread(listening, secret, bridge, seconds)
    try:
        thread.start()
    except RuntimeError as error:
        listening.close()
        raise ServiceDownError(f"cannot start the receiver: {error}", "raise the limit on processes") from None
    try:
        yield url
    finally:
        thread.stop()


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


class _ServerThread(threading.Thread):
    """Serves until `stop` is called. A daemon, so that it does not keep the interpreter alive."""

    def __init__(self, listening: socket.socket, secret: str | None, bridge: "Bridge", seconds: float) -> None:
        super().__init__(name="webhooks", daemon=True)
        self._listening = listening
        self._secret = secret
        self._bridge = bridge
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._open: dict[_Connection, None] = {}

    def stop(self) -> None:
        """Stop the server and wait for its end, at most `LINGER_SECONDS`."""
        try:
            self._loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:  # the loop has already ended
            return
        self.join(LINGER_SECONDS)

    def run(self) -> None:
        """Serve, until `stop` is called."""
        self._loop.set_exception_handler(self._report)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            self._bridge.failed(error)

    async def _serve(self) -> None:
        server = web.Server(self._respond)

        def connection() -> _Connection:
            return _Connection(server, self._loop, self._open, self._bridge, self._seconds)

        # asyncio's backlog is both the system's and the number of connections that it accepts in one turn.
        listening = await self._loop.create_server(connection, sock=self._listening, backlog=ACCEPTS_PER_TURN)
        self._listening.listen(BACKLOG)
        await self._ended.wait()
        listening.close()
        await server.shutdown(timeout=0.1)

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an exception outside of the handlers (mostly: out of file descriptors) and continue."""
        self._bridge.rejected(503, str(context.get("exception") or context.get("message")))

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            event = await self._receive(request)
            if not self._bridge.deliver(event):
                raise RejectedRequestError(503, "busy, try later")
            response = web.Response(text="accepted\n")
        except RejectedRequestError as rejection:
            self._bridge.rejected(rejection.status, rejection.reason)
            response = web.Response(status=rejection.status, text=f"{rejection.reason}\n")
            if rejection.status == 405:
                response.headers["Allow"] = "POST"
        if isinstance(request.protocol, _Connection):
            request.protocol.responded = True
        response.headers["Connection"] = "close"
        response.force_close()
        return response

    async def _receive(self, request: web.BaseRequest) -> WebhookEvent:
        """Return the event in a request; everything else is checked before the body is read."""
        if request.path != PATH:
            raise RejectedRequestError(404, f"not found; post to {PATH}")
        if request.method != "POST":
            raise RejectedRequestError(405, "use POST")
        given = request.headers.getall(SECRET_HEADER, [])
        if self._secret is not None and not is_secret(given, self._secret):
            raise RejectedRequestError(401, f"the {SECRET_HEADER} header is wrong or missing")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RejectedRequestError(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise RejectedRequestError(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB")
        try:
            return read_event(bytes(body))
        except ValueError as error:
            raise RejectedRequestError(400, str(error)) from None


class _Connection(web.RequestHandler):
    """A connection that is closed after its response, at its time limit, or if it is the oldest of too many."""

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        connections: "dict[_Connection, None]",
        bridge: "Bridge",
        seconds: float,
    ) -> None:
        # A compressed body is rejected as not JSON: a few kilobytes could become gigabytes.
        super().__init__(
            server,
            loop=loop,
            logger=_SILENT,
            access_log=None,  # type: ignore[arg-type] # what aiohttp's own runner passes for none
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self.responded = False
        self._all = connections
        self._expiry: asyncio.TimerHandle | None = None
        self._bridge = bridge
        self._seconds = seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit, and close the oldest connection if there are too many."""
        super().connection_made(transport)
        self._expiry = self._loop.call_later(self._seconds, self._expire)
        self._all[self] = None
        if len(self._all) > MAX_CONNECTIONS:
            next(iter(self._all))._expire()
            self._bridge.rejected(408, f"more than {MAX_CONNECTIONS} connections at once; closed the oldest")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the time limit."""
        super().connection_lost(exc)
        self._all.pop(self, None)
        if self._expiry:
            self._expiry.cancel()

    def _expire(self) -> None:
        """Close at once, with a 408 if there was no response yet."""
        self._all.pop(self, None)
        if self.transport is not None and not self.responded:
            self.transport.write(TOO_SLOW)
        self.force_close()
