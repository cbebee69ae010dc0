"""A run's changes and events: changes are committed together, and only then does the handler get the events.

If the store cannot be written, nothing more is sent. Events about charged tasks are still delivered, with an
`Unrecorded` for each change that is lost. If another process has locked the store, changes and events wait for a
while.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from flux_cli.engine.events import Ended, Event, Handler, NotDeliveredError, Unrecorded
from flux_cli.engine.job import Job
from flux_cli.engine.signals import Interrupts
from flux_cli.engine.store import Change, Closed, Intent, Store
from flux_cli.errors import ExitCode, LocalFileError, SignalReceived, StoreBusyError

HOLD_SECONDS = 30.0
"""How long events wait for a store that another process has locked."""
BUSY_RETRY_SECONDS = 0.25
"""The pause before the next commit to such a store."""
CLOSE_SECONDS = 5.0
"""How long the last commit of a run is retried, unless a second signal arrives."""
BUSY = "another process is changing the history"


class Outbox:
    """Collects changes and events, commits the changes, and then delivers the events."""

    def __init__(
        self, store: Store | None, handle: Handler, interrupts: Interrupts, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._handle = handle
        self._interrupts = interrupts
        self._clock = clock
        self._changes: list[Change] = []
        self._events: deque[Event] = deque()
        self._busy_since: float | None = None
        self._tried_at = 0.0
        self.exit_codes: set[ExitCode] = set()
        """Those of pictures that could not be written to stdout."""
        self.handler_error: Exception | None = None
        """The first unexpected exception of the handler: a bug, which is reported when all jobs have ended."""

    def change(self, change: Change) -> None:
        """Add a change to the next commit."""
        if self._store is not None:
            self._changes.append(change)

    def emit(self, event: Event) -> None:
        """Deliver an event after the next commit."""
        self._events.append(event)

    @property
    def retry_at(self) -> float | None:
        """When to retry a failed commit, or None."""
        return None if self._busy_since is None else self._tried_at + BUSY_RETRY_SECONDS

    @property
    def busy_seconds(self) -> float:
        """How long another process has kept the store locked."""
        return 0.0 if self._busy_since is None else self._clock() - self._busy_since

    def commit(self, jobs: Sequence[Job] = ()) -> LocalFileError | None:
        """Commit all changes, and the intents to send `jobs`; then deliver the events.

        Returns:
            Why the intents could not be committed, or None. After a StoreBusyError a later commit may succeed; the
            changes are kept for it.
        """
        failure: LocalFileError | None = None
        now = self._clock()
        due = self.retry_at is None or now >= self.retry_at
        if self._store is None or not (self._changes or jobs):
            self._busy_since = None  # nothing waits for the store
        elif due:
            failure = self._commit(self._store, jobs, now)
        elif jobs:
            failure = StoreBusyError(BUSY)
        if self._busy_since is None:
            self._deliver_all()
        elif now - self._busy_since >= HOLD_SECONDS:
            self._deliver_uncommitted()
        return failure

    def close(self) -> None:
        """Commit and deliver everything that is left, and report what cannot be committed."""
        until = time.monotonic() + CLOSE_SECONDS
        while True:
            self._tried_at = 0.0
            self.commit()
            if self._busy_since is None:
                if not self._events and not self._changes:
                    return
            elif self._interrupts.hurry or time.monotonic() >= until:
                self._deliver_uncommitted()
                self._changes.clear()
                return
            else:
                time.sleep(BUSY_RETRY_SECONDS / 5)

    def _commit(self, store: Store, jobs: Sequence[Job], now: float) -> LocalFileError | None:
        self._tried_at = now
        changes, self._changes = self._changes, []
        try:
            store.commit([*changes, *map(Intent, jobs)])
        except StoreBusyError as failure:
            self._changes = changes
            self._busy_since = now if self._busy_since is None else self._busy_since
            return failure if jobs else None
        except LocalFileError as failure:
            # One by one, to record as many as possible. A failure must not stop tasks that are already charged.
            for change in changes:
                try:
                    store.commit([change])
                except LocalFileError as error:
                    self._events.appendleft(Unrecorded(change.job, error.message))
            self._busy_since = None
            return failure if jobs else None
        self._busy_since = None
        return None

    def _deliver_uncommitted(self) -> None:
        """Deliver the events although their changes are not committed, with an `Unrecorded` for each job."""
        for job in {change.job: None for change in self._changes}:
            self._events.appendleft(Unrecorded(job, BUSY))
        self._deliver_all()

    def _deliver_all(self) -> None:
        while self._events:
            self._deliver(self._events.popleft())

    def _deliver(self, event: Event) -> None:
        delivered = False
        try:
            with self._interrupts.raising():
                self._handle(event)
                delivered = True
        except NotDeliveredError as error:
            self.exit_codes.add(error.exit_code)
        except (KeyboardInterrupt, SignalReceived):
            pass  # `interrupts` has it too; the remaining events are delivered first
        except Exception as error:  # charged tasks have to continue
            self.handler_error = self.handler_error or error
        if isinstance(event, Ended) and event.result.content is not None:
            # Recorded only now: a picture that could not be written to stdout is not saved.
            self.change(Closed(event.job, event.result if delivered else replace(event.result, content=None)))
