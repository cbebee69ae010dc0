"""What the history says of a job after each change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_cli.api.task import Status, read_task
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.engine.store import Accepted, Change, Closed, Finished, HistoryStore, Intent, Postponed
from flux_cli.errors import ExitCode
from flux_cli.storage.history import History
from tests.engine.kit import finished

SERVICE = "https://api.example"
TASK = read_task({**finished(), "original_image_url": "https://cdn.test/o.png"}, "a")
URLS = {"image_url": "https://cdn.test/x.png", "original_image_url": "https://cdn.test/o.png"}


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    opened = History(tmp_path / "history.sqlite3")
    yield opened
    opened.close()


def shown(history: History, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(record, name) for name in names) for record in reversed(list(history.records()))]


@pytest.mark.parametrize("batch", [None, "sky"])
def test_intents_make_records(history: History, batch: str | None) -> None:
    """One each, with its row in a batch; one that is sent again keeps its record."""
    jobs = [Job(None, request={}, recorded={"prompt": str(n)}, batch=batch, row=f"row {n}") for n in range(2)]
    store = HistoryStore(history, SERVICE)
    store.commit([Intent(job) for job in jobs])
    store.commit([Postponed(jobs[0], "slow down")])
    assert shown(history, "status", "error")[0] == (Status.UNSENT, "slow down")
    store.commit([Accepted(jobs[1], "b"), Intent(jobs[0])])
    rows = ["row 0", "row 1"] if batch else [None, None]
    assert shown(history, "prompt", "batch", "row", "status", "error", "task_id", "service") == [
        ("0", batch, rows[0], Status.UNKNOWN, None, None, SERVICE),
        ("1", batch, rows[1], Status.PROCESSING, None, "b", SERVICE),
    ]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda job: Finished(job, TASK), {"status": Status.FINISHED, **URLS}),
        (
            lambda job: Closed(job, Result(Status.PROCESSING, error="x")),
            {"status": Status.PROCESSING, "error": None},
        ),
        (
            lambda job: Closed(job, Result(Status.FAILED, ExitCode.TASK_FAILED, error="moderated")),
            {"status": Status.FAILED, "error": "moderated", "exit_code": 4, "image_url": None, "path": None},
        ),
        (
            lambda job: Closed(job, Result(Status.FINISHED, task=TASK, content=b"", sha256="0" * 64)),
            {"path": "-", "original_path": None, "sha256": "0" * 64, **URLS},
        ),
        (
            lambda job: Closed(job, Result(Status.FINISHED, path=Path("x.png"), original_path=Path("o.png"))),
            {"path": str(Path("x.png").absolute()), "original_path": str(Path("o.png").absolute())},
        ),
    ],
)
def test_how_a_job_ended(history: History, end: Any, expected: dict[str, object]) -> None:
    """A task that is still running stays as it was."""
    store, job = HistoryStore(history, SERVICE), Job(None, request={})
    store.commit([Intent(job)])
    change: Change = end(job)
    store.commit([Accepted(job, "a"), change])
    assert shown(history, *expected) == [tuple(expected.values())]


@pytest.mark.parametrize("service", [SERVICE, "sandbox", "https://other.example"])
def test_a_task_of_another_process(history: History, service: str) -> None:
    """Its record may be newer than the job; that of another service is another task's, and none is added."""
    (number,) = history.begin(service, [{}])
    history.accepted(number, "a")
    jobs = [Job(None, task_id="a"), Job(None, task_id="b")]
    HistoryStore(history, SERVICE, "sandbox").commit([Finished(job, TASK) for job in jobs])
    mine = service != "https://other.example"
    assert shown(history, "status") == [(Status.FINISHED if mine else Status.PROCESSING,)]
    assert [job.number for job in jobs] == [number if mine else None, None]
