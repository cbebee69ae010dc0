"""The engine's loop against a scripted client and a manual clock."""

import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flux_cli.api.client import ForbiddenError, RateLimitedError, UnknownTaskError
from flux_cli.api.request import Body
from flux_cli.api.task import Status, read_task
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine import events, outbox, run
from flux_cli.engine.downloads import MIN_DOWNLOADS
from flux_cli.engine.events import Event, NotDeliveredError
from flux_cli.engine.job import Job
from flux_cli.engine.outbox import BUSY_RETRY_SECONDS
from flux_cli.engine.polling import BLIND_SECOND, NEAR_SECONDS
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.store import Accepted, Closed, Intent, Postponed
from flux_cli.engine.submissions import MAX_FAILURES, SUBMIT_ATTEMPTS
from flux_cli.engine.throttle import FIRST_WINDOW
from flux_cli.errors import (
    BadResponseError,
    ExitCode,
    FluxError,
    LocalFileError,
    NotAllowedError,
    OutcomeUnknownError,
    ServiceDownError,
    StoreBusyError,
    UsageError,
)
from flux_cli.pictures.download import DownloadError, Retry
from flux_cli.pictures.saving import Saved
from flux_cli.storage.files import temporary
from tests.engine.kit import MemoryStore, ScriptedClient, Step, drive, finished, known_jobs, new_jobs, running


def test_one_job_from_request_to_file() -> None:
    """Events follow their commits."""
    committed: list[int] = []
    store = MemoryStore()
    (job,) = jobs = new_jobs()
    outcome = drive(jobs, store=store, handle=lambda _: committed.append(len(store.changes)))
    assert outcome.code == ExitCode.OK
    assert outcome.names() == ["Submitting", "Submitted", "Ended"]
    assert [type(change).__name__ for change in store.changes] == ["Intent", "Accepted", "Finished", "Closed"]
    assert committed[0] == 1
    assert outcome.results[0].path == Path("task-1.png")
    assert outcome.results[0].elapsed == pytest.approx(0.5 + 0.2)
    assert outcome.seconds == pytest.approx(0.1 + 0.5 + 0.2)  # with the submission
    assert store.state(job) == "saved"
    assert job.request == {}  # it may contain an image prompt of 20 MiB
    assert outcome.client.workers.stopped.is_set()


@pytest.mark.parametrize(("settings", "code"), [(RunSettings(wait=False), 0), (RunSettings(check_once=True), 7)])
def test_a_new_task_that_is_not_waited_for(settings: RunSettings, code: int) -> None:
    """For `--no-wait`, and for `imagine --timeout 0`."""
    outcome = drive(new_jobs(), settings=settings)
    (result,) = outcome.results
    assert (outcome.code, outcome.client.checks) == (code, [])
    assert (result.task_id, result.status, result.resumable) == ("task-1", Status.PROCESSING, code == 7)


@pytest.mark.parametrize(
    ("error", "sent", "status"),
    [
        (UsageError("bad"), 1, Status.FAILED),
        (NotAllowedError("no"), 1, Status.FAILED),
        (OutcomeUnknownError("lost"), 1, Status.UNKNOWN),
        (NotSentError("never", permanent=True), 1, Status.UNSENT),
        (NotSentError("nobody there"), SUBMIT_ATTEMPTS, Status.UNSENT),
        (RateLimitedError("slow down", 30.0), 3, Status.FAILED),
    ],
)
def test_a_submission_that_fails(error: FluxError, sent: int, status: Status) -> None:
    """It is resent only if it was certainly not accepted, and as long as the patience lasts, a minute in all."""
    outcome = drive(new_jobs(), ScriptedClient([error]))
    assert (outcome.code, len(outcome.client.sent)) == (error.exit_code, sent)
    assert outcome.results[0].status is status


def test_an_unreachable_service_ends_all_jobs() -> None:
    """One job makes all attempts, beside the first ones of a few others; the rest is never sent."""
    outcome = drive(new_jobs(20), ScriptedClient([NotSentError("nobody there")]))
    assert outcome.code == ExitCode.SERVICE_DOWN
    assert len(outcome.client.sent) == FIRST_WINDOW + SUBMIT_ATTEMPTS - 1
    assert {result.status for result in outcome.results} == {Status.UNSENT}
    assert outcome.seconds < 10


