"""The suite's tools: the installed command as a process, in a home of its own, and a real server on loopback."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux_cli import sandbox as sandbox_service

# What this process ignores its children ignore too: under nohup or in a background, signals would do nothing.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
KEY = "test-key-0123456789"


@dataclass
class Done:
    """What a finished command left: its exit code and both streams, as text."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines on stdout."""
        return self.stdout.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout, a line each."""
        return [json.loads(line) for line in self.lines]


@dataclass
class Cli:
    """The command in a home of its own: config, history and working directory are a test's own and start empty."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        """The working directory of the commands."""
        return self.home / "work"

    @property
    def config(self) -> Path:
        """The config file, whether or not it exists."""
        return self.home / "config" / "flux-cli" / "config.toml"

    @property
    def history_file(self) -> Path:
        """The history's file, whether or not it exists."""
        return self.home / "state" / "flux-cli" / "history.sqlite3"

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, **popen: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command and return its process; streams are pipes unless told otherwise."""
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": self.cwd,
            "env": {**self.env, **(env or {})},
            **popen,
        }
        return subprocess.Popen([str(FLUX_CLI), *map(str, arguments)], **options)

    def __call__(
        self,
        *arguments: str | Path,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run names it
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        **popen: Any,
    ) -> Done:
        """Run a command to its end."""
        if input is not None:
            popen["stdin"] = subprocess.PIPE
        process = self.start(*arguments, env=env, **popen)
        content = input.encode() if isinstance(input, str) else input
        try:
            stdout, stderr = process.communicate(content, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Done(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())

    def history(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what `flux-cli history --json` tells, the newest first."""
        done = self("history", "--json", "--limit", "100000", *arguments)
        assert done.code == 0, done.stderr
        return done.objects

    def files(self) -> list[str]:
        """Return the names of all files in the working directory and below, hidden ones too, sorted."""
        return sorted(str(path.relative_to(self.cwd)) for path in self.cwd.rglob("*") if not path.is_dir())


def new_cli(directory: Path) -> Cli:
    """Return the command with a home in a directory, without a key and without a service."""
    home = directory / "home"
    (home / "work").mkdir(parents=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SYSTEMROOT") if name in os.environ}
    return Cli(
        home,
        {
            **kept,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "NO_PROXY": "127.0.0.1,localhost",
        },
    )


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
        """How many submissions it accepted, and would have billed."""
        return self.running.stats.accepted


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A sandbox whose tasks take 0.3 s."""
    with sandbox_service.running(tmp_path / "sandbox", seconds=0.3) as running:
        yield Service(running)


@pytest.fixture
def flux(cli: Cli, service: Service) -> Cli:
    """The command with a key, pointed at the sandbox by environment variables."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": service.url}
    return cli


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for a condition to hold; fail where it does not within a generous time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def port_to_come_back_to() -> int:
    """Return a port for a service that ends and starts again; it and the next one are free.

    Not one that the system chose: it hands those to whatever connects or listens next, so that it may be gone.
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
    return Done(process.returncode, stdout.decode(), stderr.decode())
