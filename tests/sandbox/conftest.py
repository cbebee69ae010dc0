"""A plain client of the sandbox, which hides nothing of what came over the wire."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flux_cli.sandbox import Running, running

KEY = "plain-key-0123456789"
SECONDS = 0.1
"""How long a task takes in these tests."""


@dataclass(frozen=True)
class Answer:
    """A whole answer, or what became of it.

    Attributes:
        status: The HTTP status; 0 when none came.
        headers: With names in lower case.
        body: The bytes that came, whether or not they were all.
        broken: The name of the exception that ended it, or nothing.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    broken: str = ""

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)

    @property
    def reasons(self) -> list[str]:
        """The messages of a refusal."""
        return [error["msg"] for error in self.json()["errors"]]


def exchange(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 20,
    most: int | None = None,
) -> Answer:
    """Make one request over a connection of its own. `most`: read only so many bytes of the body."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=timeout)) as connection:
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, {}, b"", type(error).__name__)
        found = {name.lower(): value for name, value in response.getheaders()}
        pieces, broken = [], ""
        try:
            while piece := response.read1(64 * 1024 if most is None else min(most, 64 * 1024)):
                pieces.append(piece)
                if most is not None and sum(map(len, pieces)) >= most:
                    break
        except (OSError, http.client.HTTPException) as error:
            broken = type(error).__name__
        content = b"".join(pieces)
        announced = found.get("content-length")
        if most is None and not broken and announced is not None and len(content) < int(announced):
            broken = "IncompleteRead"
        return Answer(response.status, found, content, broken)


@dataclass
class Api:
    """A client of one sandbox."""

    service: Running
    key: str = KEY

    def post(self, path: str, body: object, **options: Any) -> Answer:
        """Post JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": self.key, "Content-Type": "application/json"}
        return exchange("POST", self.service.url + path, content, headers, **options)

    def imagine(self, prompt: str, **fields: object) -> Answer:
        """Submit a small picture; `fields` are further ones of the request, None leaves one out."""
        body = {"model": "flux-pro", "prompt": prompt, "width": 256, "height": 256, **fields}
        return self.post("/flux-imagine", {name: value for name, value in body.items() if value is not None})

    def submit(self, prompt: str, **fields: object) -> str:
        """Submit a small picture that is accepted, and return its id."""
        answer = self.imagine(prompt, **fields)
        assert answer.status == 200, answer
        return str(answer.json()["task_id"])

    def fetch(self, task_id: str, **options: Any) -> Answer:
        """Look at a task."""
        return self.post("/fetch", {"task_id": task_id}, **options)

    def account(self) -> Any:
        """Return the account."""
        return exchange("GET", f"{self.service.url}/account", headers={"Authorization": self.key}).json()

    def finished(self, prompt: str, **fields: object) -> dict[str, Any]:
        """Submit a task, wait for its end and return what is then said of it."""
        return self.ended(self.submit(prompt, **fields))

    def ended(self, task_id: str) -> dict[str, Any]:
        """Wait for a task's end and return what is then said of it."""
        for _ in range(400):
            answer: dict[str, Any] = self.fetch(task_id).json()
            if answer.get("status") != "processing" and "percentage" not in answer:
                return answer
            if answer.get("status") in ("finished", "completed", "failed"):
                return answer
            time.sleep(0.02)
        raise AssertionError(f"it never ends: {answer}")

    def picture(self, prompt: str, **fields: object) -> Answer:
        """Submit a task, wait for its end and download its picture."""
        return exchange("GET", self.finished(prompt, **fields)["image_url"])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """A sandbox in this process."""
    with running(tmp_path / "sandbox", seconds=SECONDS) as service:
        yield service


@pytest.fixture
def api(service: Running) -> Api:
    """A client of it."""
    return Api(service)


Start = Callable[..., Api]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a sandbox as its arguments say, and returns a client of it."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Api:
            directory = settings.pop("directory", tmp_path / "sandbox")
            return Api(stack.enter_context(running(directory, **{"seconds": SECONDS, **settings})))

        yield start
