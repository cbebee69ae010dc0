"""Processes that start fast: forked from one that has imported everything, for a fifth of the CPU time.

They are processes with a home, streams, signals and an exit code of their own. Only the interpreter's start and
end differ: `tests/test_package.py` and others start the installed command for that.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection, reduction
from pathlib import Path
from typing import IO, Any

PRELOADED = """
    tests.warm flux_cli.main flux_cli.commands.imagine flux_cli.commands.running flux_cli.commands.wait
    flux_cli.commands.fetch flux_cli.commands.history flux_cli.commands.batch flux_cli.commands.batching
    flux_cli.commands.listen flux_cli.webhooks.receiver flux_cli.pictures.download platformdirs sqlite3 requests
    tomllib typer.main
""".split()

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)
_lock = threading.Lock()
"""Starting one process polls all others, and of two threads that poll the same one, one gets no exit code."""


class WarmPopen(subprocess.Popen[bytes]):
    """A command that starts warm; it does what `subprocess.Popen` does."""

    def __init__(
        self,
        arguments: list[str],
        env: Mapping[str, str],
        cwd: Path,
        streams: tuple[int | IO[bytes], int | IO[bytes], int | IO[bytes]],
    ) -> None:
        """Start a command. Streams are given as to `subprocess.Popen`: PIPE, DEVNULL, a file or its descriptor."""
        self.args = ["flux-cli", *arguments]
        self.returncode: int | None = None
        self.encoding = self.errors = self.text_mode = self._input = None
        self._child_created = self._communication_started = False
        theirs, ours = zip(*(_ends(stream, number) for number, stream in enumerate(streams)), strict=True)
        self.stdin, self.stdout, self.stderr = ours
        whole = (arguments, dict(env), str(cwd), [_Descriptor(fd) for fd, _ in theirs])
        self._process = _forks.Process(target=_be_the_command, args=whole)
        with _lock:
            self._process.start()
        self.pid = self._process.pid or 0
        for descriptor, close in theirs:
            if close:
                os.close(descriptor)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with _lock:
            if self.returncode is None:
                self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.poll() is None and not connection.wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code


class _Descriptor:
    """Becomes, in the child, a duplicate of a descriptor."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (reduction.DupFd(self._number),)


def _detached(duplicate: Any) -> int:
    return int(duplicate.detach())


def _ends(stream: int | IO[bytes], number: int) -> tuple[tuple[int, bool], IO[bytes] | None]:
    """Return the child's descriptor, whether to close it here after the start, and our end of a pipe."""
    if stream == subprocess.DEVNULL:
        return (os.open(os.devnull, os.O_RDWR), True), None
    if stream != subprocess.PIPE:
        return (stream if isinstance(stream, int) else stream.fileno(), False), None
    reading, writing = os.pipe()
    if number == 0:
        return (reading, True), open(writing, "wb")
    return (writing, True), open(reading, "rb")


def _be_the_command(arguments: list[str], env: dict[str, str], cwd: str, descriptors: list[int]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing has replaced it
    sys.argv = ["flux-cli", *arguments]
    from flux_cli.main import run

    run()
