"""A run's changes and events: changes are committed together, and only then the handler gets the events.

A store that cannot be written stops what is about to be sent, and nothing else: events about charged tasks are
delivered all the same, with `Unrecorded` for those that only this run knows. If another process holds the store,
the changes and their events wait for a while.
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
"""How long events wait for a store that another process holds."""
BUSY_RETRY_SECONDS = 0.25
"""How soon a commit to such a store is tried again."""
CLOSE_SECONDS = 5.0
"""How long the last commit of a run is tried, unless the user is in a hurry."""


class Outbox:
    """Collects changes and events, commits the ones and delivers the others."""

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
        """What went wrong in the delivery of pictures to stdout."""
        self.handler_error: Exception | None = None
        """The first unexpected error of the handler, which ends nothing."""

    def change(self, change: Change) -> None:
        """Put a change into the next commit."""
        if self._store is not None:
            self._changes.append(change)

    def emit(self, event: Event) -> None:
        """Deliver an event after the next commit."""
        self._events.append(event)

    @property
    def retry_at(self) -> float | None:
        """When a commit that failed is to be tried again; None if nothing waits."""
        return None if self._busy_since is None else self._tried_at + BUSY_RETRY_SECONDS

    @property
    def busy_seconds(self) -> float:
        """For how long another process has kept the store from being written."""
        return 0.0 if self._busy_since is None else self._clock() - self._busy_since

    def commit(self, jobs: Sequence[Job] = ()) -> LocalFileError | None:
        """Commit what has happened, and the intents to send `jobs`; then deliver the events.

        Returns:
            Why the intents could not be committed: StoreBusyError if trying again may help. What has happened is
            kept for the next commit then.
        """
        failure: LocalFileError | None = None
        now = self._clock()
        due = self.retry_at is None or now >= self.retry_at
        if self._store is not None and (self._changes or jobs) and due:
            failure = self._commit(self._store, jobs, now)
        elif jobs and not due:
            failure = StoreBusyError("another process is changing the history")
        if self._busy_since is None:
            self._deliver_all()
        elif now - self._busy_since >= HOLD_SECONDS:
            self._give_up_on_events(str(failure or "another process is changing the history"))
        return failure

    def close(self) -> None:
        """Commit and deliver everything that is left, and report what cannot be committed."""
        until = time.monotonic() + CLOSE_SECONDS
        while True:
            self._tried_at = 0.0
            self.commit()
            if self._busy_since is None and not self._events and not self._changes:
                return
            if self._busy_since is not None and (self._interrupts.hurry or time.monotonic() >= until):
                self._give_up_on_events("another process is changing the history")
                self._changes.clear()
                return
            if self._busy_since is not None:
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
            # One by one, so that what can be kept is; what cannot must not stop what is already charged.
            for change in changes:
                try:
                    store.commit([change])
                except LocalFileError as error:
                    self._events.appendleft(Unrecorded(change.job, error.message))
            self._busy_since = None
            return failure if jobs else None
        self._busy_since = None
        return None

    def _give_up_on_events(self, reason: str) -> None:
        """Deliver the events though their changes are not committed, and say so for each job."""
        for job in {change.job: None for change in self._changes}:
            self._events.appendleft(Unrecorded(job, reason))
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
        except Exception as error:
            self.handler_error = self.handler_error or error
        except (KeyboardInterrupt, SignalReceived):
            pass  # it is in `interrupts` as well; what is left is delivered first
        if isinstance(event, Ended) and event.result.content is not None:
            # Recorded only now: a picture that stdout did not take is not saved.
            self.change(Closed(event.job, event.result if delivered else replace(event.result, content=None)))
