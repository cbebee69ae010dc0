"""The outbox: what is committed when, and which events are delivered although it was not."""

import os
import signal
import time

import pytest

from flux_cli.api.task import Status
from flux_cli.engine import outbox as module
from flux_cli.engine.events import Ended, Event, Submitted, Unrecorded
from flux_cli.engine.outbox import BUSY, BUSY_RETRY_SECONDS, HOLD_SECONDS, Outbox
from flux_cli.engine.result import Result
from flux_cli.engine.signals import Interrupts
from flux_cli.engine.store import Accepted, Closed, Intent
from flux_cli.errors import LocalFileError, StoreBusyError
from tests.engine.kit import Clock, MemoryStore, known_jobs

LOCKED = StoreBusyError("locked")


class Setup:
    """An outbox with one change and one event, and what became of them."""

    def __init__(self, *script: Exception | None) -> None:
        self.store, self.clock, self.seen = MemoryStore(list(script)), Clock(), list[Event]()
        self.interrupts = Interrupts(lambda: None)
        self.outbox = Outbox(self.store, self.seen.append, self.interrupts, self.clock)
        (self.job,) = known_jobs("a")
        self.accepted, self.submitted = Accepted(self.job, "a"), Submitted(self.job)
        self.outbox.change(self.accepted)
        self.outbox.emit(self.submitted)


def test_a_busy_store_holds_changes_and_events() -> None:
    """After 30 s the events are delivered all the same; the changes are committed as soon as that is possible."""
    setup = Setup(LOCKED, LOCKED, LOCKED)
    outbox, store, clock, job = setup.outbox, setup.store, setup.clock, setup.job
    assert outbox.commit([job]) is LOCKED
    assert outbox.retry_at == clock.now + BUSY_RETRY_SECONDS
    clock.now += BUSY_RETRY_SECONDS / 2
    assert isinstance(outbox.commit([job]), StoreBusyError)  # what is sent next waits as well
    assert outbox.commit() is None
    assert (store.commits, outbox.busy_seconds) == (1, BUSY_RETRY_SECONDS / 2)
    clock.now += BUSY_RETRY_SECONDS / 2
    assert outbox.commit() is None
    assert (store.commits, setup.seen) == (2, [])
    clock.now += HOLD_SECONDS - BUSY_RETRY_SECONDS
    assert outbox.commit() is None
    assert (store.commits, store.changes) == (3, [])
    assert [type(event) for event in setup.seen] == [Unrecorded, Submitted]
    clock.now += BUSY_RETRY_SECONDS
    assert outbox.commit([job]) is None
    assert store.changes == [setup.accepted, Intent(job)]
    assert outbox.retry_at is None
    assert (outbox.busy_seconds, len(setup.seen)) == (0.0, 2)


def test_a_busy_store_that_nothing_waits_for() -> None:
    """The only intent was held back by the throttle: until then nothing is due, and no event is held."""
    setup = Setup(None, LOCKED)
    assert setup.outbox.commit() is None
    assert setup.outbox.commit([setup.job]) is LOCKED
    setup.outbox.emit(setup.submitted)
    assert setup.outbox.commit() is None
    assert (setup.outbox.retry_at, len(setup.seen)) == (None, 2)


@pytest.mark.parametrize("sends", [True, False])
def test_a_store_that_cannot_be_written_keeps_what_it_can(sends: bool) -> None:
    """Each change by itself; the intents are not tried again, since nothing is sent without them."""
    setup = Setup(LOCKED, failure := LocalFileError("disk full"), failure)
    (other,) = known_jobs("b")
    setup.outbox.change(Accepted(other, "b"))
    setup.outbox.commit()
    setup.clock.now += BUSY_RETRY_SECONDS
    assert setup.outbox.commit([setup.job] if sends else []) is (failure if sends else None)
    assert setup.store.changes == [Accepted(other, "b")]
    assert setup.seen == [Unrecorded(setup.job, "disk full"), setup.submitted]
    assert setup.outbox.retry_at is None


@pytest.mark.parametrize("hurry", [True, False])
def test_the_last_commit(monkeypatch: pytest.MonkeyPatch, hurry: bool) -> None:
    """A busy store is waited for, but not after a second signal: then the task IDs are reported instead."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    setup = Setup(*[LOCKED] * 3)
    ended = Ended(setup.job, Result(Status.FINISHED, content=b"bytes"))
    setup.outbox.emit(ended)
    with setup.interrupts.deferred():
        for _ in range(2 if hurry else 1):
            os.kill(os.getpid(), signal.SIGINT)
    setup.outbox.close()
    unrecorded = [Unrecorded(setup.job, BUSY)]
    assert setup.seen == [*(unrecorded if hurry else []), setup.submitted, ended]
    assert setup.store.changes == ([] if hurry else [setup.accepted, Closed(setup.job, ended.result)])
    assert pauses == ([] if hurry else [BUSY_RETRY_SECONDS / 5] * 3)
    setup.outbox.close()
    assert len(setup.seen) == 2 + hurry


def test_the_last_commit_ends_without_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few seconds."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.0)
    setup = Setup(*[LOCKED] * 3)
    setup.outbox.close()
    assert (setup.store.commits, len(setup.seen)) == (1, 2)
