"""Records the changes of a batch's run: first in the journal, then in the results, and then in the history.

The batch directory has everything that later runs need. The history lists the rows too, but nothing depends on it.
If it cannot be written, this is reported once.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flux_cli.api.task import recorded_url
from flux_cli.batch.attempt import ENDED, Object, row_object, state_after
from flux_cli.batch.claims import Claim
from flux_cli.batch.journal import ACCEPTED, CLOSED, FINISHED, INTENT, UNSENT, Journal, encoded
from flux_cli.batch.results import ResultsFile, digest
from flux_cli.engine.store import Accepted, Change, Closed, Finished, Intent, Postponed, Store
from flux_cli.errors import LocalFileError
from flux_cli.storage.paths import STATE_NAME

HISTORY_PAUSE_SECONDS = 5.0
"""The pause after the history could not be written."""


class BatchStore:
    """Records the changes of a batch's run."""

    def __init__(self, directory: Path, service: str, run: int, claim: Claim, history: Store | None) -> None:
        """`run` is the number of the run; `history` also gets all changes."""
        self._service = service
        self.journal = Journal(directory / STATE_NAME, service, claim.path.stem, run)
        self._results = ResultsFile(directory)
        self._claim = claim
        self.history = HistoryQueue(history)
        self._unwritten: list[Change] = []
        self._missing: list[bytes] = []
        self._written: set[bytes] = set()
        self._open_rows: set[str] = set()
        self.results_error: LocalFileError | None = None
        """Why the results file lacks lines; the next run adds them."""

    @property
    def written(self) -> set[bytes] | None:
        """The digests of the lines that this run added to the results; None unless they have all of its rows."""
        return None if self._open_rows or self._unwritten or self._missing else self._written

    def commit(self, changes: Sequence[Change]) -> None:
        """Record changes; return when they are durable in the batch directory.

        Raises:
            LocalFileError: The journal cannot be written, or another run has taken over the rows. Intents do not
                count then. Other changes are recorded as soon as that is possible.
        """
        self._claim.refresh_if_due()
        all_changes = [*self._unwritten, *changes]
        try:
            self.journal.append(map(self._entry, all_changes))
        except LocalFileError:
            self._unwritten = [change for change in all_changes if not isinstance(change, Intent)]
            raise
        self._unwritten = []
        ended = [
            change for change in all_changes if isinstance(change, Closed) and state_after(change.result) in ENDED
        ]
        self._open_rows.update(change.job.row or "" for change in all_changes)
        self._open_rows.difference_update(change.job.row or "" for change in ended)
        intents = [change.job for change in changes if isinstance(change, Intent)]
        if intents and not self._claim.held():
            # In this order, a run that has taken over either reads the intents or is detected here.
            self.journal.append(self.journal.entry(job.row or "", UNSENT) for job in intents)
            raise LocalFileError(
                "another flux-cli has taken over the batch, because this process was stopped for some time",
                "see the other process",
            )
        self.add_results(map(self._object, ended))
        # The history gets the URLs of a finished task with its path.
        self.history.commit([change for change in all_changes if not isinstance(change, Finished)])

    def close(self) -> None:
        """Write what is left."""
        if self._unwritten:
            with contextlib.suppress(LocalFileError):
                self.commit([])
        self.add_results([])
        self.history.commit([], last=True)
        self.journal.close()

    def add_results(self, objects: Iterable[Object]) -> None:
        """Append objects to the results; those that cannot be written are kept for later."""
        unwritten = [*self._missing, *map(encoded, objects)]
        try:
            self._results.append(unwritten)
        except LocalFileError as error:
            self.results_error, self._missing = error, unwritten
        else:
            self.results_error, self._missing = None, []
            self._written.update(map(digest, unwritten))

    def _object(self, change: Closed) -> Object:
        """Return the object of a row in the results. Paths are absolute."""
        result, job = change.result, change.job
        original = result.original_path and result.original_path.absolute()
        result = replace(result, path=result.path and result.path.absolute(), original_path=original)
        return row_object(job.row or "", job.line, self._service, result)

    def _entry(self, change: Change) -> bytes:
        job, entry = change.job, partial(self.journal.entry, change.job.row or "")
        match change:
            case Intent():
                return entry(INTENT, line=job.line, time=round(time.time(), 3), request=job.recorded)
            case Accepted(task_id=task_id):
                return entry(ACCEPTED, task_id=task_id)
            case Postponed():
                return entry(UNSENT)
            case Finished(task=task):
                return entry(FINISHED, task_id=task.task_id, image_url=recorded_url(task.image_url))
            case Closed():
                return entry(CLOSED, result=self._object(change))


class HistoryQueue:
    """Passes changes to the history, and keeps those that it cannot record for later."""

    def __init__(self, history: Store | None) -> None:
        self._history = history
        self._kept: deque[Sequence[Change]] = deque()
        self._not_before = 0.0
        self.error: LocalFileError | None = None

    def commit(self, changes: Sequence[Change], *, last: bool = False) -> None:
        """Record changes, or keep them."""
        if self._history is None:
            return
        if changes:
            self._kept.append(changes)
        if time.monotonic() < self._not_before and not last:
            return
        try:
            while self._kept:
                self._history.commit(self._kept[0])
                self._kept.popleft()
        except LocalFileError as error:
            self.error = error
            self._not_before = time.monotonic() + HISTORY_PAUSE_SECONDS
        else:
            self.error = None
