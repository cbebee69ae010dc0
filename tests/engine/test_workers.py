"""The workers: threads that may not start, operations that take too long, and time that jumps."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flux_cli.engine import workers as module
from flux_cli.engine.workers import Operation, Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.stop()


class Outcomes:
    """What operations came to."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.values: list[Any] = []

    def start(self, work: Callable[[Operation], Any], seconds: float | None = None) -> bool:
        late = TimeoutError("it took too long")
        if not self._workers.reserve(1):
            return False
        self._workers.start(Operation(work, self.values.append, self.values.append, seconds, lambda: late))
        return True

    def wait(self, count: int) -> list[Any]:
        until = time.monotonic() + 20
        while len(self.values) < count:
            assert time.monotonic() < until
            self._workers.wait(0.5)
        return self.values


@pytest.fixture
def outcomes(workers: Workers) -> Outcomes:
    return Outcomes(workers)


def test_reports_are_handled_in_the_waiting_thread(workers: Workers, outcomes: Outcomes) -> None:
    """Results and errors alike."""
    threads: set[int] = set()

    def work(_: Operation) -> int:
        threads.add(threading.get_ident())
        return 1

    error = ValueError()

    def fail(_: Operation) -> None:
        raise error

    outcomes.start(work)
    outcomes.start(fail)
    assert set(outcomes.wait(2)) == {1, error}
    assert threading.get_ident() not in threads


def test_threads_are_used_again(workers: Workers, outcomes: Outcomes) -> None:
    """A hundred operations one after the other take one thread."""
    for number in range(100):
        outcomes.start(lambda _: None)
        outcomes.wait(number + 1)
    assert workers.threads == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not set processors")
