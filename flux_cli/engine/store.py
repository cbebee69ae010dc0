"""What a run records: intents before requests are sent, task IDs as they arrive, and how each job ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flux_cli.api.task import Status, Task, recorded_url
from flux_cli.storage.record import STDOUT

if TYPE_CHECKING:
    from flux_cli.engine.job import Job
    from flux_cli.engine.result import Result
    from flux_cli.storage.history import History


@dataclass(frozen=True)
class _JobChange:
    job: "Job"


class Intent(_JobChange):
    """The job's request is about to be sent: from now on it may have been accepted and charged."""


@dataclass(frozen=True)
class Accepted(_JobChange):
    """The service accepted the job and gave it this ID."""

    task_id: str


@dataclass(frozen=True)
class Postponed(_JobChange):
    """The request was certainly not accepted, and will be resubmitted."""

    error: str


@dataclass(frozen=True)
class Finished(_JobChange):
    """The service finished the task; its picture is not saved yet."""

    task: Task


@dataclass(frozen=True)
class Closed(_JobChange):
    """The job ended with `result`; the record of a task that is still running stays unchanged."""

    result: "Result"


Change = Intent | Accepted | Postponed | Finished | Closed


class Store(Protocol):
    """Where a run commits its changes, from the thread that runs the loop."""

    def commit(self, changes: Sequence[Change]) -> None:
        """Make changes durable, all or none.

        Raises:
            StoreBusyError: Another process has locked the store; a later attempt may succeed.
            LocalFileError: The store cannot be written.
        """


class HistoryStore:
    """Commits a run's changes to the history."""

    def __init__(self, history: "History", service: str, *others: str) -> None:
        """`others` are further names of the service: a sandbox on a port also has the embedded one's tasks."""
        self._history = history
        self._service = service
        self._services = (service, *others)

    def commit(self, changes: Sequence[Change]) -> None:
        """Commit the changes in one transaction. Raises as `Store.commit` does."""
        fresh = [change.job for change in changes if isinstance(change, Intent) and change.job.number is None]
        with self._history.transaction():
            # Intents are the last changes, so earlier changes of their jobs are written first.
            for change in changes:
                if (number := self._number_of(change.job)) is not None:
                    self._apply(change, number)
            numbers = self._begin(fresh) if fresh else []
        for job, number in zip(fresh, numbers, strict=True):
            job.number = number

    def _begin(self, jobs: Sequence["Job"]) -> list[int]:
        batch = jobs[0].batch
        rows = [job.row or "" for job in jobs] if batch else None
        return self._history.begin(self._service, [job.recorded for job in jobs], batch, rows)

    def _number_of(self, job: "Job") -> int | None:
        """Return a job's number. A task of another process may have been recorded after the job was created."""
        if job.number is None and job.request is None and job.task_id:
            record = self._history.find(job.task_id)
            if record is not None and record.service in self._services:
                job.number = self._history.adopt(record)
        return job.number

    def _apply(self, change: Change, number: int) -> None:
        history = self._history
        match change:
            case Intent():
                history.resending(number)
            case Accepted(task_id=task_id):
                history.accepted(number, task_id)
            case Postponed(error=error):
                history.ended(number, Status.UNSENT, error=error)
            case Finished(task=task):
                history.ended(number, task.status, **_urls(task))
            case Closed(result=result) if result.status is not Status.PROCESSING:
                history.ended(number, result.status, **columns(result))


def columns(result: "Result") -> dict[str, str | int | None]:
    """Return the columns of the history that a result sets."""
    path = str(result.path.absolute()) if result.path else STDOUT if result.content is not None else None
    return {
        **_urls(result.task),
        "path": path,
        "original_path": str(result.original_path.absolute()) if result.original_path else None,
        "sha256": result.sha256,
        "error": result.error,
        "exit_code": int(result.exit_code),
    }


def _urls(task: Task | None) -> dict[str, str | int | None]:
    if task is None:
        return {}
    return {"image_url": recorded_url(task.image_url), "original_image_url": recorded_url(task.original_image_url)}