def test_unreachable_after_an_acceptance() -> None:
    """As long as the patience lasts: it was there a moment ago."""
    lost = [NotSentError("network is gone")] * (SUBMIT_ATTEMPTS + 3)
    client = ScriptedClient(["task-1", *lost, "task-2"])
    outcome = drive(new_jobs(2), client, RunSettings(concurrency=1, patience=600))
    assert outcome.code == ExitCode.OK
    assert len(client.sent) == 2 + len(lost)


@pytest.mark.parametrize(("asked", "least", "most"), [(20.0, 20.0, 20.2), (None, 0.25, 0.7)])
def test_429_is_resent_after_retry_after(asked: float | None, least: float, most: float) -> None:
    """And in between the store knows that it was not accepted: a kill there leaves nothing unknown."""
    client = ScriptedClient([RateLimitedError("slow down", asked), "task-1"])
    (job,) = jobs = new_jobs()
    states: list[tuple[int, str | None]] = []
    outcome = drive(jobs, client, handle=lambda _: states.append((job.attempts, job.last_error)))
    assert states[:3] == [(0, None), (1, "slow down"), (0, None)]
    assert outcome.code == ExitCode.OK
    assert least <= client.sent[1][0] - client.sent[0][0] <= most
    kinds = [type(change) for change in outcome.store.changes if change.job is job][:4]
    assert kinds == [Intent, Postponed, Intent, Accepted]


def test_resubmissions_keep_their_order() -> None:
    client = ScriptedClient([*[RateLimitedError("slow down", 1.0)] * 3, "a", "b", "c"])
    drive(new_jobs(3), client)
    assert [body["prompt"] for _, body in client.sent[3:]] == ["p1", "p2", "p3"]


def test_the_next_job_is_sent_when_the_pause_ends() -> None:
    """Although nothing else is due then."""
    client = ScriptedClient([RateLimitedError("slow down", 30.0), "task-1"])
    assert drive(new_jobs(2), client, RunSettings(concurrency=1, patience=20)).code == ExitCode.SERVICE_DOWN
    assert 30 <= client.sent[1][0] - client.sent[0][0] <= 30.2


@pytest.mark.parametrize(
    ("script", "sent", "reason"),
    [
        ([OutcomeUnknownError("lost")], MAX_FAILURES, "not sent: submissions keep failing: lost"),
        ([NotAllowedError("bad key")], 1, "bad key"),
        (["accepted", NotAllowedError("no credits")], 2, "no credits"),
        ([ForbiddenError("bad key")], 1, "bad key"),
        # The key is good: a gateway objects to something in these prompts.
        (["accepted", ForbiddenError("bad word")], 1 + MAX_FAILURES, "bad word"),
        ([UsageError("only this prompt")], 50, ""),
    ],
)
def test_failures_that_stop_the_run(script: list[Step], sent: int, reason: str) -> None:
    """The other jobs are not sent, which is known of them, and get the reason."""
    outcome = drive(new_jobs(50), client := ScriptedClient(script), RunSettings(concurrency=1))
    assert len(client.sent) == sent
    unsent = [result.error for result in outcome.results if result.status is Status.UNSENT]
    assert unsent == [reason] * (50 - sent)
    assert isinstance(script[-1], FluxError)
    assert outcome.code == script[-1].exit_code


def test_a_job_that_waits_to_be_resubmitted_at_the_deadline() -> None:
    """It was sent before, and certainly not accepted."""
    outcome = drive(new_jobs(), ScriptedClient([RateLimitedError("slow down", 30.0)]), RunSettings(timeout=10))
    (result,) = outcome.results
    assert (outcome.code, result.status) == (ExitCode.SERVICE_DOWN, Status.UNSENT)
    assert result.error == "timed out before it was sent: slow down"


