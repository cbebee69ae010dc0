"""A plain HTTP client of the sandbox, which returns everything that it received."""

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flux_cli.sandbox import running
from flux_cli.sandbox.server import Running

KEY = "plain-key-0123456789"


@dataclass(frozen=True)
class Response:
    """A response, with header names in lower case.

    Attributes:
        status: The status code; 0 if none came.
        broken: The name of the exception that ended it, or nothing.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    broken: str = ""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reasons(self) -> list[str]:
        return [error["msg"] for error in self.json()["errors"]]


def exchange(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 20,
    most: float = float("inf"),
) -> Response:
    """Make one request on a new connection, and stop reading the body after about `most` bytes."""
    origin = urlsplit(url).netloc
    with contextlib.closing(http.client.HTTPConnection(origin, timeout=timeout)) as connection:
        try:
            connection.request(method, url.partition(origin)[2], body, headers or {})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            return Response(0, {}, b"", type(error).__name__)
        content, broken = b"", ""
        try:
            while len(content) < most and (piece := response.read1()):
                content += piece
        except (OSError, http.client.HTTPException) as error:
            broken = type(error).__name__
        if response.length and len(content) < most:
            broken = broken or "IncompleteRead"
        found = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, found, content, broken)


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) as connection:
        yield connection


@dataclass
class Api:
    """A client of one sandbox, whose tasks finish at once."""

    service: Running
    key: str = KEY

    def post(self, path: str, body: object, **options: Any) -> Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": self.key, "Content-Type": "application/json"}
        return exchange("POST", self.service.url + path, content, headers, **options)

    def imagine(self, prompt: str, timeout: float = 20, **fields: object) -> Response:
        """Submit a small picture; `fields` are further ones of the request."""
        body = {"model": "flux-pro", "prompt": prompt, "width": 256, "height": 256, **fields}
        return self.post("/flux-imagine", body, timeout=timeout)

    def submit(self, prompt: str, **fields: object) -> str:
        response = self.imagine(prompt, **fields)  # type: ignore[arg-type] # a field is not called timeout
        assert response.status == 200, response
        return str(response.json()["task_id"])

    def fetch(self, task_id: str, **options: Any) -> Response:
        return self.post("/fetch", {"task_id": task_id}, **options)

    def account(self) -> Any:
        return exchange("GET", f"{self.service.url}/account", headers={"Authorization": self.key}).json()

    def finished(self, prompt: str, **fields: object) -> dict[str, Any]:
        task: dict[str, Any] = self.fetch(self.submit(prompt, **fields)).json()
        return task

    def picture(self, prompt: str, **options: Any) -> Response:
        return exchange("GET", self.finished(prompt)["image_url"], **options)


Start = Callable[..., Api]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Api:
            directory = settings.pop("directory", tmp_path / "sandbox")
            return Api(stack.enter_context(running(directory, **{"seconds": 0, **settings})))

        yield start


@pytest.fixture
def api(start: Start) -> Api:
    return start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A client of a sandbox that the tests of a module share."""
    with running(tmp_path_factory.mktemp("shared"), seconds=0) as service:
        yield Api(service)
