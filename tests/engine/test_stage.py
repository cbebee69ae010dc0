"""The operations of the stages: their time limits, and what an operation that ran out of time means."""

from pathlib import Path

import pytest

from flux_cli.api.client import SUBMIT_SECONDS
from flux_cli.api.request import Body
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine.downloads import STALL_BYTES
from flux_cli.engine.events import Downloading
from flux_cli.engine.job import Job
from flux_cli.engine.submissions import MAX_LARGE_BODIES
from flux_cli.engine.workers import Operation
from flux_cli.errors import OutcomeUnknownError, ServiceDownError
from flux_cli.pictures.download import DownloadError, Retry
from tests.engine.kit import OnBytes, Outcome, ScriptedClient, drive, known_jobs, new_jobs, new_run
from tests.server import png


def reported(outcome: Outcome) -> list[tuple[int, int | None]]:
    return [(event.received, event.total) for event in outcome.events if isinstance(event, Downloading)]


def test_only_progress_extends_the_time_for_a_download() -> None:
    """Each 4 KiB, or a new beginning; the disk gets the time that it needs."""
    client, limits = ScriptedClient(), list[str]()

    def save(on_bytes: OnBytes) -> None:
        operation, size = client.workers.started[-1], STALL_BYTES
        for more in (0, 1, 1, size, size + 1, size, 2 * size - 1, 2 * size, 9 * size):
            operation.ends_at = 0.0
            on_bytes(size - 1 + more, 10 * size - 1)
            limits.append("none" if operation.ends_at == float("inf") else "new" if operation.ends_at else "old")

    drive(known_jobs("a"), client, saves=[save])
    assert limits == "old new old old new new old new none".split()


def test_bytes_are_reported_ten_times_a_second() -> None:
    client = ScriptedClient()

    def save(on_bytes: OnBytes) -> None:
        for received in range(6):
            on_bytes(received, None)
            client.clock.now += 0.0625

    assert reported(drive(known_jobs("a"), client, saves=[save])) == [(0, None), (2, None), (4, None)]


def test_a_download_that_is_not_needed_ends() -> None:
    """After the run's end: its next byte is the last."""
    client = ScriptedClient()

    def save(on_bytes: OnBytes) -> None:
        client.workers.stop()
        on_bytes(1, 2)

    outcome = drive(known_jobs("a"), client, saves=[save])
    assert (type(outcome.error).__name__, reported(outcome)) == ("_StoppedError", [])


def test_what_running_out_of_time_means() -> None:
    """Only a submission that was sent may have been accepted."""
    (job,) = new_jobs()
    outcome = drive([job])
    submission, check, download = outcome.client.workers.started
    assert [each.seconds for each in (submission, check, download)] == [SUBMIT_SECONDS, 31.0, 30.0]
    assert type(submission.overdue()) is OutcomeUnknownError
    job.dispatch.sent = False
    assert isinstance(submission.overdue(), NotSentError)
    assert type(check.overdue()) is ServiceDownError
    error = download.overdue()
    assert isinstance(error, DownloadError)
    assert error.kind is Retry.TRANSIENT


@pytest.mark.parametrize(("large", "extensions"), [("", 0), ("in the body", 1), ("in a file", 2)])
def test_few_large_requests_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: str, extensions: int
) -> None:
    """Each holds up to 20 MiB; the time for waiting and reading does not count."""
    extended: list[Operation] = []
    monkeypatch.setattr(Operation, "extend", lambda operation: extended.append(operation))
    (path := tmp_path / "x.png").write_bytes(png())
    free: list[bool] = []

    def send() -> None:
        job = Job(None, request={"image_prompt": "data"} if large == "in the body" else {})
        job.image_prompt = str(path) if large == "in a file" else None
        submissions._start(job)

    class Client(ScriptedClient):
        def submit(self, body: Body, dispatch: Dispatch, seconds: float = 0.0) -> str:
            assert ("image_prompt" in body) == bool(large)
            if len(self.workers.started) < MAX_LARGE_BODIES:
                send()
            else:
                free.append(submissions._large_bodies.acquire(blocking=False))
            return "task-1"

    submissions = new_run(Client())._submissions
    send()
    assert free == [not large]
    assert len(extended) == extensions * MAX_LARGE_BODIES
