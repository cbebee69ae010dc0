"""Fixtures: the command with a home of its own, and the sandbox as its service."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from flux_cli import sandbox as sandbox_service
from tests.cli import FLUX_CLI as FLUX_CLI
from tests.cli import KEY as KEY
from tests.cli import Cli as Cli
from tests.cli import Done as Done
from tests.cli import new_cli as new_cli
from tests.server import Server

# What this process ignores its children ignore too: under nohup or in a background, signals would do nothing.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy is no failure; the same examples each time, so that a failure is not found by luck.
hypothesis.settings.register_profile("flux", deadline=None, derandomize=True)
hypothesis.settings.load_profile("flux")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with some of the slow tests: at the end, nothing would run while they wait.

    Each worker of xdist begins with its share of the list, and later takes over tests of others.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    left, items[:] = len(items), []
    for worker in range(workers):
        first = slow[worker::workers]
        share = left // (workers - worker)
        rest = share - len(first)
        items += [*first, *others[:rest]]
        others = others[rest:]
        left -= share


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `needs(name, …)` if one of these programs is not installed."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            tool(name)


@pytest.fixture(scope="session", autouse=True)
def no_busy_threads() -> Iterator[None]:
    """A test run fails if it leaves a thread behind that is busy, or that keeps the process from ending."""
    yield
    threads = [each for each in threading.enumerate() if each is not threading.main_thread()]
    assert not [each.name for each in threads if not each.daemon]
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25, f"one of these is busy: {[each.name for each in threads]}"


@pytest.fixture(scope="session", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Render small pictures by default in this process: a sixth of the CPU time of the document's sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flux_cli.sandbox.render.DEFAULT_SIZE", (256, 192))
        patch.setattr("flux_cli.sandbox.render.ULTRA_PIXELS", 256 * 256)
        yield


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command without a key and without a service."""
    return new_cli(tmp_path)


@dataclass
class Service:
    """The sandbox, running in the test's own process, and what it has seen."""

    running: "sandbox_service.Running"

    @property
    def url(self) -> str:
        """The API's origin."""
        return self.running.url

    @property
    def submissions(self) -> int:
        """How many submissions it received, whatever the response was."""
        return self.running.stats.submissions


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A sandbox whose tasks take 0.1 s."""
    with sandbox_service.running(tmp_path / "sandbox", seconds=0.1) as running:
        yield Service(running)


@pytest.fixture
def flux(cli: Cli, service: Service) -> Cli:
    """The command with a key, pointed at the sandbox by environment variables."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": service.url}
    return cli


@pytest.fixture
def server(cli: Cli) -> Iterator[Server]:
    """A scripted service; the command has a key and is pointed at it."""
    with Server() as running:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": running.url}
        yield running


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for a condition; fail if it is not met within a generous time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def tool(name: str, *others: str) -> str:
    """Return the path of a program, or of another that will do; skip the test if none is installed."""
    for each in (name, *others):
        if path := shutil.which(each):
            return path
    pytest.skip(f"NOT TESTED: {name} is not installed")


def port_to_come_back_to() -> int:
    """Return a port for a service that ends and starts again; it and the next one are free.

    Not one that the system chose, because it may give those to the next process that connects or listens.
    """
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - a port is no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


def interrupt(process: "subprocess.Popen[bytes]", number: int = signal.SIGINT) -> Done:
    """Send a signal and return what the command left."""
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    return Done.of(process.returncode, stdout, stderr)
