"""Run the command, in this process or as one of its own, with a home directory that belongs to one test.

`cli(*arguments)` calls `flux_cli.main.main` here, with streams, environment and working directory of its own: no
process starts, and the imports are paid once. `cli.process(...)` and `cli.start(...)` run the installed command:
for signals, kills, pipes, terminals, shells, and for several commands at a time.
"""

import contextlib
import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn
from unittest import mock

import pytest

from flux_cli import main as flux_main
from flux_cli.api.redaction import Redactor
from flux_cli.ui import console

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
KEY = "test-key-0123456789"
STREAMS = ("stdin", "stdout", "stderr")
SHORT_PAUSES = {
    "flux_cli.engine.downloads.EXPIRED_SECONDS": 0.3,
    "flux_cli.api.backoff.BACKOFF_BASE": 0.02,
    "flux_cli.engine.polling.NEAR_SECONDS": 0.05,
    "flux_cli.engine.polling.BLIND_SECOND": 0.2,
    "flux_cli.engine.submissions.FIRST_SECONDS": 0.05,
    "flux_cli.engine.checks.NEW_TASK_SECONDS": 0.5,
    "flux_cli.engine.queues.GATHER_SECONDS": 0.02,
}
"""Constants that are smaller for commands in this process: the default ones spare the service, and no test needs
them. `tests/engine/test_polling.py` and others look at the real ones."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Done:
    """What a finished command left; bytes that are not UTF-8 become surrogates."""

    code: int
    stdout: str
    stderr: str

    @classmethod
    def of(cls, code: int, stdout: bytes, stderr: bytes) -> "Done":
        return cls(code, stdout.decode("utf-8", "surrogateescape"), stderr.decode("utf-8", "surrogateescape"))

    @property
    def stdout_bytes(self) -> bytes:
        return self.stdout.encode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@dataclass
class Cli:
    """The command with a home directory of its own: config, history and working directory start empty."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        return self.home / "work"

    @property
    def config(self) -> Path:
        return self.home / "config" / "flux-cli" / "config.toml"

    @property
    def history_file(self) -> Path:
        return self.home / "state" / "flux-cli" / "history.sqlite3"

    def __call__(
        self,
        *arguments: str | Path,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run names it
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        tty: bool | Collection[str] = False,
        timeout: float = 60,
    ) -> Done:
        """Run a command to its end in this process, or as a process if the caller is not the main thread.

        `env` is added to `self.env`. The streams in `tty` say that they are terminals (all of them for True); what
        a terminal shows is the subject of `tests.screen`. After `timeout` seconds the test fails.
        """
        content = input.encode() if isinstance(input, str) else input or b""
        if threading.current_thread() is not threading.main_thread():  # signals and streams belong to the main one
            assert not tty, "only the main thread can run a command on a terminal"
            return self.process(*arguments, input=content, env=env, cwd=cwd or self.cwd, timeout=timeout)
        line = [*map(str, arguments)]
        with (
            _streams(content, STREAMS if tty is True else tty or ()) as (out, err),
            _environment({**self.env, **(env or {})}, cwd or self.cwd),
            _process_state(["flux-cli", *line]),
            _limited(timeout),
        ):
            try:
                code = flux_main.main(line)
                console.flush()
            except SystemExit as exited:
                code = int(exited.code or 0)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            out.seek(0)
            err.seek(0)
            return Done.of(code, out.read(), err.read())

    def fails(self, code: int, message: str, *arguments: str | Path, **options: Any) -> Done:
        """Run a command to its end in this process; it must fail with this exit code and this in its message."""
        done = self(*arguments, **options)
        assert (done.code, message in done.stderr) == (code, True), done
        return done

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, **popen: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command as a process; its streams are pipes unless `popen` says otherwise."""
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": self.cwd,
            **popen,
        }
        command = [str(FLUX_CLI), *map(str, arguments)]
        return subprocess.Popen(command, env={**self.env, **(env or {})}, **options)

    def process(
        self,
        *arguments: str | Path,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run names it
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        **popen: Any,
    ) -> Done:
        if input is not None:
            popen["stdin"] = subprocess.PIPE
        process = self.start(*arguments, env=env, **popen)
        content = input.encode() if isinstance(input, str) else input
        try:
            stdout, stderr = process.communicate(content, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Done.of(process.returncode, stdout or b"", stderr or b"")

    def history(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what `flux-cli history --json` prints, the newest first."""
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
    kept |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
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


@contextlib.contextmanager
def _environment(env: Mapping[str, str], cwd: Path) -> Iterator[None]:
    try:
        with mock.patch.dict(os.environ, env, clear=True), contextlib.chdir(cwd):
            time.tzset()
            yield
    finally:
        time.tzset()


@contextlib.contextmanager
def _process_state(argv: list[str]) -> Iterator[None]:
    """Give the command the state of a new process, and restore ours."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            patch.setattr(os, "_exit", sys.exit)  # completion ends the process without cleaning up
            patch.setattr(console, "_redactor", Redactor())
            patch.setattr(console, "quiet", False)
            for name, value in SHORT_PAUSES.items():
                patch.setattr(name, value)
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Stream(io.TextIOWrapper):
    """A standard stream that may claim to be a terminal."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@contextlib.contextmanager
def _streams(content: bytes, terminals: Collection[str]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Replace the standard streams by files, which have real descriptors; yield stdout and stderr."""
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        pytest.MonkeyPatch.context() as patch,
    ):
        stdin.write(content)
        stdin.seek(0)
        for name, file in zip(STREAMS, (stdin, stdout, stderr), strict=True):
            binary: Any = open(os.dup(file.fileno()), "rb" if name == "stdin" else "wb")  # noqa: SIM115 - closed below
            lines = name == "stderr"
            stream = _Stream(binary, "utf-8", "backslashreplace" if lines else None, line_buffering=lines)
            stream.terminal = name in terminals
            patch.setattr(sys, name, stream)
        try:
            yield stdout, stderr
        finally:
            for opened in (sys.stdin, sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    opened.close()


class _OverdueError(BaseException):
    """The command takes too long. No Exception, so that the command cannot handle it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        raise _OverdueError(f"the command did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
