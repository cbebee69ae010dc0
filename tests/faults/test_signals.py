"""Signals in each phase of a command: the exit code, the messages, and what is left."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from flux_cli.api.task import Status
from tests.conftest import KEY, Cli, interrupt, wait_until
from tests.faults.table import records
from tests.server import Reply, Server, http, png, reply

RUNNING = reply({"task_id": "task-0", "status": "processing", "percentage": 40})
PICTURE = http(200, png(300_000))
SIGNALS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Phase(NamedTuple):
    """What a command does when the signal arrives; `reached` is a request that it has sent then."""

    name: str
    routes: dict[str, Reply]
    reached: str
    status: Status
    says: str
    flags: tuple[str, ...] = ()


RESUME = "flux-cli wait task-0"
SUBMITTING = Phase(
    "submitting",
    {"/flux-imagine": [60.0]},
    "/flux-imagine",
    Status.UNKNOWN,
    "may have been accepted and charged",
)
WAITING = Phase("waiting", {"/fetch": RUNNING}, "/fetch", Status.PROCESSING, RESUME)
DOWNLOADING = Phase("downloading", {"/image": [PICTURE[:200_000], 60.0]}, "/image", Status.FINISHED, RESUME)
PHASES = (SUBMITTING, WAITING, DOWNLOADING)
CASES = [(phase, number) for phase in PHASES for number in SIGNALS]
CASES += [(WAITING._replace(flags=(flag,)), signal.SIGINT) for flag in ("-q", "--json")]

At = Callable[[Phase], "subprocess.Popen[bytes]"]


@pytest.fixture
def at(cli: Cli) -> Iterator[At]:
    with Server() as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}

        def reach(phase: Phase) -> "subprocess.Popen[bytes]":
            server.routes = phase.routes
            process = cli.start("imagine", "x", *phase.flags)
            wait_until(lambda: server.requests(phase.reached))
            wait_until(lambda: [record.status for record in records(cli)] == [phase.status])
            return process

        yield reach
        assert server.submissions == 1


@pytest.mark.parametrize(
    ("phase", "number"),
    CASES,
    ids=[" ".join([signal.Signals(number).name, phase.name, *phase.flags]) for phase, number in CASES],
)
def test_a_signal(cli: Cli, at: At, phase: Phase, number: int) -> None:
    """The exit code of the contract, the message, no file, and the record that the next command needs."""
    done = interrupt(at(phase), number)
    assert done.code == SIGNALS[number], done.stderr
    assert phase.says in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.files() == []
    assert [record.status for record in records(cli)] == [phase.status]
    if "--json" in phase.flags:
        assert [(each["task_id"], each["exit_code"]) for each in done.objects] == [("task-0", done.code)]


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


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_two_signals_at_once(cli: Cli, at: At, phase: Phase) -> None:
    """An impatient second Ctrl-C loses nothing that the first would have kept."""
    process = at(phase)
    process.send_signal(signal.SIGINT)
    done = interrupt(process)
    assert done.code == 130
    assert "Traceback" not in done.stderr
    assert [record.status for record in records(cli)] == [phase.status]
    assert cli.files() == []


@pytest.mark.parametrize("pause", [0.003, 0.015, 0.04])
def test_a_second_signal_at_any_moment_after_the_first(at: At, pause: float) -> None:
    """The exit code stays the first one's while the program ends: Python itself would die of the signal."""
    process = at(WAITING)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    done = interrupt(process)
    assert done.code == 130
    assert "Traceback" not in done.stderr
    assert RESUME in done.stderr


def ignore_hangup() -> None:
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
