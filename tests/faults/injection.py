"""A fault in one call of a run, for every kind of call and every command: no task ID may get lost.

The table: `python -m tests.faults.injection`. In the tests a few calls of each kind are enough.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from flux_cli.api.client import Client
from flux_cli.batch.journal import Journal
from flux_cli.engine.checks import Checks
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import LocalFileError, StoreBusyError
from flux_cli.pictures.saving import Saver
from flux_cli.storage import files
from flux_cli.ui import console
from flux_cli.ui.reporter import Reporter
from tests.cli import KEY, Cli, Done, new_cli
from tests.server import Request, Server, reply

COMMANDS: dict[str, tuple[str, ...]] = {
    "imagine": ("imagine", "a kite", "--sidecar"),
    "imagine -n": ("imagine", "a kite", "-n", "5", "--seed", "7", "--json"),
    "imagine --no-wait": ("imagine", "a kite", "-n", "4", "--no-wait"),
    "imagine -o -": ("imagine", "a kite", "-o", "-"),
    "wait": ("wait", "known-0", "known-1", "known-2"),
    "fetch -o": ("fetch", "known-0", "known-1", "-o", "out/"),
    "batch": ("batch", "rows.txt", "-o", "out", "--sidecar"),
}
ROWS = 6
TIMES = {
    # The server accepts everything at once, but this machine may be busy with something else.
    "run.SETTLE_SECONDS": 30.0,
    "run.HURRY_SECONDS": 30.0,
    # Nothing gets better by waiting.
    "run.NO_THREAD_SECONDS": 0.3,
    "workers.START_AGAIN_SECONDS": 0.05,
    "outbox.HOLD_SECONDS": 0.3,
    "outbox.CLOSE_SECONDS": 0.3,
    "outbox.BUSY_RETRY_SECONDS": 0.02,
}
"""Time limits of the engine, in seconds, for these runs."""


def _no_thread(*_: Any, **__: Any) -> None:
    raise RuntimeError("can't start new thread")


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _failed(*_: Any, **__: Any) -> None:
    raise LocalFileError("cannot write: input/output error")


def _busy(*_: Any, **__: Any) -> None:
    raise StoreBusyError("database is locked")


def _bug(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def _closed(*_: Any, **__: Any) -> None:
    raise BrokenPipeError


def _interrupt(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _interrupt_twice(*_: Any, **__: Any) -> None:
    _interrupt()
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Fault:
    """What goes wrong instead of a call, or before it if `replaces` is false."""

    owner: Any
    name: str
    effect: Callable[..., None]
    replaces: bool = True
    counts: Callable[..., bool] = lambda *_: True


def _is_worker(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "").startswith("flux_cli.engine")


FAULTS: dict[str, Fault] = {
    "no thread can start": Fault(threading.Thread, "start", _no_thread, counts=_is_worker),
    "fsync: disk full": Fault(os, "fsync", _full),
    "link: disk full": Fault(os, "link", _full),
    "temporary file: disk full": Fault(files, "_created", _full),
    "history: cannot be written": Fault(HistoryStore, "commit", _failed),
    "history: locked": Fault(HistoryStore, "commit", _busy),
    "journal: cannot be written": Fault(Journal, "append", _failed),
    "display fails": Fault(Reporter, "handle", _bug),
    "stdout is closed": Fault(console, "out_bytes", _closed),
    "a bug in the saver": Fault(Saver, "save", _bug),
    "a bug in a status check": Fault(Client, "fetch_many", _bug),
    "a bug in the loop": Fault(Checks, "_start", _bug),
    "Ctrl-C at an event": Fault(Reporter, "handle", _interrupt, replaces=False),
    "Ctrl-C at a commit": Fault(HistoryStore, "commit", _interrupt, replaces=False),
    "Ctrl-C at a journal entry": Fault(Journal, "append", _interrupt, replaces=False),
    "two signals at an event": Fault(Reporter, "handle", _interrupt_twice, replaces=False),
    "two signals at a commit": Fault(HistoryStore, "commit", _interrupt_twice, replaces=False),
}


@contextlib.contextmanager
def injected(fault: Fault, at: int | None, *, lasting: bool = False) -> Iterator[list[int]]:
    """Inject a fault into the call with this number (from 0), and with `lasting` into all after it.

    Yields a list that has the number of calls at the end.
    """
    original = getattr(fault.owner, fault.name)
    count = [0]
    lock = threading.Lock()

    def call(*arguments: Any, **named: Any) -> Any:
        if not fault.counts(*arguments):
            return original(*arguments, **named)
        with lock:
            number, count[0] = count[0], count[0] + 1
        if at is not None and (number == at or (lasting and number > at)):
            fault.effect(*arguments, **named)
            if fault.replaces:
                return None
        return original(*arguments, **named)

    with mock.patch.object(fault.owner, fault.name, call):
        yield count


@dataclass
class Outcome:
    """The outcome of a command, and the IDs of charged tasks that cannot be found any more."""

    done: Done
    calls: int
    accepted: set[str]
    lost: set[str]
    submissions: int
    promised: int

    def complaints(self) -> Iterator[str]:
        """Yield each violation."""
        if self.lost:
            yield f"lost {', '.join(sorted(self.lost))}"
        if self.submissions > self.promised:
            yield f"{self.submissions} submissions for {self.promised} pictures"
        if "Traceback" in self.done.stderr:
            yield "a traceback"


def try_fault(command: str, fault: Fault, at: int | None, directory: Path, *, lasting: bool = False) -> Outcome:
    """Run a command with one fault against a server of its own, and look for the IDs."""
    accepted: set[str] = set()

    def submit(request: Request) -> bytes:
        task_id = f"task-{request.number}-{'x' * 12}"
        if len(request.body) == int(request.headers["content-length"]):  # otherwise it was canceled in time
            accepted.add(task_id)
        return reply({"task_id": task_id})

    cli = new_cli(directory)
    with Server({"/flux-imagine": submit}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        (cli.cwd / "rows.txt").write_text("".join(f"kite {row}\n" for row in range(ROWS)))
        with injected(fault, at, lasting=lasting) as count, contextlib.ExitStack() as stack:
            for name, seconds in TIMES.items():
                stack.enter_context(mock.patch(f"flux_cli.engine.{name}", seconds))
            done = cli(*COMMANDS[command], timeout=90)
        found = _findable(cli, done)
        return Outcome(
            done,
            count[0],
            accepted,
            {task_id for task_id in accepted if task_id not in found},
            server.submissions,
            {"imagine": 1, "imagine -n": 5, "imagine --no-wait": 4, "imagine -o -": 1, "batch": ROWS}.get(
                command, 0
            ),
        )


def _findable(cli: Cli, done: Done) -> str:
    """Return everything in which a user finds IDs: stdout, stderr, the history, and the batch directory."""
    texts = [done.stdout, done.stderr]
    texts += [str(record["task_id"]) for record in cli.history()]
    texts += [path.read_text(errors="replace") for path in (cli.cwd / "out").rglob("*.jsonl")]
    return re.sub(r"\s+", " ", " ".join(texts))


def main() -> None:
    """Print the table of every fault in every call of every command; arguments are parts of faults' names."""
    print(f"{'fault':28} {'command':20} {'calls':>6} {'IDs':>5} {'lost':>5} {'wrong':>6}")
    wrong = 0
    chosen = {name: fault for name, fault in FAULTS.items() if all(part in name for part in sys.argv[1:])}
    for name, fault in chosen.items():
        for command in COMMANDS:
            with tempfile.TemporaryDirectory() as directory:
                calls = try_fault(command, fault, None, Path(directory)).calls
            outcomes = []
            for at in range(calls):
                for lasting in (False, True):
                    with tempfile.TemporaryDirectory() as directory:
                        outcomes.append(try_fault(command, fault, at, Path(directory), lasting=lasting))
            lost = sum(len(outcome.lost) for outcome in outcomes)
            bad = [each for outcome in outcomes for each in outcome.complaints()]
            wrong += len(bad)
            total = sum(len(outcome.accepted) for outcome in outcomes)
            print(f"{name:28} {command:20} {calls:6} {total:5} {lost:5} {len(bad):6}")
            for each in bad[:3]:
                print(f"    {each}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