def test_jobs_that_wait_to_be_resubmitted_when_the_run_stops() -> None:
    def handle(event: Event) -> None:
        if isinstance(event, events.Retrying):
            store.script = [LocalFileError("disk full")]

    store = MemoryStore()
    outcome = drive(new_jobs(3), ScriptedClient([RateLimitedError("slow down", 9.0)]), store=store, handle=handle)
    assert len(outcome.client.sent) == 3
    assert {(result.status, result.error) for result in outcome.results} == {
        (Status.UNSENT, "not sent: disk full")
    }
    assert outcome.seconds < 10


def test_the_number_of_submissions_grows() -> None:
    """Eight before the first response, one more for each acceptance, and never more tasks than wanted."""
    for settings, sent in ((RunSettings(concurrency=60), [8, 16, 32, 4]), (RunSettings(), [8, 8])):
        client = ScriptedClient(fetches={"": [*[running(1)] * 3, finished()]})
        drive(new_jobs(70), client, settings)
        assert list(Counter(at for at, _ in client.sent if at < 1000.5).values()) == sent


def test_an_intent_that_cannot_be_committed_is_not_sent() -> None:
    """Nor anything after it; this is reported before anything else is waited for."""
    before: list[float] = []
    client = ScriptedClient(fetches={"a": [running(5), finished()]})
    outcome = drive(
        [*known_jobs("a"), *new_jobs(30)],
        client,
        RunSettings(concurrency=2),
        store=MemoryStore([LocalFileError("disk full")]),
        handle=lambda event: before.append(client.clock.now) if isinstance(event, events.Ended) else None,
    )
    assert (outcome.client.sent, outcome.code) == ([], ExitCode.LOCAL_FILE)
    assert [result.status for result in outcome.results] == [*[Status.UNSENT] * 30, Status.FINISHED]
    assert set(before[:30]) == {1000.0}


def test_a_busy_store_is_waited_for() -> None:
    """With the patience of a 429; then everything is sent."""
    store = MemoryStore([StoreBusyError("locked")] * 20)
    outcome = drive(new_jobs(3), store=store)
    assert (outcome.code, len(outcome.client.sent)) == (ExitCode.OK, 3)
    assert outcome.seconds >= 20 * BUSY_RETRY_SECONDS


