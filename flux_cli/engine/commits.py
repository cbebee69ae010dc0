"""What a run writes down before it acts on it: intents before they are sent, ids before they are told of."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ParamSpec

from flux_cli.engine.job import Job, Observer
from flux_cli.errors import LocalFileError, StoreBusyError
from flux_cli.storage.history import PATIENCE_SECONDS, History, patiently

_What = ParamSpec("_What")
_Change = Callable[[History, int], None]


class Ledger:
    """Collects what happens, commits it together, and then tells the observer of it.

    A history that cannot be written stops what is about to be sent, and nothing else: what becomes of paid tasks
    is told all the same. Where another process holds it, the changes are kept for a later commit.
    """

    def __init__(self, history: History | None, service: str, observer: Observer) -> None:
        self._history = history
        self._service = service
        self._observer = observer
        self._changes: list[tuple[Job, _Change]] = []
        self._news: deque[Callable[[], None]] = deque()
        self._busy_until = 0.0

    def note(self, job: Job, change: _Change) -> None:
        """Put a change to the job's record into the next commit."""
        self._changes.append((job, change))

    def tell(self, what: Callable[_What, None], *arguments: _What.args, **named: _What.kwargs) -> None:
        """Tell the observer something after the next commit, so that a task id that it prints has been kept."""
        self._news.append(partial(what, *arguments, **named))

    def tell_news(self) -> None:
        """Tell the observer all that it has not been told yet."""
        while self._news:
            self._news.popleft()()

    def commit(self, intents: Sequence[Job] = ()) -> LocalFileError | None:
        """Commit what has happened, and the intents to send jobs; return why these could not be written down."""
        if not intents and time.monotonic() < self._busy_until:
            return None
        return self._commit(intents, last=False)

    def close(self) -> None:
        """Commit what is left, and tell of what cannot be: nothing but this run knows of it."""
        self._commit((), last=True)
        self.tell_news()

    def _commit(self, intents: Sequence[Job], *, last: bool) -> LocalFileError | None:
        changes, self._changes = self._changes, []
        if self._history is None or not (changes or intents):
            return None
        fresh = [job for job in intents if job.number is None]
        try:
            numbers = patiently(partial(self._write, changes, intents, fresh))
        except StoreBusyError as failure:
            if last:
                self._lose(changes, failure)
            else:
                self._changes = changes
                self._busy_until = time.monotonic() + PATIENCE_SECONDS
            return failure if intents else None
        except LocalFileError as failure:
            # One by one, so that what can be kept is; what cannot must not stop what is paid for.
            for job, change in changes:
                try:
                    self._apply(job, change)
                except LocalFileError as error:
                    self._lose([(job, change)], error)
            return failure if intents else None
        for job, number in zip(fresh, numbers, strict=True):
            job.number = number
        return None

    def _write(
        self, changes: Sequence[tuple[Job, _Change]], intents: Sequence[Job], fresh: Sequence[Job]
    ) -> list[int]:
        assert self._history is not None  # noqa: S101 - for the type checker
        with self._history.transaction():
            for job, change in changes:
                self._apply(job, change)
            for job in intents:
                self._apply(job, lambda history, number: history.resending(number))
            return self._begin(fresh)

    def _lose(self, changes: Iterable[tuple[Job, _Change]], error: LocalFileError) -> None:
        for job, _ in changes:
            self.tell(self._observer.unrecorded, job, error.message)

    def _apply(self, job: Job, change: _Change) -> None:
        if self._history is not None and job.number is not None:
            change(self._history, job.number)

    def _begin(self, jobs: Sequence[Job]) -> list[int]:
        if self._history is None or not jobs:
            return []
        rows = [job.row or "" for job in jobs] if jobs[0].batch else None
        return self._history.begin(self._service, [job.recorded for job in jobs], jobs[0].batch, rows)
