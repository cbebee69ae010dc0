"""The HTTP server: two listening sockets, served by a thread."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

from flux_cli.errors import UsageError, os_reason
from flux_cli.sandbox.api import Api
from flux_cli.sandbox.cdn import Cdn
from flux_cli.sandbox.service import SandboxService, SandboxSettings
from flux_cli.sandbox.store import TaskStore
from flux_cli.sandbox.webhooks import WebhookSender

IDLE_SECONDS = 60.0
"""A connection that sends nothing, or an incomplete request, is closed after this time."""
BACKLOG = 1024
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
"""The addresses that mean all addresses of this machine, and one of those."""


def listen(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Listen on `port` for the API and on the next port for images; 0 picks two free ports.

    Raises:
        UsageError: A port is in use, or the host is not this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        api = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        try:
            images = socket.create_server((address[0], port + 1 if port else 0), family=family, backlog=BACKLOG)
        except OSError:
            api.close()
            raise
    except (OSError, UnicodeError) as error:
        ports = f"ports {port} and {port + 1}" if port else "a port"
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        reason = reason.partition(" (")[0]  # Python appends the address
        raise UsageError(f"cannot listen on {ports} of {host}: {reason}", "try another --port") from error
    return api, images


class Running(threading.Thread):
    """A running server, until `stop` is called. A daemon, so that it does not keep the interpreter alive.

    Attributes:
        url: The API's origin, without a slash at the end.
        images_url: The images' origin: another port, to which no key must be sent.
        stats: Its counts so far; they are updated while it runs.
    """

    def __init__(
        self, settings: SandboxSettings, store: TaskStore, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        super().__init__(name="sandbox", daemon=True)
        self.url, self.images_url = map(_url_of, sockets)
        any_address = sockets[1].getsockname()[0] in WILDCARDS
        self._service = SandboxService(settings, store, self.images_url, any_address)
        self.stats = self._service.stats
        self._sockets = sockets
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
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
            self._loop.call_soon_threadsafe(self._stop.set)
        self._ended.wait(5)

    def run(self) -> None:
        """Serve until `stop` is called."""
        self._loop.set_exception_handler(self._log_exception)
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
                handle_signals=False,
                access_log=None,
                logger=_Logger(self._service.settings.log),
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
            await self._stop.wait()
        finally:
            sending.cancel()
            await asyncio.gather(*(runner.cleanup() for runner in runners), sending, return_exceptions=True)
            self._service.close()

    def _log_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an exception outside of the handlers (mostly: out of file descriptors) and continue."""
        self._service.settings.log(f"note: {context.get('message')}: {context.get('exception')!r}")


def _url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Logger(logging.Logger):
    """Logs aiohttp's messages about requests that are not HTTP: one line each, without a traceback."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__("flux_cli.sandbox", logging.WARNING)
        self._log_line = log

    def handle(self, record: logging.LogRecord) -> None:
        """Write a line."""
        error = record.exc_info[1] if record.exc_info else None
        self._log_line(f"note: {record.getMessage()}" + (f": {type(error).__name__}" if error else ""))
