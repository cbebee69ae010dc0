"""Commands that start warm: forked from a process that has imported everything, at a fifth of the cost.

They are processes like any other, with a home, streams and an exit code of their own; there are hundreds of them
in the tables of faults, and each saves a quarter of a second.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp

from tests.cli import Cli, Done, short_pauses

PRELOADED = """
    tests.faults.warm flux_cli.main flux_cli.commands.imagine flux_cli.commands.running flux_cli.commands.wait
    flux_cli.commands.fetch flux_cli.commands.history flux_cli.pictures.download platformdirs sqlite3
    requests tomllib typer.main
""".split()

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)
_lock = threading.Lock()
"""To start one process looks after all others, and two threads that look after the same one lose its exit code."""


@dataclass
class Running:
    """A command under way."""

    process: BaseProcess
    streams: Path

    def wait(self, timeout: float = 60) -> Done:
        """Return what it left; it is killed, and TimeoutError raised, if it does not end in time."""
        if not connection.wait([self.process.sentinel], timeout):
            self.process.kill()
            raise TimeoutError
        with _lock:
            self.process.join()
            code = self.process.exitcode or 0
        return Done(code, *((self.streams / name).read_text() for name in ("stdout", "stderr")))


class WarmCli(Cli):
    """The command, started warm."""

    @classmethod
    def of(cls, cli: Cli) -> "WarmCli":
        """Return the same command in the same home."""
        return cls(cli.home, cli.env)

    def begin(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Running:
        """Start a command; its stdin is empty."""
        streams = Path(mkdtemp(dir=self.home.parent))
        for name in ("stdout", "stderr"):
            (streams / name).touch()  # it may be killed before it makes them
        whole = ([*map(str, arguments)], {**self.env, **(env or {})}, str(self.cwd), str(streams))
        process = _forks.Process(target=_be_the_command, args=whole)
        with _lock:
            process.start()
        return Running(process, streams)

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60, **other: object
    ) -> Done:
        """Run a command to its end."""
        if other:  # what only a cold one takes
            return super().__call__(*arguments, env=env, timeout=timeout, **other)  # type: ignore[arg-type] # whatever it is
        return self.begin(*arguments, env=env).wait(timeout)


def _be_the_command(arguments: list[str], env: dict[str, str], cwd: str, streams: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    files = (os.devnull, os.O_RDONLY), (f"{streams}/stdout", os.O_WRONLY), (f"{streams}/stderr", os.O_WRONLY)
    for number, (path, mode) in enumerate(files):
        os.dup2(os.open(path, mode | os.O_CREAT, 0o600), number)
    sys.argv = ["flux-cli", *arguments]
    from flux_cli.main import run

    with short_pauses():
        run()
