"""A scripted HTTP server on loopback, in threads of the test process: for what the sandbox does not do.

Each path gets the response in its table, as bytes, so that a response can also violate HTTP. Paths without
an entry get a default one: submissions are accepted, tasks finish at once, pictures are complete.
"""

import contextlib
import json
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

JOIN_SECONDS = 10.0


class Action(Enum):
    """What a script can do besides sending bytes and sleeping for a number of seconds."""

    RESET = "reset the connection"
    KEEP = "keep the connection open for another request"


Step = bytes | float | Action
Reply = bytes | Iterable[Step] | Callable[["Request"], "Reply"]
"""A whole response, the steps of one, or a function that returns either of them for a request."""


@dataclass(frozen=True)
class Request:
    """One request that has arrived; `number` is how many for the same path prefix came before it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int
    origin: str

    def json(self) -> dict[str, str]:
        parsed: dict[str, str] = json.loads(self.body)
        return parsed


def png_file(*chunks: tuple[bytes, bytes], width: int = 1, height: int = 1, color_type: int = 0) -> bytes:
    """Return a PNG file with these chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def png(size: int = 0) -> bytes:
    """Return a whole picture of one pixel, with a private chunk of `size` bytes."""
    return png_file((b"prVt", bytes(size)), (b"IDAT", zlib.compress(b"\0\0")))


def http(code: int, body: bytes = b"", /, **headers: str) -> bytes:
    """Return a whole response. Header names have underscores; `Content_Length=""` omits that header."""
    all_headers = {"Content_Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in all_headers.items() if value]
    return "\r\n".join([f"HTTP/1.1 {code} Status", *lines, "", ""]).encode("latin-1") + body


def reply(value: object, code: int = 200, /, **headers: str) -> bytes:
    """Return a whole response whose body is JSON."""
    return http(code, json.dumps(value).encode(), Content_Type="application/json", **headers)


def submitted(request: Request) -> bytes:
    return reply({"task_id": f"task-{request.number}"})


def finished(task_id: str, origin: str) -> dict[str, str]:
    return {"task_id": task_id, "status": "finished", "image_url": f"{origin}/image/{task_id}.png"}


def fetched(request: Request) -> bytes:
    return reply(finished(request.json()["task_id"], request.origin))


def fetched_many(request: Request) -> bytes:
    return reply({"tasks": [finished(task_id, request.origin) for task_id in request.json()["task_ids"]]})


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """Return a reply that is each of the given ones in turn, then the last one for every further request."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


def slowly(content: bytes, seconds: float = 0.1) -> list[Step]:
    """Return the steps of a response that comes one byte at a time."""
    return [step for index in range(len(content)) for step in (content[index : index + 1], seconds)]


DEFAULTS: Mapping[str, Reply] = {
    "/flux-imagine": submitted,
    "/fetch": fetched,
    "/fetch-many": fetched_many,
    "/image": lambda _: http(200, png(), Content_Type="image/png"),
}


@dataclass
class Server:
    """A running server; a context manager, which ends all its threads.

    `routes` has the reply for each path prefix that does not get its default one. Instead of reading a request,
    each connection may get the steps of a `greeting`. Unless it `accepts`, the backlog is full, so that nobody can
    connect. It `reads` at most so many bytes of a body, and `received` has the requests that arrived whole.
    """

    routes: Mapping[str, Reply] = field(default_factory=dict)
    greeting: Iterable[Step] | None = None
    tls: ssl.SSLContext | None = None
    accepts: bool = True
    reads: int | None = None
    received: list[Request] = field(default_factory=list)
    connections: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> "Server":
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64 if self.accepts else 0)
        self._stopped = threading.Event()
        if self.accepts:
            self._start(self._accept)
        else:
            for _ in range(4):
                waiting = socket.socket()
                waiting.setblocking(False)
                waiting.connect_ex(self._listening.getsockname())
                self._sockets.add(waiting)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with self._lock:
            for each in (self._listening, *self._sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                if not self.accepts:
                    each.close()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a thread of the server does not end"
        self._listening.close()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def requests(self, prefix: str) -> list[Request]:
        return [request for request in self.received if request.path.startswith(prefix)]

    @property
    def submissions(self) -> int:
        return len(self.requests("/flux-imagine"))

    def is_idle(self) -> bool:
        """Return whether all connections are closed."""
        with self._lock:
            return not self._sockets

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="scripted server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._sockets.add(connection)
        try:
            if not self._stopped.is_set():
                self._talk(connection)
        except (OSError, ValueError):  # the client is gone, or does not speak HTTP
            pass
        finally:
            with self._lock:
                self._sockets.discard(connection)
                connection.close()

    def _talk(self, connection: socket.socket) -> None:
        if self.greeting is not None:
            self._do(connection, self.greeting)
            return
        if isinstance(connection, ssl.SSLSocket):
            connection.do_handshake()
        with connection.makefile("rb") as stream:
            while (request := self._read(stream)) is not None:
                if self._do(connection, self._steps(request)) is not Action.KEEP:
                    return

    def _read(self, stream: BinaryIO) -> Request | None:
        head = []
        while (line := stream.readline()) != b"\r\n":
            if not line:  # the client has closed the connection
                return None
            head.append(line.decode("latin-1").strip())
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in head[1:])}
        length = int(headers.get("content-length", 0))
        body = stream.read(length if self.reads is None else min(length, self.reads))
        with self._lock:
            prefix = self._prefix(path)
            number = self._counts[prefix] = self._counts.get(prefix, -1) + 1
            request = Request(method, path, headers, body, number, self.url)
            if len(body) == length:
                self.received.append(request)
        return request

    def _prefix(self, path: str) -> str:
        return max((each for each in {**DEFAULTS, **self.routes} if path.startswith(each)), key=len, default=path)

    def _steps(self, request: Request) -> Iterable[Step]:
        given = {**DEFAULTS, **self.routes}.get(self._prefix(request.path), http(404))
        while callable(given):
            given = given(request)
        return [given] if isinstance(given, bytes) else given

    def _do(self, connection: socket.socket, steps: Iterable[Step]) -> Action | None:
        for step in steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif step is Action.RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return step
            elif step is Action.KEEP:
                return step
            elif self._stopped.wait(float(step)):
                return None
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return None
