"""The state of a batch's rows, read from its directory or, for batches of version 0.1.0, from the history."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flux_cli.api.task import Status, Task
from flux_cli.batch import journal
from flux_cli.batch.claims import Claim
from flux_cli.batch.journal import Attempt, Entry, Journals, Key
from flux_cli.batch.plan import KnownRow, RowState, state_of
from flux_cli.batch.results import ResultsFile
from flux_cli.batch.rows import Row
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode, LocalFileError
from flux_cli.storage.filesystem import local_errors
from flux_cli.storage.history import HistoryReader
from flux_cli.storage.paths import STATE_NAME
from flux_cli.storage.record import Record

ENDED = (RowState.DONE, RowState.FAILED, RowState.UNKNOWN)
"""Rows in these states have a line in the results."""
_STATUSES = {RowState.DONE: Status.FINISHED, RowState.FAILED: Status.FAILED, RowState.UNKNOWN: Status.UNKNOWN}


@dataclass(frozen=True)
class BatchState:
    """What is known about the rows.

    Attributes:
        known: What is known about each row, by its key.
        missing: Objects that the results lack.
        next_number: The number of this run's journal.
        history_error: Why the history could not be read, or None.
    """

    known: Mapping[str, KnownRow]
    missing: Sequence[Mapping[str, object]]
    next_number: int
    history_error: LocalFileError | None = None


def load(
    directory: Path, service: str, rows: Sequence[Row], name: str, history: HistoryReader | None
) -> BatchState:
    """Return the states of these rows. `name` is the batch's in the history.

    Raises:
        LocalFileError: The directory cannot be read; or it is from version 0.1.0, and the history cannot be read.
    """
    keys = {row.key for row in rows}
    journals, results = _read(directory, keys)
    attempts = journals.attempts({key: each for key, each in results.items() if key[0] == service})
    known: dict[str, KnownRow] = {}
    missing: list[Mapping[str, object]] = []
    history_error: LocalFileError | None = None
    for row in rows:
        own = attempts.get((service, row.key))
        best = journal.best(own) if own else None
        record = None
        if history is not None and _needs_history(best):
            try:
                record = history.newest_of_row(service, name, row.key)
            except LocalFileError as error:
                history, history_error = None, error
        found, line = _combined(row, service, best, record)
        if found is not None:
            known[row.key] = found
            if line is not None and not _is_recorded(results.get((service, row.key)), found):
                missing.append(line)
    return BatchState(known, missing, journals.next_number, history_error)


def compact(directory: Path, claim: Claim, own: Path, written: Collection[bytes] | None) -> None:
    """Remove the journals if the results contain everything in them, and no other run is alive.

    Args:
        directory: The batch directory.
        claim: The claim of this run.
        own: Its journal.
        written: The digests of the lines that this run added to the results, if all rows of its journal have
            ended: if it is the only journal, it need not be read.

    Raises:
        LocalFileError: A file cannot be read or written. Nothing is lost.
    """
    if not claim.is_alone():
        return
    results = ResultsFile(directory)
    files = journal.files(directory / STATE_NAME)
    if files in ([], [own]) and written is not None:
        complete, has_others = results.compare(written)
        if complete:
            _remove(files, results, claim, tidy=has_others)
            return
    journals, lines = _read(directory, None)
    missing = []
    mentioned = journals.keys
    for key, attempts in journals.attempts({key: lines[key] for key in lines if key in mentioned}).items():
        best = journal.best(attempts)
        if best.state not in ENDED:
            return
        if not _is_recorded(lines.get(key), best.known()):
            if best.result is None:
                return
            missing.append(best.result)
    results.append(map(journal.encoded, missing))
    _remove(journals.files, results, claim, tidy=True)


def _remove(files: Iterable[Path], results: ResultsFile, claim: Claim, *, tidy: bool) -> None:
    if tidy:
        results.tidy()
    results.sync()
    for path in files:
        with local_errors(path):
            path.unlink(missing_ok=True)
    claim.remove_others()


def _read(directory: Path, keys: set[str] | None) -> tuple[Journals, dict[Key, Entry]]:
    """Read the journals, then the results: entries are in the results before they leave the journals."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            journals = journal.read(directory / STATE_NAME, keys)
            return journals, ResultsFile(directory).read(keys)


def _needs_history(best: Attempt | None) -> bool:
    """Return whether to read the history: for a row of version 0.1.0, or for the number of its record."""
    if best is None or best.state is RowState.SUBMITTED:
        return True
    return not best.journal and best.state is not RowState.DONE


def _combined(
    row: Row, service: str, best: Attempt | None, record: Record | None
) -> tuple[KnownRow | None, Mapping[str, object] | None]:
    """Return the state of a row, and its object for the results if it has ended."""
    if record is not None:
        from_history = _of_record(record)
        newer = best is None or (
            not best.journal and record.task_id != best.task_id and from_history.state is not RowState.NEW
        )
        if newer:
            return from_history, {"row": row.key, "line": row.line, "service": service, **as_json(record)} if (
                from_history.state in ENDED
            ) else None
    if best is None:
        return None, None
    found = best.known()
    if record is not None and record.task_id == found.task_id:
        found = replace(found, number=record.number, request=found.request or record.request)
    if found.state not in ENDED:
        return found, None
    if best.result is not None:
        return found, best.result
    unknown = Result(
        Status.UNKNOWN, ExitCode.OUTCOME_UNKNOWN, request=best.request or {}, error="no response is known"
    )
    return found, {"row": row.key, "line": row.line, "service": service, **unknown.as_json()}


def _is_recorded(line: Entry | None, found: KnownRow) -> bool:
    if line is None:
        return False
    return line.get("status") == _STATUSES[found.state] and line.get("task_id") == found.task_id


def _of_record(record: Record) -> KnownRow:
    state = state_of(record.status, record.task_id, record.path, record.exit_code)
    return KnownRow(
        state, record.task_id, record.request, record.path, record.exit_code, record.age, record.number
    )


def as_json(record: Record) -> dict[str, object]:
    """Return a row's object as it was printed when the row ended, as far as the history has it."""
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
        error=record.error or ("no response is known" if record.status is Status.UNKNOWN else None),
    )
    return {**result.as_json(), "raw": None, "request": dict(record.request)}