def test_workers_share_a_processor(workers: Workers, outcomes: Outcomes) -> None:
    """And only they: the caller's thread, and so the programs that it starts, may use all."""
    mine = os.sched_getaffinity(0)
    barrier = threading.Barrier(2)  # so that two threads are needed

    def processors(_: Operation) -> set[int]:
        barrier.wait(20)
        return os.sched_getaffinity(0)

    outcomes.start(processors)
    outcomes.start(processors)
    one, other = outcomes.wait(2)
    assert one == other
    assert len(one) == 1
    assert os.sched_getaffinity(0) == mine


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_cannot_start_means_no_capacity(
    workers: Workers, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The existing workers continue, and another one is started later."""
    release = threading.Event()
    assert outcomes.start(lambda _: release.wait(20))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert not outcomes.start(lambda _: None)
        assert workers.reserve(5) == 0
        assert workers.starved_seconds == 0  # there is one
        release.set()
        outcomes.wait(1)
        assert outcomes.start(lambda _: 2)
        assert outcomes.wait(2)[-1] == 2
    assert workers.reserve(2) == 1
    monkeypatch.setattr(module, "START_AGAIN_SECONDS", 0.0)
    assert workers.reserve(2) == 2


def test_not_even_one_thread(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is counted, so that the run can end."""
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(module, "START_AGAIN_SECONDS", 0.0)
    assert workers.reserve(1) == 0
    first = workers.starved_seconds
    assert workers.reserve(1) == 0
    assert workers.starved_seconds > first > 0


def test_the_number_of_threads_grows_slowly(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen at once, then eight more at a time."""
    times = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[-1])
    assert [workers.reserve(40), workers.reserve(40)] == [16, 16]
    times.append(100.0 + module.GROWTH_SECONDS)
    assert [workers.reserve(40), workers.reserve(40), workers.reserve(3)] == [24, 24, 3]


def test_threads_and_operations_end_with_the_run(workers: Workers) -> None:
    """An operation that still runs is aborted; the threads are on one processor, if the system has a choice."""
    before, release = set(threading.enumerate()), threading.Event()
    processors: list[set[int]] = []

    def work(_: Operation) -> None:
        processors.append(os.sched_getaffinity(0))
        release.wait(20)

    operations = [Operation(work, lambda _: None, lambda _: None, None, TimeoutError) for _ in range(3)]
    for operation in operations:
        workers.reserve(1)
        workers.start(operation)
    workers.stop()
    assert workers.stopped.is_set()
    assert all(operation.abort.aborted for operation in operations)
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    one = workers._processor
    assert processors == [os.sched_getaffinity(0) if one is None else {one}] * 3


def test_an_operation_that_has_ended_cannot_run_out_of_time(
    workers: Workers, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes.start(lambda _: 1, 60.0)
    outcomes.wait(1)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 1000.0)
    for _ in range(3):
        workers.wait(0)
    assert outcomes.values == [1]


def test_an_operation_that_takes_too_long_is_aborted(workers: Workers, outcomes: Outcomes) -> None:
    """Its socket is shut down, and the error says why; the thread is free again."""
    ours, theirs = socket.socketpair()

    def work(operation: Operation) -> bytes:
        operation.abort.attach(ours)
        if not (content := ours.recv(1)):
            raise ConnectionError("closed")
        return content

    with ours, theirs:
        outcomes.start(work, 0.05)
        (error,) = outcomes.wait(1)
    assert isinstance(error, TimeoutError)
    outcomes.start(lambda _: 2)
    assert outcomes.wait(2)[1] == 2
    assert workers.threads == 1


def test_an_operation_that_cannot_be_aborted_is_abandoned(
    workers: Workers, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DNS lookup, for example; its late report is ignored."""
    monkeypatch.setattr(module, "ABANDON_SECONDS", 0.05)
    release = threading.Event()
    outcomes.start(lambda _: release.wait(20), 0.05)
    (error,) = outcomes.wait(1)
    assert isinstance(error, TimeoutError)
    release.set()
    outcomes.start(lambda _: 2)
    while workers._idle < workers.threads:
        workers.wait(0.5)
    assert outcomes.values == [error, 2]


def test_progress_extends_the_limit(workers: Workers, outcomes: Outcomes) -> None:
    """The limit is for the silence between two steps."""
    steps = threading.Semaphore(0)

    def work(operation: Operation) -> int:
        for _ in range(5):
            steps.acquire()
            operation.extend()
        return operation.ends_at > time.monotonic() + 5

    outcomes.start(work, 10.0)
    for _ in range(5):
        steps.release()
    assert outcomes.wait(1) == [True]


@pytest.mark.parametrize("during_a_wait", [True, False])
def test_a_response_that_arrived_during_a_pause_is_read(
    workers: Workers, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch, during_a_wait: bool
) -> None:
    """After a stop of the process the time is over, but the response is here: it counts."""
    paused = [0.0]
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + paused[0])
    monkeypatch.setattr(module, "RESUME_SECONDS", 20.0)
    release = threading.Event()

    def work(operation: Operation) -> str:
        release.wait(20)
        return "aborted" if operation.abort.aborted else "a response"

    outcomes.start(work, 60.0)

    def resume() -> None:
        paused[0] = 120.0  # the clock advances while the process is stopped
        workers.wake()

    if during_a_wait:
        timer = threading.Timer(0.1, resume)
        timer.start()
        workers.wait(30)
        timer.join()
    else:
        resume()
    workers.wait(0)
    workers.wait(0)
    release.set()
    assert outcomes.wait(1) == ["a response"]


def test_a_wait_is_short_and_a_wake_ends_it(workers: Workers) -> None:
    """A signal that arrives just before a wait is noticed after half a second."""
    assert module.MAX_WAIT_SECONDS <= 0.5
    workers.wake()
    workers.wait(60)


def test_a_wait_ends_although_a_signal_handler_outlasts_it(workers: Workers) -> None:
    """The handler of Ctrl-Z returns only after `fg`, long after the wait should have ended."""
    rescued = threading.Event()

    def rescue() -> None:
        rescued.set()
        workers.wake()

    timer = threading.Timer(20, rescue)
    previous = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
    try:
        timer.start()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        workers.wait(0.1)
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGALRM, previous)
    assert not rescued.is_set()
