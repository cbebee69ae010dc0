"""Records the rows of a batch while it runs: the counts, and a line in the results for each row that is over."""

from pathlib import Path

from flux_cli.api.task import Status, Task
from flux_cli.batch.plan import Counts, State, state_of
from flux_cli.batch.results_file import ResultsFile
from flux_cli.engine.job import Job, Result
from flux_cli.engine.observers import Observer
from flux_cli.errors import ExitCode, LocalFileError
from flux_cli.storage.record import Record


class Recorder:
    """An observer that counts, writes the results file, and passes on to another."""

    def __init__(self, inner: Observer, counts: Counts, results: ResultsFile) -> None:
        self._inner = inner
        self._counts = counts
        self._results = results
        self.waiting, self.trouble, self.downloading = inner.waiting, inner.trouble, inner.downloading
        self.unrecorded = inner.unrecorded
        self.error: LocalFileError | None = None
        """Why the results file lacks a line; the next run adds it."""

    def submitted(self, job: Job) -> None:
        """Count a task that is charged."""
        self._counts.submitted()
        self._inner.submitted(job)

    def ended(self, job: Job, result: Result) -> None:
        """Count how a row ended, and write its line."""
        self._counts.ended(job, result)
        state = state_of(result.status, result.task_id, result.path, result.exit_code)
        if state in (State.DONE, State.FAILED, State.UNKNOWN):
            try:
                self._results.add(job.row or "", job.line or 0, {**result.as_json(), **_absolute(result)})
            except LocalFileError as error:
                self.error = error
        self._inner.ended(job, result)


def _absolute(result: Result) -> dict[str, str]:
    """Return the paths of a result in absolute form."""
    paths = {"path": result.path, "original_path": result.original_path}
    return {name: str(path.absolute()) for name, path in paths.items() if path is not None}


def as_json(record: Record) -> dict[str, object]:
    """Return the object of a row as it was printed when it ended, as far as the history knows it."""
    task = Task(
        record.task_id or "",
        record.status,
        response={},
        percentage=100.0 if record.status is Status.FINISHED else None,
        image_url=record.image_url,
        original_image_url=record.original_image_url,
    )
    codes = {Status.FAILED: record.exit_code or ExitCode.TASK_FAILED, Status.UNKNOWN: ExitCode.OUTCOME_UNKNOWN}
    result = Result(
        record.status,
        ExitCode(codes.get(record.status, ExitCode.OK)),
        task=task,
        task_id=record.task_id,
        path=Path(record.path) if record.path else None,
        original_path=Path(record.original_path) if record.original_path else None,
        request=record.request,
        elapsed=record.ended - record.created if record.ended else None,
        error=record.error or ("no answer is known" if record.status is Status.UNKNOWN else None),
    )
    return {**result.as_json(), "raw": None}
