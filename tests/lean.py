"""A minimal service in a separate process: it stores and renders nothing, and counts its requests.

The sandbox renders every picture, which costs more CPU time than what the benchmarks measure. As a module it
prints its URL; `GET /counts` returns the counts.
"""

import asyncio
import itertools
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import ClassVar
from urllib.request import urlopen

from tests.server import png


class Connection(asyncio.Protocol):
    """A client's connection: requests with a Content-Length, answered in order."""

    tasks: ClassVar[dict[str, float]] = {}
    counts: ClassVar[Counter[str]] = Counter()
    seconds = 2.0
    """The duration of a task."""
    most_at_once = sys.maxsize
    """While so many tasks are running, submissions get a 429."""
    picture = b""
    picture_seconds = 0.0
    """How long a picture's server takes to respond."""
    url = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self.received += data
        while True:
            head, found, rest = self.received.partition(b"\r\n\r\n")
            lengths = (line[15:] for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
            length = int(next(lengths, 0))
            if not found or len(rest) < length:
                return
            self.received = rest[length:]
            method, path = head.split(b" ", 2)[:2]
            self.answer(path.decode(), rest[:length] if method == b"POST" else b"")

    def answer(self, path: str, body: bytes) -> None:
        """Answer one request as the service does."""
        name = "picture" if path.endswith(".png") else path
        self.counts[name] += 1
        if name == "picture":
            later = asyncio.get_running_loop().call_later
            later(self.picture_seconds, self.write, self.picture, b"image/png")
        elif path == "/flux-imagine" and self.most_at_once <= self.running():
            self.counts["429"] += 1
            self.write(b"{}", b"application/json", b"429 Too Many Requests")
        else:
            value = self.value(path, json.loads(body) if body else {})
            self.write(json.dumps(value).encode(), b"application/json")

    def running(self) -> int:
        """Return how many tasks run now."""
        newest = itertools.takewhile(
            lambda began: began > time.monotonic() - self.seconds, reversed(self.tasks.values())
        )
        return sum(1 for _ in newest)

    def value(self, path: str, body: dict[str, object]) -> object:
        """Return the JSON value of a response."""
        if path == "/flux-imagine":
            task_id = str(uuid.uuid4())
            self.tasks[task_id] = time.monotonic()
            return {"task_id": task_id}
        if path == "/fetch":
            return self.describe(str(body["task_id"]))
        if path == "/fetch-many":
            ids = body["task_ids"]
            assert isinstance(ids, list)
            return {"tasks": [self.describe(task_id) for task_id in ids]}
        if path == "/account":
            return {"email": "someone@example.com", "credits": 10**6, "total_images": 0, "plan": "any"}
        return dict(self.counts)

    def describe(self, task_id: str) -> dict[str, object]:
        """Return the description of a task."""
        share = (time.monotonic() - self.tasks[task_id]) / self.seconds if self.seconds else 1.0
        if share < 1:
            return {"task_id": task_id, "status": "processing", "percentage": int(100 * share)}
        return {"task_id": task_id, "status": "finished", "image_url": f"{self.url}/{task_id}.png"}

    def write(self, content: bytes, kind: bytes, status: bytes = b"200 OK") -> None:
        """Write a response."""
        head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % (status, kind, len(content)))
        self.transport.write(content)


async def serve() -> None:
    """Serve until the process ends."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1024)
    Connection.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(Connection.url, flush=True)
    await server.serve_forever()


@contextmanager
def running(
    seconds: float, size: int = 20_000, most_at_once: int = sys.maxsize, picture_seconds: float = 0.0
) -> Iterator[str]:
    """Run the service in a separate process and yield its URL; pictures have about `size` bytes."""
    arguments = map(str, (seconds, size, most_at_once, picture_seconds))
    with Popen([sys.executable, "-m", "tests.lean", *arguments], stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def counts(url: str) -> Counter[str]:
    """Return the number of requests per path."""
    with urlopen(f"{url}/counts") as response:  # noqa: S310 - our own
        return Counter(json.load(response))


if __name__ == "__main__":
    Connection.seconds, size, Connection.most_at_once, Connection.picture_seconds = map(json.loads, sys.argv[1:])
    Connection.picture = png(size)
    asyncio.run(serve())
