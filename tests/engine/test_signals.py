"""Signals: noted during a run, raised before and after it."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from flux_cli.engine import signals
from flux_cli.engine.signals import Interrupts
from flux_cli.errors import SignalReceived

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (INT, TERM, HUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock by the last number of a list."""
    times = [64.0]
    monkeypatch.setattr("time.monotonic", lambda: times[-1])
    return times


def test_signals_raise_unless_they_are_ignored() -> None:
    """Nohup ignores SIGHUP; nothing changes the exit code at the end."""
    signal.signal(HUP, signal.SIG_IGN)
    signals.install()
    with pytest.raises(SignalReceived) as raised:
        os.kill(os.getpid(), TERM)
    assert raised.value.exit_code == 128 + TERM
    assert signal.getsignal(HUP) is signal.SIG_IGN
    signals.ignore()
    assert {signal.getsignal(number) for number in (INT, TERM, HUP)} == {signal.SIG_IGN}


@pytest.mark.parametrize(
    ("arrived", "hurry"),
    [
        ([(0.0, INT)], False),
        ([(0.0, INT), (0.0, INT)], True),
        ([(0.0, TERM), (0.25, TERM)], False),  # GNU timeout sends two
        ([(0.0, INT), (0.25, HUP), (0.25, INT)], True),
        ([(0.0, TERM), (0.5, TERM)], True),
    ],
)
def test_signals_of_a_run_are_noted(now: list[float], arrived: list[tuple[float, int]], hurry: bool) -> None:
    """A second request to end is urgent."""
    woken: list[None] = []
    interrupts = Interrupts(lambda: woken.append(None))
    with interrupts.deferred():
        for at, number in arrived:
            now.append(64.0 + at)
            os.kill(os.getpid(), number)
    assert type(interrupts.first) is (KeyboardInterrupt if arrived[0][1] == INT else SignalReceived)
    assert interrupts.hurry == hurry
    assert len(woken) == 1 + hurry


def test_only_a_second_signal_ends_a_delivery(now: list[float]) -> None:
    """It may wait for a reader of stdout that never reads; elsewhere it could drop a charged task."""
    interrupts = Interrupts(lambda: None)
    with interrupts.deferred():
        with interrupts.raising():
            os.kill(os.getpid(), TERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), INT)
        os.kill(os.getpid(), INT)


def test_after_the_run(now: list[float]) -> None:
    """The handlers are back, unless the run was ended by a signal: then the same request is not repeated."""
    before = signal.getsignal(TERM)
    with Interrupts(lambda: None).deferred():
        assert signal.getsignal(TERM) != before
    assert signal.getsignal(TERM) == before
    interrupts = Interrupts(lambda: None)
    with interrupts.deferred():
        os.kill(os.getpid(), INT)
    os.kill(os.getpid(), TERM)
    assert interrupts.hurry
    now[-1] += 0.5
    with pytest.raises(SignalReceived) as raised:
        os.kill(os.getpid(), HUP)
    assert raised.value.exit_code == 128 + HUP


def test_a_run_in_another_thread() -> None:
    """Python lets only the main thread set handlers."""
    ended = threading.Event()

    def run() -> None:
        with Interrupts(lambda: None).deferred():
            pass
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended.is_set()
