"""A server on a bare socket that does what a script says, whatever HTTP allows: for faults that no server makes.

Without a script for a path it behaves: it accepts submissions, tasks are finished at once, pictures are whole.
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

Json = object


class Then(Enum):
    """What a script can do beside sending bytes and, for a number, sleeping so many seconds."""

    RESET = "reset the connection"
    KEEP = "keep the connection open for another request"


Step = bytes | float | Then
Reply = bytes | Iterable[Step] | Callable[["Request"], "Reply"]


@dataclass(frozen=True)
class Request:
    """One request, as it arrived whole.

    Attributes:
        number: How many requests for the same path prefix came before it.
        origin: The server's own URL.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int
    origin: str

    def json(self) -> dict[str, str]:
        """Return the parsed body."""
        parsed: dict[str, str] = json.loads(self.body)
        return parsed


def png(size: int = 0) -> bytes:
    """Return a whole picture of one pixel and so many bytes of something else."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"prVt", bytes(size)), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def http(code: int, body: bytes = b"", /, **headers: str) -> bytes:
    """Return a whole answer. Header names are given with underscores; `Content_Length=""` leaves that one out."""
    all_headers = {"Content_Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in all_headers.items() if value]
    return "\r\n".join([f"HTTP/1.1 {code} Status", *lines, "", ""]).encode("latin-1") + body


def told(value: Json, code: int = 200, /, **headers: str) -> bytes:
    """Return a whole answer that holds JSON."""
    return http(code, json.dumps(value).encode(), Content_Type="application/json", **headers)


def submitted(request: Request) -> bytes:
    """Accept a submission: tasks are `task-0`, `task-1` and so on."""
    return told({"task_id": f"task-{request.number}"})


def finished(task_id: str, origin: str) -> dict[str, str]:
    """Return the result object of a task."""
    return {"task_id": task_id, "status": "finished", "image_url": f"{origin}/image/{task_id}.png"}


def fetched(request: Request) -> bytes:
    """Say that a task is finished."""
    return told(finished(request.json()["task_id"], request.origin))


def fetched_many(request: Request) -> bytes:
    """Say that several tasks are finished."""
    return told({"tasks": [finished(task_id, request.origin) for task_id in request.json()["task_ids"]]})


def after(*replies: Reply) -> Callable[[Request], Reply]:
    """Return a script that gives one reply after the other, and then the last for ever."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


def slowly(answer: bytes, seconds: float = 0.1) -> list[Step]:
    """Return an answer a byte at a time."""
    return [step for index in range(len(answer)) for step in (answer[index : index + 1], seconds)]


BEHAVED: Mapping[str, Reply] = {
    "/flux-imagine": submitted,
    "/fetch": fetched,
    "/fetch-many": fetched_many,
    "/image": lambda _: http(200, png(), Content_Type="image/png"),
}


@dataclass
class Wire:
    """A running server; a context manager.

    Attributes:
        routes: A reply for each path prefix that is not to be answered as usual.
        greeting: What is done to each connection instead of reading a request; it is closed afterwards.
        tls: Speaks TLS with this context.
        accepts: Else the system drops whoever wants to connect.
        reads: The most bytes that are read of a request before it is answered.
        seen: The requests that arrived whole.
        connections: How many there were.
    """

    routes: Mapping[str, Reply] = field(default_factory=dict)
    greeting: Iterable[Step] | None = None
    tls: ssl.SSLContext | None = None
    accepts: bool = True
    reads: int | None = None
    seen: list[Request] = field(default_factory=list)
    connections: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Wire":
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64 if self.accepts else 0)
        self._stopped = threading.Event()
        if self.accepts:
            threading.Thread(target=self._accept, daemon=True).start()
        else:
            self._in_line = [socket.socket() for _ in range(4)]
            for each in self._in_line:
                each.setblocking(False)
                each.connect_ex(self._listening.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listening.getsockname()[1])

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def asked(self, prefix: str) -> list[Request]:
        """Return the requests for paths that begin like this."""
        return [request for request in self.seen if request.path.startswith(prefix)]

    @property
    def submissions(self) -> int:
        """How many submissions arrived whole."""
        return len(self.asked("/flux-imagine"))

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self.greeting is not None:
                self._do(connection, self.greeting)
                return
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                while (request := self._read(stream)) is not None:
                    if self._do(connection, self._steps(request)) is not Then.KEEP:
                        return

    def _read(self, stream: BinaryIO) -> Request | None:
        first = stream.readline().decode("latin-1").split(" ")
        if len(first) != 3:
            return None
        lines = (line.decode("latin-1").partition(":") for line in iter(stream.readline, b"\r\n"))
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = int(headers.get("content-length", 0))
        body = stream.read(length if self.reads is None else min(length, self.reads))
        with self._lock:
            prefix = self._prefix(first[1])
            number = self._counts[prefix] = self._counts.get(prefix, -1) + 1
            request = Request(first[0], first[1], headers, body, number, self.url)
            if len(body) == length:
                self.seen.append(request)
        return request

    def _prefix(self, path: str) -> str:
        return max((each for each in {**BEHAVED, **self.routes} if path.startswith(each)), key=len, default=path)

    def _steps(self, request: Request) -> Iterable[Step]:
        reply = {**BEHAVED, **self.routes}.get(self._prefix(request.path), http(404))
        while callable(reply):
            reply = reply(request)
        return [reply] if isinstance(reply, bytes) else reply

    def _do(self, connection: socket.socket, steps: Iterable[Step]) -> Then | None:
        for step in steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif step is Then.RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return step
            elif step is Then.KEEP:
                return step
            elif self._stopped.wait(float(step)):
                return None
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return None
