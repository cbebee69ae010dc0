"""The HTTP server: two listening sockets, served by a thread."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from aiohttp import web

from flux_cli.errors import UsageError, os_reason
from flux_cli.sandbox.api import Api
from flux_cli.sandbox.cdn import Cdn
from flux_cli.sandbox.service import SandboxService
from flux_cli.sandbox.webhooks import WebhookSender

IDLE_SECONDS = 60.0
"""A connection that sends nothing, or an incomplete request, is closed after this time."""
BACKLOG = 1024
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
"""The addresses that mean all addresses of this machine, and one of those."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 picks a free one.

    Raises:
        UsageError: The port is in use, or the host is not this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        reason = reason.partition(" (")[0]  # Python appends the address
        where = f"port {port} of {host}" if port else host
        raise UsageError(f"cannot listen on {where}: {reason}", "try another --port") from error


def url_of(listening: socket.socket) -> str:
    """Return the URL of a listening socket, without a slash at the end."""
    host, port = listening.getsockname()[:2]
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Running(threading.Thread):
    """A running server, until `stop` is called. A daemon, so that it does not keep the interpreter alive.

    Attributes:
        url: The API's origin, without a slash at the end.
        images_url: The images' origin: another port, to which no key must be sent.
        stats: Its counts so far; they are updated while it runs.
    """

    def __init__(self, service: SandboxService, api: socket.socket, images: socket.socket) -> None:
        super().__init__(name="sandbox", daemon=True)
        self.url, self.images_url, self.stats = url_of(api), service.images_url, service.stats
        self._service = service
        self._sockets = (api, images)
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._failure: Exception | None = None
        # `join` cannot be used: if a signal handler raises in it, Python 3.11 considers the running thread dead,
        # and the interpreter exits while it runs.
        self._ended = threading.Event()

    def wait(self) -> None:
        """Wait until a signal handler raises, or the server fails; then raise its error."""
        while not self._ended.wait(0.5):  # Windows cannot interrupt a wait without a timeout
            pass
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop the server and wait for its end, at most 5 s."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._ended.wait(5)

    def run(self) -> None:
        """Serve until `stop` is called."""
        log = self._service.log
        self._loop.set_exception_handler(  # mostly: out of file descriptors; it continues
            lambda _, context: log(f"note: {context.get('message')}: {context.get('exception')!r}")
        )
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            self._failure = error
        finally:
            for each in self._sockets:
                each.close()  # otherwise clients would connect and wait forever
            self._ended.set()

    async def _serve(self) -> None:
        runners = [
            web.AppRunner(
                application,
                access_log=None,
                logger=_Logger(self._service.log),
                keepalive_timeout=IDLE_SECONDS,
                shutdown_timeout=0.01,
                handler_cancellation=True,
            )
            for application in (Api(self._service).application(), Cdn(self._service).application())
        ]
        for runner, listening in zip(runners, self._sockets, strict=True):
            await runner.setup()
            await web.SockSite(runner, listening, backlog=BACKLOG).start()
        sending = asyncio.create_task(WebhookSender(self._service).run())
        try:
            await self._stopped.wait()
        finally:
            sending.cancel()
            await asyncio.gather(*(runner.cleanup() for runner in runners), sending, return_exceptions=True)
            self._service.close()


class _Logger(logging.Logger):
    """Logs aiohttp's messages about requests that are not HTTP: one line each, without a traceback."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__("flux_cli.sandbox", logging.WARNING)
        self._log_line = log

    def handle(self, record: logging.LogRecord) -> None:
        """Write a line."""
        error = record.exc_info[1] if record.exc_info else None
        self._log_line(f"note: {record.getMessage()}" + (f": {type(error).__name__}" if error else ""))
