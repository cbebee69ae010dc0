"""A fault in one call of a run, for every kind of call and every command: no task ID is lost or charged twice.

The second call of each kind fails. `FAULT_CALLS=30 pytest tests/faults/test_injection.py` tries the first thirty.
"""

import contextlib
import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest

from flux_cli.api.client import Client
from flux_cli.batch.journal import Journal
from flux_cli.engine.checks import Checks
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import LocalFileError, StoreBusyError
from flux_cli.pictures.saving import Saver
from flux_cli.storage import files
from flux_cli.ui import console
from flux_cli.ui.reporter import Reporter
from tests.conftest import KEY, Cli
from tests.server import Request, Server, reply

CALLS = range(int(os.environ.get("FAULT_CALLS", "0"))) or [1]
COMMANDS: dict[str, int] = {
    "imagine kite --sidecar": 1,
    "imagine kite -n 5 --seed 7 --json": 5,
    "imagine kite -n 4 --no-wait": 4,
    "imagine kite -o -": 1,
    "wait known-0 known-1 known-2": 0,
    "fetch known-0 known-1 -o out/": 0,
    "batch rows.txt -o out --sidecar": 6,
}
"""Command lines, and the most submissions of each."""
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


def raises(kind: type[Exception], *arguments: object) -> Callable[[], None]:
    def effect() -> None:
        raise kind(*arguments)

    return effect


def kills(*numbers: int) -> Callable[[], None]:
    def effect() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return effect


def is_worker(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "").startswith("flux_cli.engine")


@dataclass(frozen=True)
class Fault:
    """What goes wrong instead of a call, or before it if `replaces` is false."""

    owner: Any
    name: str
    effect: Callable[[], None]
    replaces: bool = True
    counts: Callable[..., bool] = lambda *_: True


FULL = raises(OSError, errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILED = raises(LocalFileError, "cannot write: input/output error")
BUG = raises(ZeroDivisionError)
CTRL_C, TWO_SIGNALS = kills(signal.SIGINT), kills(signal.SIGINT, signal.SIGTERM)
FAULTS: dict[str, Fault] = {
    "no thread can start": Fault(
        threading.Thread, "start", raises(RuntimeError, "can't start new thread"), counts=is_worker
    ),
    "fsync: disk full": Fault(os, "fsync", FULL),
    "link: disk full": Fault(os, "link", FULL),
    "temporary file: disk full": Fault(files, "_created", FULL),
    "history: cannot be written": Fault(HistoryStore, "commit", FAILED),
    "history: locked": Fault(HistoryStore, "commit", raises(StoreBusyError, "database is locked")),
    "journal: cannot be written": Fault(Journal, "append", FAILED),
    "display fails": Fault(Reporter, "handle", BUG),
    "stdout is closed": Fault(console, "out_bytes", raises(BrokenPipeError)),
    "a bug in the saver": Fault(Saver, "save", BUG),
    "a bug in a status check": Fault(Client, "fetch_many", BUG),
    "a bug in the loop": Fault(Checks, "_start", BUG),
    "Ctrl-C at an event": Fault(Reporter, "handle", CTRL_C, replaces=False),
    "Ctrl-C at a commit": Fault(HistoryStore, "commit", CTRL_C, replaces=False),
    "Ctrl-C at a journal entry": Fault(Journal, "append", CTRL_C, replaces=False),
    "two signals at an event": Fault(Reporter, "handle", TWO_SIGNALS, replaces=False),
    "two signals at a commit": Fault(HistoryStore, "commit", TWO_SIGNALS, replaces=False),
}


@contextlib.contextmanager
def injected(fault: Fault, at: int, *, lasting: bool) -> Iterator[None]:
    """Inject a fault into the call with this number (from 0), and with `lasting` into all after it."""
    original = getattr(fault.owner, fault.name)
    count = 0
    lock = threading.Lock()

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        if not fault.counts(*arguments):
            return original(*arguments, **named)
        with lock:
            number, count = count, count + 1
        if number == at or (lasting and number > at):
            fault.effect()
            if fault.replaces:
                return None
        return original(*arguments, **named)

    with mock.patch.object(fault.owner, fault.name, call):
        yield


@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FAULTS)
def test_no_id_is_lost(
    name: str, command: str, lasting: bool, at: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users find each in stdout, stderr, the history or the batch directory."""
    monkeypatch.chdir(cli.cwd)  # also for workers that outlast the command
    accepted: set[str] = set()

    def submit(request: Request) -> bytes:
        task_id = f"task-{request.number}-{'x' * 12}"
        if len(request.body) == int(request.headers["content-length"]):  # otherwise it was canceled in time
            accepted.add(task_id)
        return reply({"task_id": task_id})

    (cli.cwd / "rows.txt").write_text("".join(f"kite {row}\n" for row in range(6)))
    with Server({"/flux-imagine": submit}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        for constant, seconds in TIMES.items():
            monkeypatch.setattr(f"flux_cli.engine.{constant}", seconds)
        with injected(FAULTS[name], at, lasting=lasting):
            done = cli(*command.split(), timeout=90)
    texts = [done.stdout, done.stderr, *(str(record["task_id"]) for record in cli.history())]
    texts += [path.read_text(errors="replace") for path in (cli.cwd / "out").rglob("*.jsonl")]
    findable = re.sub(r"\s+", " ", " ".join(texts))
    assert [task_id for task_id in accepted if task_id not in findable] == [], done.stderr
    assert server.submissions <= COMMANDS[command]
    assert "Traceback" not in done.stderr
