"""The sources of a run's jobs, and the queues in which they are between request and file."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from flux_cli.api.client import MAX_FETCH_MANY
from flux_cli.engine.job import Job

GATHER_SECONDS = 0.1
"""How long a status check may be delayed, or brought forward, so that one request covers several tasks."""


class Source(Protocol):
    """Where a run gets its jobs from."""

    @property
    def next(self) -> Job | None:
        """The job that `take` will return, or None if there is none now."""

    @property
    def exhausted(self) -> bool:
        """Whether no more jobs will come."""

    def take(self) -> Job:
        """Remove and return the next job."""


class IterableSource:
    """The jobs of an iterable, which is read one job ahead."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = iter(jobs)
        self.next: Job | None = next(self._jobs, None)

    @property
    def exhausted(self) -> bool:
        """Whether all jobs were taken."""
        return self.next is None

    def take(self) -> Job:
        """Return the next job, and read one more."""
        job = self.next
        if job is None:
            raise IndexError("no jobs are left")
        self.next = next(self._jobs, None)
        return job


class Queues:
    """The jobs that were taken from the source, each in one of these queues at a time.

    Attributes:
        to_submit: Those to be sent as soon as the throttle admits them, in this order.
        submitting: When each was sent.
        running: When each is due for a status check.
        checking: Those whose status is being checked.
        checks: How many status requests are in flight.
        to_save: When each finished task's picture may be downloaded, in the order in which they finished.
        saving: Those whose pictures are being saved.
    """

    def __init__(self) -> None:
        self.to_submit: list[Job] = []
        self.submitting: dict[Job, float] = {}
        self.running: dict[Job, float] = {}
        self.checking: set[Job] = set()
        self.checks = 0
        self.to_save: dict[Job, float] = {}
        self.saving: set[Job] = set()

    def __bool__(self) -> bool:
        """Return whether any job is in a queue."""
        return any((self.to_submit, self.submitting, self.running, self.checking, self.to_save, self.saving))

    @property
    def accepted(self) -> int:
        """How many accepted tasks are running, as far as is known."""
        return len(self.running) + len(self.checking)

    @property
    def in_flight(self) -> int:
        """How many tasks are running, or may be because their submissions have no response yet."""
        return self.accepted + len(self.submitting)

    @property
    def charged(self) -> list[Job]:
        """The jobs that the service has accepted and whose pictures are not saved."""
        return [*self.running, *self.checking, *self.to_save, *self.saving]

    def take_due(self, now: float, failed_checks: int) -> list[Job]:
        """Move up to 20 tasks to `checking` and return them; none if it is better to wait for more to be due."""
        if not self.running or (due := min(self.running.values())) > now:
            return []
        times = enumerate(self.running.items())
        group = sorted((at, index, job) for index, (job, at) in times if at <= now + GATHER_SECONDS)
        if len(group) < MAX_FETCH_MANY and due > now - GATHER_SECONDS and len(self.running) > MAX_FETCH_MANY:
            return []
        # Groups whose checks fail get smaller, since one bad task may be the cause, unless every check fails.
        attempts = group[0][2].attempts if failed_checks <= MAX_FETCH_MANY.bit_length() else 0
        jobs = [job for _, _, job in group[: max(1, MAX_FETCH_MANY >> max(0, attempts - 1))]]
        for job in jobs:
            del self.running[job]
        self.checking.update(jobs)
        self.checks += 1
        return jobs

    def next_times(self, now: float, *, may_check: bool, may_save: bool) -> Iterator[float]:
        """Yield the times at which something in the queues becomes due."""
        if may_check:
            yield from (at + (GATHER_SECONDS if at <= now else 0.0) for at in self.running.values())
        if may_save:
            yield from self.to_save.values()

    def clear(self) -> None:
        """Remove all jobs and their partial files."""
        for job in self.charged:
            if job.transfer is not None:
                job.transfer.close()
        for queue in (self.to_submit, self.submitting, self.running, self.checking, self.to_save, self.saving):
            queue.clear()

    def remove(self, job: Job) -> None:
        """Remove a job from its queue."""
        for queue in (self.submitting, self.running, self.to_save):
            queue.pop(job, None)
        if job in self.to_submit:
            self.to_submit.remove(job)
        self.checking.discard(job)
        self.saving.discard(job)


class Inbox:
    """Jobs that arrive during the run; used in the run's own thread."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self.closed = False

    def add(self, job: Job) -> None:
        """Append a job."""
        self._jobs.append(job)

    @property
    def next(self) -> Job | None:
        """The oldest job that has not been taken."""
        return self._jobs[0] if self._jobs else None

    @property
    def exhausted(self) -> bool:
        """Whether the inbox was closed and all jobs were taken."""
        return self.closed and not self._jobs

    def take(self) -> Job:
        """Remove and return the oldest job."""
        return self._jobs.popleft()
