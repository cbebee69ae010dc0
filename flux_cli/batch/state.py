"""The state of a batch's rows, read from its directory or, for batches of version 0.1.0, from the history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_cli.api.task import Status, Task
from flux_cli.batch import journal
from flux_cli.batch.attempt import ENDED, Attempt, Object, RowState, best_of, row_object, state_of
from flux_cli.batch.claims import Claim
from flux_cli.batch.journal import encoded
from flux_cli.batch.results import ResultsFile
from flux_cli.batch.rows import Row
from flux_cli.batch.store import BatchStore
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode, LocalFileError
from flux_cli.storage.filesystem import local_errors
from flux_cli.storage.history import HistoryReader
from flux_cli.storage.paths import STATE_NAME
from flux_cli.storage.record import Record

NO_RESPONSE = "no response is known"


@dataclass(frozen=True)
class BatchState:
    """What is known about the rows when a run begins."""

    attempts: Mapping[str, Attempt]
    """The attempt that determines the state of each row, by the key of the row; rows without one are new."""
    missing: Sequence[Object]
    """Objects that the results lack."""
    next_run: int
    """The number of this run."""
    history_error: LocalFileError | None = None
    """Why the history could not be read, or None."""


def load(
    directory: Path, service: str, rows: Sequence[Row], name: str, history: HistoryReader | None
) -> BatchState:
    """Return the states of these rows. `name` is the batch's in the history.

    Raises:
        LocalFileError: The directory cannot be read; or it is from version 0.1.0, and the history cannot be read.
    """
    keys = {encoded(row.key) for row in rows}
    journals = journal.read(directory / STATE_NAME, keys)
    results = ResultsFile(directory).read(keys)
    attempts = journals.attempts(results)
    found: dict[str, Attempt] = {}
    missing: list[Object] = []
    history_error: LocalFileError | None = None
    for row in rows:
        own = attempts.get((service, row.key))
        best = best_of(own) if own else None
        may_be_old = best is None or (not best.journal and best.state is not RowState.DONE)
        if history is not None and may_be_old:
            try:
                record = history.newest_of_row(service, name, row.key)
            except LocalFileError as error:
                history, history_error = None, error
            else:
                best = best if record is None else _with_record(best, record, row, service)
        if best is not None:
            found[row.key] = best
            if best.state in ENDED and not best.is_recorded(results.get((service, row.key))):
                missing.append(best.result or _unknown(row, service, best.request or {}))
    return BatchState(found, missing, journals.next_run, history_error)


def compact(directory: Path, claim: Claim, store: BatchStore) -> None:
    """Remove the journals if the results contain everything in them, and no other run is alive.

    The only journal need not be read if this run has written it and added all of its rows to the results.

    Raises:
        LocalFileError: A file cannot be read or written. Nothing is lost.
    """
    if not claim.is_alone():
        return
    results = ResultsFile(directory)
    files: Sequence[Path] = journal.files(directory / STATE_NAME)
    complete, has_others = False, True
    if files in ([], [store.journal.path]) and store.written is not None:
        complete, has_others = results.compare(store.written)
    if not complete:
        journals, objects = journal.read(directory / STATE_NAME), results.read()
        attempts = journals.attempts(objects)
        missing = []
        for key in journals.keys:
            best = best_of(attempts[key])
            if best.state not in ENDED:
                return
            if not best.is_recorded(objects.get(key)):
                if best.result is None:
                    return
                missing.append(best.result)
        results.append(map(encoded, missing))
        files, has_others = journals.files, True
    if has_others:
        results.tidy()
    results.sync()
    for path in files:
        with local_errors(path):
            path.unlink(missing_ok=True)
    claim.remove_others()


def _with_record(best: Attempt | None, record: Record, row: Row, service: str) -> Attempt:
    """Return what is known about a row from the directory and from the history, which comes first for old rows."""
    recorded = Attempt(
        state_of(record.status, record.task_id, record.path, record.exit_code),
        record.task_id,
        record.request,
        record.created,
        result=row_object(row.key, row.line, service, _result_of(record)) | {"raw": None},
    )
    if best is None:
        return recorded
    if record.task_id == best.task_id:
        best.request = best.request or record.request
    elif recorded.state is not RowState.NEW:
        return recorded
    return best


def _unknown(row: Row, service: str, request: Object) -> Object:
    """Return the object of a row whose run ended before it knew the outcome."""
    result = Result(Status.UNKNOWN, ExitCode.OUTCOME_UNKNOWN, request=request, error=NO_RESPONSE)
    return row_object(row.key, row.line, service, result)


def _result_of(record: Record) -> Result:
    """Return the result of a submission, as far as the history has it."""
    task = Task(
        record.task_id or "",
        record.status,
        response={},
        percentage=100.0 if record.status is Status.FINISHED else None,
        image_url=record.image_url,
        original_image_url=record.original_image_url,
    )
    codes = {Status.FAILED: record.exit_code or ExitCode.TASK_FAILED, Status.UNKNOWN: ExitCode.OUTCOME_UNKNOWN}
    return Result(
        record.status,
        ExitCode(codes.get(record.status, ExitCode.OK)),
        task=task,
        task_id=record.task_id,
        path=Path(record.path) if record.path else None,
        original_path=Path(record.original_path) if record.original_path else None,
        request=record.request,
        elapsed=record.ended - record.created if record.ended else None,
        error=record.error or (NO_RESPONSE if record.status is Status.UNKNOWN else None),
    )
