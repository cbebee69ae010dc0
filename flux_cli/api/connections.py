"""HTTP sessions whose connections can be aborted from another thread and skip interim responses.

`timeout=` of requests limits the silence between two bytes, not a whole call. So every operation has an `Abort`,
and whoever waits for it shuts its sockets down when its time is over.
"""

import contextlib
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import requests

GRACE_SECONDS = 2.0
"""How long a response that has already arrived is still read after its time is over.

It matters when the whole process was stopped: the time went by, and the response is waiting in the socket."""

_Result = TypeVar("_Result")


class Abort:
    """Ends one thread's work on the network, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.aborted = False

    def attach(self, sock: socket.socket | None) -> None:
        """Shut this socket down too when `abort` is called; at once if it was."""
        if sock is None:
            return
        with self._lock:
            self._sockets.append(sock)
            aborted = self.aborted
        if aborted:
            _shut_down(sock)

    def abort(self) -> None:
        """Shut the sockets down: what is blocked on one of them fails now."""
        with self._lock:
            self.aborted = True
            sockets = list(self._sockets)
        for sock in sockets:
            _shut_down(sock)


class _Current(threading.local):
    abort: Abort | None = None


_current = _Current()


def current_abort() -> Abort | None:
    """Return what aborts the work of this thread, None if nothing does."""
    return _current.abort


@contextlib.contextmanager
def abortable(abort: Abort) -> Iterator[None]:
    """Let `abort` end what this thread does on the network inside the block."""
    before, _current.abort = _current.abort, abort
    try:
        yield
    finally:
        _current.abort = before


class OverdueError(Exception):
    """The time for a piece of work is over."""


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread of its own; abort it and raise OverdueError if it takes longer than `seconds`."""
    outcome: queue.SimpleQueue[tuple[_Result | None, BaseException | None]] = queue.SimpleQueue()
    abort = Abort()

    def run() -> None:
        try:
            with abortable(abort):
                outcome.put((work(), None))
        except BaseException as error:
            outcome.put((None, error))

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:  # the limit on processes; only the timeouts of the socket apply then
        return work()
    until = time.monotonic() + seconds
    try:
        result, error = outcome.get(timeout=max(0.0, seconds))
    except queue.Empty:
        paused = time.monotonic() - until > GRACE_SECONDS / 2
        try:
            result, error = outcome.get(timeout=GRACE_SECONDS if paused else 0.01)
        except queue.Empty:
            abort.abort()
            raise OverdueError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # without an error it is the result


def send(
    session: "requests.Session",
    method: str,
    url: str,
    *,
    timeout: tuple[float, float],
    body: Any = None,  # whatever requests takes
    headers: Mapping[str, str] | None = None,
) -> "requests.Response":
    """Send one request without following redirects; return the response with its body still to be read.

    It is what `session.request` does, for less than half of its CPU time: proxies and certificates are looked up
    once for each host, and there are no cookies.
    """
    import requests

    prepared = requests.PreparedRequest()
    prepared.prepare(method, url, {**session.headers, **(headers or {})}, data=body, auth=session.auth)
    origin = url[: url.find("/", 8)]
    settings: dict[str, Any] = session.__dict__.setdefault("flux_cli_settings", {})
    if origin not in settings:
        settings[origin] = session.merge_environment_settings(url, {}, True, None, None)
        if settings[origin]["verify"] is True and (bundle := os.environ.get("SSL_CERT_FILE")):
            settings[origin]["verify"] = bundle  # which OpenSSL and curl respect, and requests does not
    return session.send(prepared, timeout=timeout, allow_redirects=False, **settings[origin])


def session(auth: "Callable[[requests.PreparedRequest], requests.PreparedRequest]") -> "requests.Session":
    """Return a session with such connections; `auth` keeps netrc entries from supplying credentials."""
    import requests

    from flux_cli.api.adapter import Adapter

    made = requests.Session()
    made.auth = auth
    adapter = Adapter()
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


class Sessions:
    """Idle sessions: they keep their connections, but several threads cannot share one."""

    def __init__(self, make: "Callable[[], requests.Session]") -> None:
        self._make = make
        self._idle: list[tuple[requests.Session, float]] = []  # append and pop are atomic

    @contextlib.contextmanager
    def lend(self, max_idle: float = math.inf) -> "Iterator[requests.Session]":
        """Lend a session to one call. Connections that were idle for longer than `max_idle` seconds are closed."""
        try:
            session, since = self._idle.pop()
            if time.monotonic() - since > max_idle:
                session.close()  # its connections; it makes new ones
        except IndexError:
            session = self._make()
        yield session
        self._idle.append((session, time.monotonic()))


def _shut_down(sock: socket.socket) -> None:
    # Not the method of an SSL socket, which would drop its TLS state while another thread is reading.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
