"""How jobs end at a deadline and at a signal, from each queue."""

from pathlib import Path
from typing import Any

import pytest

from flux_cli.api.task import Status, read_task
from flux_cli.api.transport import Dispatch
from flux_cli.engine.endings import Endings
from flux_cli.engine.events import Ended, Event
from flux_cli.engine.job import Job
from flux_cli.engine.outbox import Outbox
from flux_cli.engine.queues import Queues, Source
from flux_cli.engine.result import Result
from flux_cli.engine.signals import Interrupts
from flux_cli.engine.store import Closed
from flux_cli.errors import ExitCode, OutcomeUnknownError, ServiceDownError, SignalReceived
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saved, Transfer
from tests.engine.kit import MemoryStore, finished, known_jobs, running

TARGET = Target(Path("pictures"))
SENT = Dispatch()
SENT.send()
REMARKABLE = read_task(running(message="third queue", status="meditating"), "a")
DONE = read_task(finished(), "a")
LOST = OutcomeUnknownError("no response had arrived yet")


class Ending:
    """One job in one queue, to be ended 7 s after it began."""

    def __init__(self, queue: str, *, waits: bool = True, **fields: Any) -> None:
        self.job = Job(TARGET, began=93.0, recorded={"prompt": "kite"}, **fields)
        self.queues, self.store, self.seen = Queues(), MemoryStore(), list[Event]()
        self.outbox = Outbox(self.store, self.seen.append, Interrupts(lambda: None), lambda: 100.0)
        self.endings = Endings(self.queues, self.outbox, waits, lambda: 100.0)
        getattr(self.queues, queue)[self.job] = 100.0

    def result(self) -> Result:
        self.outbox.commit()
        (ended,) = self.seen
        assert isinstance(ended, Ended)
        assert not self.queues
        assert self.endings.codes == {ended.result.exit_code}
        assert ended.result.request == {"prompt": "kite"}
        assert (ended.result.task, ended.result.task_id) == (self.job.task, self.job.task_id)
        assert ended.result.resumable == (ended.result.status not in (Status.UNSENT, Status.UNKNOWN))
        assert [type(change) for change in self.store.changes] == [Closed]
        return ended.result


@pytest.mark.parametrize(
    ("queue", "fields", "status", "code", "error"),
    [
        ("to_submit", {}, Status.UNSENT, 7, "timed out before it was sent"),
        ("to_submit", {"last_error": "429"}, Status.UNSENT, 5, "timed out before it was sent: 429"),
        ("submitting", {}, Status.UNSENT, 5, "timed out before it was sent: no connection yet"),
        ("submitting", {"dispatch": SENT}, Status.UNKNOWN, 9, "no response had arrived yet"),
        ("running", {}, Status.PROCESSING, 7, "timed out, the task is still running"),
        ("running", {"last_error": "502"}, Status.PROCESSING, 5, "timed out: 502"),
        ("checking", {"task": REMARKABLE}, Status.PROCESSING, 7, f"still running ({REMARKABLE.remark})"),
        ("to_save", {"task": DONE}, Status.FINISHED, 7, "timed out during the download"),
        ("saving", {"task": DONE}, Status.FINISHED, 7, "timed out during the download"),
        ("saving", {"task": DONE, "last_error": "HTTP 503"}, Status.FINISHED, 5, "timed out: HTTP 503"),
    ],
)
def test_the_deadline(queue: str, fields: dict[str, Any], status: Status, code: int, error: str) -> None:
    """A task that was charged can be resumed."""
    ending = Ending(queue, task_id="a" if status in (Status.PROCESSING, Status.FINISHED) else None, **fields)
    ending.endings.time_out(Source([]))
    result = ending.result()
    assert (result.status, result.exit_code, result.elapsed) == (status, code, 7.0)
    assert str(result.error).endswith(error)


@pytest.mark.parametrize(
    ("reason", "code", "text", "unknown"),
    [
        (KeyboardInterrupt(), ExitCode.SIGINT, "interrupted", ExitCode.SIGINT),
        (SignalReceived(15), ExitCode.SIGTERM, "interrupted", ExitCode.SIGTERM),
        (ServiceDownError("no thread"), ExitCode.SERVICE_DOWN, "no thread", ExitCode.OUTCOME_UNKNOWN),
        (ValueError("a bug"), ExitCode.UNEXPECTED, "interrupted", ExitCode.OUTCOME_UNKNOWN),
    ],
)
def test_the_end_of_the_run(reason: BaseException, code: ExitCode, text: str, unknown: ExitCode) -> None:
    """An unknown outcome is the worst of the ends, except for a signal."""
    for queue, fields, expected in (
        ("to_submit", {}, (Status.UNSENT, code, f"{text} before it was sent")),
        ("to_submit", {"last_error": "429"}, (Status.UNSENT, code, f"{text} before it was sent: 429")),
        ("submitting", {}, (Status.UNSENT, code, f"{text} before it was sent: no connection yet")),
        ("submitting", {"dispatch": SENT}, (Status.UNKNOWN, unknown, LOST.message)),
        ("running", {"task_id": "a"}, (Status.PROCESSING, code, text)),
        ("saving", {"task_id": "a", "task": DONE}, (Status.FINISHED, code, text)),
    ):
        ending = Ending(queue, **fields)
        ending.endings.abandon(reason)
        result = ending.result()
        assert (result.status, result.exit_code, result.error) == expected


def test_jobs_that_were_not_taken_up_end_at_the_deadline() -> None:
    """One with a task can be resumed."""
    ending = Ending("to_submit")
    ending.endings.time_out(Source([Job(TARGET), *known_jobs("b")]))
    ending.outbox.commit()
    results = [event.result for event in ending.seen if isinstance(event, Ended)]
    assert [result.status for result in results] == [Status.UNSENT, Status.UNSENT, Status.PROCESSING]
    assert {result.exit_code for result in results} == {ExitCode.GAVE_UP_WAITING}
    assert results[2].resumable


def test_one_that_cannot_be_ended_does_not_keep_the_others() -> None:
    """A partial file that cannot be removed, for example."""

    class Broken(Transfer):
        def close(self) -> None:
            raise OSError

    ending = Ending("running", task_id="a", transfer=Broken(TARGET, {}, 1))
    (other,) = known_jobs("b")
    ending.queues.saving[other] = 100.0
    ending.endings.abandon(KeyboardInterrupt())
    ending.outbox.commit()
    assert [event.job for event in ending.seen] == [other]


def test_what_an_ending_keeps() -> None:
    """The code and hint of an error; the saved picture of a job whose original is missing."""
    ending = Ending("submitting", waits=False)
    ending.endings.end_rejected(ending.job, Status.UNKNOWN, LOST)
    result = ending.result()
    assert (result.exit_code, result.error, result.hint) == (LOST.exit_code, LOST.message, LOST.hint)
    assert result.elapsed is None
    assert not ending.endings.saved_any
    ending = Ending("saving", task_id="a", task=DONE, transfer=Transfer(TARGET, {}, 1))
    assert ending.job.transfer is not None
    ending.job.transfer.saved = Saved(Path("x.png"), sha256="0" * 64)
    ending.endings.end_unfinished(ending.job, ServiceDownError("HTTP 503", "try later"))
    result = ending.result()
    assert (result.exit_code, result.path, result.sha256) == (ExitCode.SERVICE_DOWN, Path("x.png"), "0" * 64)
    assert (result.error, result.hint, ending.endings.saved_any) == ("HTTP 503", "try later", True)
