"""Signals in each phase of a command: the exit code, the messages, and what is left."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from flux_cli.api.task import Status
from tests.conftest import KEY, Cli, interrupt, wait_until
from tests.faults.table import records
from tests.server import Reply, Server, http, png, reply

RUNNING = reply({"task_id": "task-0", "status": "processing", "percentage": 40})
PICTURE = http(200, png(300_000))
SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@dataclass(frozen=True)
class Phase:
    """The state of a command when the signal arrives.

    Attributes:
        name: What it does.
        routes: What the server does to keep it there.
        reached: The path that it has asked for then, and how often.
        status: What the history says afterwards.
        says: What stderr says.
        flags: More of the command line.
        all_signals: SIGTERM and SIGHUP are tested, too.
    """

    name: str
    routes: dict[str, Reply]
    reached: tuple[str, int]
    status: Status
    says: str
    flags: tuple[str, ...] = ()
    all_signals: bool = False


BILLED = "may have been accepted and charged"
RESUME = "flux-cli wait task-0"
PHASES = (
    Phase("submitting", {"/flux-imagine": [60.0]}, ("/flux-imagine", 1), Status.UNKNOWN, BILLED, all_signals=True),
    Phase(
        "asked to slow down",
        {"/flux-imagine": reply({}, 429, Retry_After="50")},
        ("/flux-imagine", 1),
        Status.UNSENT,
        "interrupted before it was sent",
    ),
    Phase("waiting for a response", {"/fetch": [60.0]}, ("/fetch", 1), Status.PROCESSING, RESUME),
    Phase("waiting", {"/fetch": RUNNING}, ("/fetch", 1), Status.PROCESSING, RESUME, all_signals=True),
    Phase("waiting, -q", {"/fetch": RUNNING}, ("/fetch", 1), Status.PROCESSING, RESUME, ("-q",)),
    Phase("waiting, --json", {"/fetch": RUNNING}, ("/fetch", 1), Status.PROCESSING, RESUME, ("--json",)),
    Phase("trying again", {"/fetch": http(503)}, ("/fetch", 2), Status.PROCESSING, RESUME),
    Phase(
        "downloading",
        {"/image": [PICTURE[:200_000], 60.0]},
        ("/image", 1),
        Status.FINISHED,
        RESUME,
        all_signals=True,
    ),
    Phase("downloading again", {"/image": http(503)}, ("/image", 2), Status.FINISHED, RESUME),
)


@pytest.fixture
def at(cli: Cli) -> Iterator[Callable[[Phase], tuple["subprocess.Popen[bytes]", Server]]]:
    """Return a function that takes a command to a phase."""
    servers: list[Server] = []

    def reach(phase: Phase) -> tuple["subprocess.Popen[bytes]", Server]:
        server = Server(phase.routes).__enter__()
        servers.append(server)
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        process = cli.start("imagine", "x", *phase.flags)
        path, times = phase.reached
        wait_until(lambda: len(server.requests(path)) >= times)
        wait_until(lambda: [record.status for record in records(cli)] == [phase.status])
        return process, server

    yield reach
    for server in servers:
        server.__exit__()


CASES = [(phase, number) for phase in PHASES for number in SIGNALS if number == signal.SIGINT or phase.all_signals]


@pytest.mark.parametrize(
    ("phase", "number"), CASES, ids=[f"{signal.Signals(number).name} {phase.name}" for phase, number in CASES]
)
def test_a_signal(
    cli: Cli, at: Callable[[Phase], tuple["subprocess.Popen[bytes]", Server]], phase: Phase, number: int
) -> None:
    """The exit code of the contract, the message, no file, and the record that the next command needs."""
    process, server = at(phase)
    done = interrupt(process, number)
    assert done.code == SIGNALS[number], done.stderr
    assert phase.says in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.files() == []
    assert [record.status for record in records(cli)] == [phase.status]
    assert server.submissions == 1
    if "--json" in phase.flags:
        (told_of,) = done.objects
        assert (told_of["task_id"], told_of["exit_code"]) == ("task-0", done.code)


def test_before_anything_is_sent(cli: Cli) -> None:
    """While it connects, nothing can have been charged, and the message says so."""
    with Server(accepts=False) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        process = cli.start("imagine", "x")
        wait_until(lambda: records(cli))
        done = interrupt(process)
    assert done.code == 130
    assert "before it was sent" in done.stderr
    assert [record.status for record in records(cli)] == [Status.UNSENT]


def test_while_the_prompt_is_read(cli: Cli) -> None:
    """There is no message."""
    cli.env |= {"APIFRAME_API_KEY": KEY}
    for number, code in SIGNALS.items():
        process = cli.start("imagine", stdin=subprocess.PIPE)
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            while True:  # until the pipe is full
                os.write(pipe, b"x" * 4096)
        assert select.select([], [pipe], [], 20)[1]  # it is read from
        done = interrupt(process, number)
        assert (done.code, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("phase", [PHASES[0], PHASES[3], PHASES[7]], ids=lambda phase: phase.name)
def test_two_signals_at_once(
    cli: Cli, at: Callable[[Phase], tuple["subprocess.Popen[bytes]", Server]], phase: Phase
) -> None:
    """An impatient second Ctrl-C loses nothing that the first would have kept."""
    process, _ = at(phase)
    process.send_signal(signal.SIGINT)
    done = interrupt(process)
    assert done.code == 130
    assert "Traceback" not in done.stderr
    assert [record.status for record in records(cli)] == [phase.status]
    assert cli.files() == []


@pytest.mark.parametrize("pause", [0.003, 0.015, 0.04])
def test_a_second_signal_at_any_moment_after_the_first(
    at: Callable[[Phase], tuple["subprocess.Popen[bytes]", Server]], pause: float
) -> None:
    """The exit code stays the first one's while the program ends: Python itself would die of the signal."""
    process, _ = at(PHASES[3])
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    done = interrupt(process)
    assert done.code == 130
    assert "Traceback" not in done.stderr
    assert "flux-cli wait task-0" in done.stderr


def ignore_hangup() -> None:
    """Ignore SIGHUP, as nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_nohup(cli: Cli) -> None:
    """A hang-up that is ignored when the command starts stays ignored."""
    with Server({"/fetch": RUNNING}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        process = cli.start("imagine", "x", preexec_fn=ignore_hangup)
        wait_until(lambda: server.requests("/fetch"))
        process.send_signal(signal.SIGHUP)
        checks = len(server.requests("/fetch"))
        wait_until(lambda: len(server.requests("/fetch")) > checks + 1)
        server.routes = {}
        assert process.wait(timeout=20) == 0
    assert len(cli.files()) == 1