def test_a_store_that_stays_busy_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience, without waiting for anything else."""
    monkeypatch.setattr(outbox, "CLOSE_SECONDS", 0.0)
    store = MemoryStore([StoreBusyError("locked")] * 10_000)
    outcome = drive(new_jobs(3), store=store, settings=RunSettings(patience=10))
    assert (outcome.code, outcome.client.sent) == (ExitCode.LOCAL_FILE, [])
    assert outcome.seconds == 10


@pytest.mark.parametrize("kind", [events.Submitting, events.Submitted, events.Progress, events.Ended])
def test_a_handler_that_fails_ends_nothing(kind: type) -> None:
    """The pictures are still saved and committed; then the exception is raised, since it is a bug."""

    def handle(event: Event) -> None:
        if isinstance(event, kind):
            raise ZeroDivisionError

    jobs = new_jobs(3)
    outcome = drive(jobs, ScriptedClient(fetches={"": [running(5), finished()]}), handle=handle)
    assert isinstance(outcome.error, ZeroDivisionError)
    assert [outcome.store.state(job) for job in jobs] == ["saved"] * 3


@pytest.mark.parametrize("delivered", [True, False])
def test_a_picture_for_stdout_is_recorded_after_the_write(delivered: bool) -> None:
    """One that stdout did not take is finished and not saved; a kill during the write leaves it so, too."""

    def handle(event: Event) -> None:
        if isinstance(event, events.Ended):
            states.append(store.state(job))
            if not delivered:
                raise NotDeliveredError(ExitCode.SIGPIPE)

    (job,) = jobs = new_jobs()
    store, states = MemoryStore(), list[str]()
    outcome = drive(jobs, saves=[Saved(content=b"bytes")], store=store, handle=handle)
    assert [*states, store.state(job)] == [Status.FINISHED, "saved" if delivered else Status.FINISHED]
    assert outcome.code == (ExitCode.OK if delivered else ExitCode.SIGPIPE)


EMPTY = {"status": "finished"}
MEDITATING = {"status": "meditating", "message": "third queue"}
DOWN, UNKNOWN = ServiceDownError("502"), UnknownTaskError("no such task")


@pytest.mark.parametrize(
    ("jobs", "script", "code", "status", "error"),
    [
        (new_jobs, [{"status": "failed", "error": "moderated"}], 4, Status.FAILED, "moderated"),
        (new_jobs, [EMPTY], 4, Status.FAILED, "without an image URL"),
        (new_jobs, [EMPTY, EMPTY, finished()], 0, Status.FINISHED, ""),
        (new_jobs, [MEDITATING], 7, Status.PROCESSING, '"meditating": third queue'),
        (new_jobs, [UNKNOWN, finished()], 0, Status.FINISHED, ""),  # soon after its submission
        (new_jobs, [*[running()] * 12, UNKNOWN, finished()], 4, Status.FAILED, "no such task"),
        (partial(known_jobs, "a"), [UNKNOWN, finished()], 4, Status.FAILED, "no such task"),
        (new_jobs, [DOWN, DOWN, running(5)], 7, Status.PROCESSING, "still running"),
        (new_jobs, [running(5), DOWN], 5, Status.PROCESSING, "502"),  # only a failure that lasts is the service's
        (new_jobs, [NotAllowedError("bad key")], 3, Status.PROCESSING, "bad key"),
    ],
)
def test_how_a_task_ends(
    jobs: Callable[[], list[Job]], script: list[Step], code: int, status: Status, error: str
) -> None:
    """A task that is running can be resumed."""
    outcome = drive(jobs(), ScriptedClient(fetches={"": script}), RunSettings(timeout=60))
    (result,) = outcome.results
    assert (outcome.code, result.status, error in (result.error or "")) == (code, status, True)
    assert result.resumable == (status is Status.PROCESSING)
    assert outcome.names().count("Retrying") >= script.count(DOWN)


def test_pauses_begin_again_after_a_check_that_succeeds() -> None:
    script: list[Step] = [*[DOWN] * 6, running(), DOWN, finished()]
    outcome = drive(known_jobs("a"), ScriptedClient(fetches={"": script}))
    (before, _), (after, _) = outcome.client.checks[-2:]
    assert after - before < 0.7


def test_a_finished_task_without_a_target_ends() -> None:
    outcome = drive([Job(None, task_id="a")])
    assert [(result.status, result.path) for result in outcome.results] == [(Status.FINISHED, None)]


@pytest.mark.parametrize("seconds", [0.1, 20.0])
def test_the_deadline(seconds: float) -> None:
    """Every job gets an end that says how far it was, and a task that runs can be resumed."""
    client = ScriptedClient(fetches={"": [running(10)]}, seconds=seconds)
    outcome = drive(new_jobs(3), client, RunSettings(timeout=8, concurrency=2))
    assert len(outcome.results) == 3
    assert outcome.seconds <= 8 + run.SETTLE_SECONDS + 0.2
    statuses = [result.status for result in outcome.results]
    if seconds < 1:
        assert statuses.count(Status.PROCESSING) == 2
        assert outcome.code == ExitCode.GAVE_UP_WAITING
    else:
        assert Status.UNKNOWN in statuses
        assert outcome.code == ExitCode.OUTCOME_UNKNOWN


@pytest.mark.parametrize(
    ("response", "code", "resumable"),
    [(finished(), 0, False), (running(5), 7, True), (ServiceDownError("HTTP 503"), 5, True)],
)
def test_a_single_check(response: Step, code: int, resumable: bool) -> None:
    """For `wait --timeout 0`: a finished task is saved; one that runs, or cannot be checked, ends."""
    client = ScriptedClient(fetches={"": [response, finished()]})
    outcome = drive(known_jobs("a"), client, RunSettings(check_once=True))
    assert [(each.exit_code, each.resumable) for each in outcome.results] == [(code, resumable)]
    assert len(client.checks) == 1


def test_late_responses_at_the_deadline() -> None:
    """Each is the ID of a charged task."""
    client = ScriptedClient(seconds=5.0)
    outcome = drive(new_jobs(), client, RunSettings(timeout=4.0))
    assert outcome.results[0].task_id == "task-1"
    assert outcome.accepted == {"task-1"}


def test_checks_that_fail_are_repeated_in_smaller_groups() -> None:
    """One bad task may be the cause; the others are checked without it in the end."""
    client = ScriptedClient(fetches={"": [ServiceDownError("502")] * 4 + [finished()]})
    outcome = drive(known_jobs(*map(str, range(20))), client, RunSettings(concurrency=20))
    assert outcome.code == ExitCode.OK
    sizes = [len(ids) for _, ids in client.checks]
    assert sizes[0] == 20
    assert min(sizes[:8]) < 20


def test_tasks_in_flight() -> None:
    outcome = drive([*new_jobs(3), *known_jobs(*map(str, range(9)))], settings=RunSettings(concurrency=5))
    assert len(outcome.client.checks[0][1]) == 2
    assert outcome.code == ExitCode.OK


def test_one_request_checks_many_tasks() -> None:
    client = ScriptedClient(fetches={"": [running(50), finished()]})
    outcome = drive(known_jobs(*map(str, range(60))), client, RunSettings(concurrency=60))
    assert outcome.code == ExitCode.OK
    assert len(client.checks) <= 10


def test_requests_at_once() -> None:
    """Four status checks, and downloads of half of the tasks in flight."""
    outcome = drive(known_jobs(*map(str, range(200))), settings=RunSettings(concurrency=100))
    calls = outcome.client.checks, outcome.saver.attempts
    assert [max(Counter(call[0] for call in each).values()) for each in calls] == [4, 50]


@pytest.mark.parametrize(("asked", "seconds"), [(30.0, 30.0), (600.0, 60.0), (None, 0.25)])
def test_a_rate_limit_holds_for_all_checks(asked: float | None, seconds: float) -> None:
    """For a minute at most; the task is still running then."""
    client = ScriptedClient(fetches={"a": [RateLimitedError("slow down", asked), finished()]})
    outcome = drive([*known_jobs("a"), *new_jobs()], client)
    assert outcome.code == ExitCode.OK
    (first, _), (second, _), *_ = client.checks
    assert seconds <= second - first <= seconds + 0.5


@pytest.mark.parametrize("error", [ServiceDownError("502"), RateLimitedError("slow down", None)])
def test_nothing_is_submitted_while_checks_fail(error: FluxError) -> None:
    """A failing service may lose the response."""
    client = ScriptedClient(fetches={"a": [*[error] * 3, finished()]})
    outcome = drive([*known_jobs("a"), *new_jobs(20)], client)
    assert outcome.code == ExitCode.OK
    failed, succeeded = client.checks[0][0] + client.seconds, client.checks[3][0]
    assert [at for at, _ in client.sent if failed < at < succeeded] == []
    assert len(client.sent) == 20


# Downloads


def test_a_transient_error_is_retried_until_the_deadline() -> None:
    """With backoff, and a status check now and then."""
    saves = [DownloadError("HTTP 503")]
    outcome = drive(new_jobs(), saves=saves, settings=RunSettings(timeout=300))
    assert outcome.code == ExitCode.SERVICE_DOWN
    assert outcome.seconds >= 300
    assert 15 < len(outcome.saver.attempts) < 60
    assert outcome.results[0].resumable
    assert len(outcome.client.checks) > 4


def test_picture_patience() -> None:
    down = DownloadError("HTTP 503")
    outcome = drive(known_jobs("a"), saves=[down], settings=RunSettings(picture_patience=100))
    assert (outcome.code, outcome.results[0].resumable) == (ExitCode.SERVICE_DOWN, True)
    assert 60 < outcome.seconds < 130


def test_an_expired_url_gets_a_new_one() -> None:
    """From a status check right away."""
    old, new = finished("https://cdn.test/old.png"), finished("https://cdn.test/new.png")
    saves: list[Exception | Saved] = [DownloadError("HTTP 403", Retry.EXPIRED), Saved(Path("x.png"))]
    outcome = drive(new_jobs(), ScriptedClient(fetches={"": [old, new]}), saves=saves)
    assert outcome.code == ExitCode.OK
    assert [url for _, url in outcome.saver.attempts] == ["https://cdn.test/old.png", "https://cdn.test/new.png"]
    assert outcome.seconds < 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DownloadError("too large", Retry.FINAL), ExitCode.SERVICE_DOWN),
        (LocalFileError("disk full"), ExitCode.LOCAL_FILE),
    ],
)
def test_what_no_attempt_can_mend_is_tried_once(error: Exception, code: ExitCode) -> None:
    outcome = drive(new_jobs(), saves=[error])
    assert (outcome.code, len(outcome.saver.attempts), outcome.results[0].resumable) == (code, 1, True)


@pytest.mark.parametrize("jobs", [new_jobs(400), known_jobs(*map(str, range(400)))], ids=["new", "known"])
def test_the_backlog_of_pictures_holds_jobs_back(jobs: list[Job]) -> None:
    """Otherwise a slow CDN would leave thousands of charged pictures to download."""
    outcome = drive(jobs, saves=[DownloadError("HTTP 503")], settings=RunSettings(concurrency=16, timeout=60))
    assert len({task_id for _, ids in outcome.client.checks for task_id in ids}) == 16 + 4 * MIN_DOWNLOADS


def test_first_only_ends_with_the_first_picture() -> None:
    client = ScriptedClient(fetches={"b": [finished()], "a": [running(1)], "c": [running(1)]})
    jobs = known_jobs("a", "b", "c")
    outcome = drive(jobs, client, RunSettings(first_only=True))
    assert outcome.code == ExitCode.OK
    assert [result.task_id for result in outcome.results] == ["b"]
    assert not outcome.run.queues
    assert {change.job.task_id for change in outcome.store.changes if isinstance(change, Closed)} == {"b"}


# Limits and exits


def test_few_threads_are_enough() -> None:
    """A worker that cannot start means no capacity now: nothing is marked as sent that was not."""
    client = ScriptedClient()
    client.workers.limit = 2
    jobs = new_jobs(30)
    outcome = drive(jobs, client, RunSettings(concurrency=16))
    assert outcome.code == ExitCode.OK
    assert [outcome.store.state(job) for job in jobs] == ["saved"] * 30
    assert len(client.sent) == 30


@pytest.mark.parametrize(("kind", "sent"), [(events.Submitting, 0), (events.Submitted, 5), (events.Progress, 5)])
def test_a_signal_keeps_every_id(kind: type, sent: int) -> None:
    """IDs that have arrived are committed, submissions in flight settle, and the run says so for each job.

    Nothing is sent after it, not even if the intent is committed.
    """

    def handle(event: Event) -> None:
        if isinstance(event, kind) and not raised:
            raised.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    raised: list[bool] = []
    outcome = drive(new_jobs(5), ScriptedClient(fetches={"": [running(5)]}), handle=handle)
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert len(outcome.client.sent) == sent
    assert outcome.accepted == {f"task-{n}" for n in range(1, sent + 1)}
    assert {result.task_id for result in outcome.results if result.resumable} == outcome.accepted
    assert [result.status for result in outcome.results if not result.resumable] == [Status.UNSENT] * (5 - sent)


def test_temporary_files_are_removed_at_the_end(tmp_path: Path) -> None:
    """Also one that an abandoned worker is still writing."""
    with temporary(tmp_path):
        drive(new_jobs())
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "signals", "status"),
    [(1.5, 1, Status.PROCESSING), (2.5, 1, Status.UNKNOWN), (0.4, 2, Status.PROCESSING), (1.5, 2, Status.UNKNOWN)],
)
def test_submissions_in_flight_at_a_signal(seconds: float, signals: int, status: Status) -> None:
    """Their responses are waited for, two seconds at most, or half a second after a second signal."""

    class Client(ScriptedClient):
        def submit(self, body: Body, dispatch: Dispatch, _: float = 0.0) -> str:
            task_id = super().submit(body, dispatch)
            self.workers.seconds = 0.1 + seconds
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
            return task_id

    outcome = drive([*known_jobs("a"), *new_jobs()], Client(fetches={"": [running(5)]}))
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert {result.task_id: result.status for result in outcome.results} == {
        "a": Status.PROCESSING,
        "task-1" if status is Status.PROCESSING else None: status,
    }


@pytest.mark.parametrize("signals", [1, 2])
def test_downloads_that_have_begun_are_finished_after_a_signal(signals: int) -> None:
    """Not after a second one; the tasks that are running can be resumed."""

    def handle(event: Event) -> None:
        if isinstance(event, events.Downloading):
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)

    counts: list[int] = []
    client = ScriptedClient(fetches={"b": [running(5)]})
    settings = RunSettings(finish_downloads=True)
    outcome = drive(known_jobs("a", "b"), client, settings, handle=handle, on_stopping=counts.append)
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert (outcome.run.stopping, outcome.run.hurry) == (True, signals == 2)
    assert {result.task_id: result.resumable for result in outcome.results} == {"a": signals == 2, "b": True}
    assert counts == [1]
    assert [event.job.task_id for event in outcome.events[:2] if isinstance(event, events.Progress)] == ["a", "b"]


def test_an_unexpected_error_keeps_every_id() -> None:
    """A bug in the loop ends the run, after every response that has arrived was handled."""
    client = ScriptedClient(fetches={"": [TypeError("a bug")]})
    outcome = drive(new_jobs(8), client)
    assert isinstance(outcome.error, TypeError)
    assert len(outcome.accepted) == len(client.sent)
    assert {result.task_id for result in outcome.results} >= outcome.accepted


def test_every_report_counts_after_an_unexpected_error() -> None:
    """Although several of them fail."""
    (job,) = known_jobs("x")
    job.task = read_task(finished(), "x")
    client = ScriptedClient(fetches={"": [TypeError("a bug")]})
    outcome = drive([*known_jobs(*map(str, range(60))), job], client, RunSettings(concurrency=61))
    assert isinstance(outcome.error, TypeError)
    assert outcome.store.state(job) == "saved"


def test_missing_image_prompt_of_a_row() -> None:
    broken, fine = new_jobs(2)
    broken.image_prompt = "/nowhere/missing.png"
    outcome = drive([broken, fine])
    assert outcome.code == ExitCode.LOCAL_FILE
    assert [outcome.store.state(job) for job in (broken, fine)] == [Status.UNSENT, "saved"]
    assert len(outcome.client.sent) == 1


def test_checks_of_one_bad_task_are_repeated_less_often() -> None:
    """It is not known whether it is the task or the service: as often as needed to find one among twenty."""
    outcome = drive(
        known_jobs("a"), ScriptedClient(fetches={"": [*[BadResponseError("no JSON")] * 7, finished()]})
    )
    times = [at for at, _ in outcome.client.checks]
    pauses = [after - before - 0.1 for before, after in itertools.pairwise(times)]
    assert [pause < 0.5 + 1e-6 for pause in pauses] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("jobs", "pause"), [(new_jobs, NEAR_SECONDS), (partial(known_jobs, "a"), BLIND_SECOND - 0.1)]
)
def test_a_task_that_is_nearly_finished_is_checked_soon(jobs: Callable[[], list[Job]], pause: float) -> None:
    """If it is known when it was submitted: the first percentage of an old task says nothing about its speed."""
    outcome = drive(jobs(), ScriptedClient(fetches={"": [running(90), finished()]}))
    (before, _), (after, _) = outcome.client.checks
    assert after - before == pytest.approx(0.1 + pause)


def test_the_error_of_a_download_stays_until_it_succeeds() -> None:
    """A status check between two attempts does not change it; the failure of an earlier check is forgotten."""
    client = ScriptedClient(fetches={"": [ServiceDownError("502"), finished()]})
    (job,) = known_jobs("a")
    errors: list[str | None] = []
    drive(
        [job],
        client,
        saves=[DownloadError("HTTP 404", Retry.EXPIRED), Saved(Path("x.png"))],
        handle=lambda event: errors.append(job.last_error) if isinstance(event, events.Downloading) else None,
    )
    assert [str(error)[-8:] for error in errors] == ["None", "HTTP 404"]


def test_a_finished_task_is_committed_once() -> None:
    """Status checks between two attempts to download change nothing."""
    saves: list[Exception | Saved] = [*[DownloadError("HTTP 503")] * 9, Saved(Path("x.png"))]
    outcome = drive(new_jobs(), saves=saves)
    assert outcome.code == ExitCode.OK
    assert len(outcome.client.checks) > 2
    assert [type(change).__name__ for change in outcome.store.changes].count("Finished") == 1
