"""The source of a run's jobs, and the queues in which they are between request and file."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice

from flux_cli.api.client import MAX_FETCH_MANY
from flux_cli.engine.job import Job

GATHER_SECONDS = 0.1
"""How long a status check may be delayed, or brought forward, so that one request covers several tasks."""


class Source:
    """The jobs of a run: those of an iterable, which is read one job ahead, and those that are added.

    `closed` is false while more may be added, in the thread of the run.
    """

    def __init__(self, jobs: Iterable[Job] = (), *, closed: bool = True) -> None:
        self._jobs = iter(jobs)
        self._ahead = deque(islice(self._jobs, 1))
        self.closed = closed

    @property
    def next(self) -> Job | None:
        """The job that `take` will return, or None if there is none now."""
        return self._ahead[0] if self._ahead else None

    @property
    def exhausted(self) -> bool:
        """Whether no more jobs will come."""
        return self.closed and not self._ahead

    def add(self, job: Job) -> None:
        """Append a job."""
        self._ahead.append(job)

    def take(self) -> Job:
        """Remove and return the next job."""
        job = self._ahead.popleft()
        self._ahead.extend(islice(self._jobs, 1))
        return job


class Queues:
    """The jobs that were taken from the source. Each is in one queue, with a time.

    The way of a job: `to_submit`, `submitting`, `running`, `checking`, `to_save`, `saving`. From `submitting` and
    `checking` it may go one step back, and from `saving` to `to_save` or `running`.
    """

    def __init__(self) -> None:
        self.to_submit: OrderedDict[Job, float] = OrderedDict()
        """Those to be sent as soon as the throttle admits them, in this order."""
        self.submitting: dict[Job, float] = {}
        """When each was sent."""
        self.running: dict[Job, float] = {}
        """When each is due for a status check."""
        self.checking: dict[Job, float] = {}
        self.checks = 0
        """How many status requests are in flight."""
        self.to_save: dict[Job, float] = {}
        """When each finished task's picture may be downloaded."""
        self.saving: dict[Job, float] = {}
        self._all = self.to_submit, self.submitting, self.running, self.checking, self.to_save, self.saving

    def __bool__(self) -> bool:
        """Return whether any job is in a queue."""
        return any(self._all)

    def move(self, job: Job, queue: dict[Job, float], at: float) -> None:
        """Move a job to the end of a queue, with a time."""
        self.remove(job)
        queue[job] = at

    def remove(self, job: Job) -> None:
        """Remove a job from its queue."""
        for queue in self._all:
            queue.pop(job, None)

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
            self.move(job, self.checking, now)
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
        for queue in self._all:
            queue.clear()
