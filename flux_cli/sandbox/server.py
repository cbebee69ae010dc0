"""The service on two ports, in a thread of its own."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from flux_cli.sandbox.api import Api
from flux_cli.sandbox.cdn import Cdn
from flux_cli.sandbox.service import Service, Settings, Stats
from flux_cli.sandbox.store import Store
from flux_cli.sandbox.webhooks import Webhooks

IDLE_SECONDS = 60.0
"""A connection that sends nothing, or half a request, is closed after this."""
BACKLOG = 1024
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class Origins:
    """The two listening sockets."""

    api: socket.socket
    images: socket.socket

    @property
    def api_url(self) -> str:
        """The API's origin."""
        return _url(self.api)

    @property
    def images_url(self) -> str:
        """The images' origin."""
        return _url(self.images)

    def close(self) -> None:
        """Stop listening."""
        self.api.close()
        self.images.close()

    @property
    def on_every_address(self) -> bool:
        """Whether the server can be reached by names that it does not know."""
        return self.images.getsockname()[0] in WILDCARDS


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if host in WILDCARDS:
        host = "127.0.0.1" if host == WILDCARDS[0] else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> Origins:
    """Bind both origins: the API to `port`, the images to the next one; 0 takes two that are free.

    Raises:
        OSError: A port is in use, or the host is not one of this machine's.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    api = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    try:
        images = socket.create_server((address[0], port + 1 if port else 0), family=family, backlog=BACKLOG)
    except OSError:
        api.close()
        raise
    return Origins(api, images)


class ServerThread(threading.Thread):
    """Serves until it is told to stop. A daemon, so that it keeps no interpreter alive."""

    def __init__(self, settings: Settings, store: Store, origins: Origins) -> None:
        super().__init__(name="sandbox", daemon=True)
        self.stats = Stats()
        self.failure: Exception | None = None
        self._settings = settings
        self._store = store
        self._origins = origins
        self._loop = asyncio.new_event_loop()
        self._to_end = asyncio.Event()
        self._ended = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait so long for the server's end; say whether it has come.

        Not by `join`: an exception from a signal handler makes that take a running thread for a dead one
        (Python 3.11), and the interpreter then ends under it.
        """
        return self._ended.wait(seconds)

    def stop(self, timeout: float = 5.0) -> None:
        """End the server, whatever it is doing, and wait for that, at most `timeout` seconds."""
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._to_end.set)
        self.wait(timeout)

    def run(self) -> None:
        """Serve, until `stop` is called."""
        self._loop.set_exception_handler(self._report)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            self.failure = error
        finally:
            self._origins.close()  # else a client would wait for answers that never come
            self._ended.set()

    async def _serve(self) -> None:
        service = Service(
            self._settings, self._store, self.stats, self._origins.images_url, self._origins.on_every_address
        )
        applications = (Api(service).application(), Cdn(service).application())
        runners = [
            web.AppRunner(
                application,
                handle_signals=False,
                access_log=None,
                logger=_Logger(self._settings.log),
                keepalive_timeout=IDLE_SECONDS,
                shutdown_timeout=0.01,
                handler_cancellation=True,
            )
            for application in applications
        ]
        for runner, listening in zip(runners, (self._origins.api, self._origins.images), strict=True):
            await runner.setup()
            await web.SockSite(runner, listening, backlog=BACKLOG).start()
        webhooks = Webhooks(service)
        postman = asyncio.create_task(webhooks.run())
        try:
            await self._to_end.wait()
        finally:
            webhooks.stop()
            await asyncio.gather(*(runner.cleanup() for runner in runners), postman, return_exceptions=True)
            service.close()

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what no handler has caught (no file descriptors left, mostly); the server goes on."""
        self._settings.log(f"note: {context.get('message')}: {context.get('exception')!r}")


class _Logger(logging.Logger):
    """Takes aiohttp's complaints about requests that are not HTTP: a line each, and no traceback."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__("flux_cli.sandbox", logging.WARNING)
        self._to = log

    def handle(self, record: logging.LogRecord) -> None:
        """Write a line."""
        error = record.exc_info[1] if record.exc_info else None
        self._to(f"note: {record.getMessage()}" + (f": {type(error).__name__}" if error else ""))
