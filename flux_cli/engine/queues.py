"""Where each job of a run is, between the request and the file."""

from collections import deque
from collections.abc import Iterable, Iterator

from flux_cli.api.client import MAX_FETCH_MANY
from flux_cli.engine.job import Job

GATHER_SECONDS = 0.1
"""How long a look may be put off, or brought forward, so that one request asks for several tasks."""


class Coming:
    """The jobs that are still to come; true while there are any. One is always looked at ahead."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = iter(jobs)
        self.next = next(self._jobs, None)

    def __bool__(self) -> bool:
        return self.next is not None

    def __iter__(self) -> Iterator[Job]:
        while self.next is not None:
            job, self.next = self.next, next(self._jobs, None)
            yield job


class UnderWay:
    """The jobs that have begun, each in one of these places at a time; true while there are any.

    Attributes:
        to_submit: When each may be sent, by the monotonic clock.
        submitting: When each was sent.
        running: When each is to be looked at.
        looking: Those that are being asked for, in `looks` requests.
        to_save: Finished ones, in the order in which they finished.
        saving: Those whose pictures are being saved.
    """

    def __init__(self) -> None:
        self.to_submit: dict[Job, float] = {}
        self.submitting: dict[Job, float] = {}
        self.running: dict[Job, float] = {}
        self.looking: set[Job] = set()
        self.looks = 0
        self.to_save: deque[Job] = deque()
        self.saving: set[Job] = set()

    def __bool__(self) -> bool:
        return any((self.to_submit, self.submitting, self.running, self.looking, self.to_save, self.saving))

    @property
    def accepted(self) -> int:
        """How many tasks run, as far as is known."""
        return len(self.running) + len(self.looking)

    @property
    def in_flight(self) -> int:
        """How many tasks run or may do so."""
        return self.accepted + len(self.submitting)

    @property
    def paid(self) -> list[Job]:
        """Those that the service has accepted, and whose pictures are not here."""
        return [*self.running, *self.looking, *self.to_save, *self.saving]

    def due(self, now: float, failed_looks: int) -> list[Job]:
        """Take out up to 20 tasks to ask for at once; none as long as it is better to wait for company."""
        if not self.running or (due := min(self.running.values())) > now:
            return []
        horizon = now + (GATHER_SECONDS if len(self.running) > 1 else 0.0)
        group = sorted((at, index, job) for index, (job, at) in enumerate(self.running.items()) if at <= horizon)
        if len(group) < MAX_FETCH_MANY and due > now - GATHER_SECONDS and len(self.running) > MAX_FETCH_MANY:
            return []
        # Looks that fail get smaller, since one bad task may be what fails them, until it is clear that all do.
        tries = group[0][2].tries if failed_looks <= MAX_FETCH_MANY.bit_length() else 0
        jobs = [job for _, _, job in group[: max(1, MAX_FETCH_MANY >> max(0, tries - 1))]]
        for job in jobs:
            del self.running[job]
        self.looking.update(jobs)
        self.looks += 1
        return jobs

    def clear(self) -> None:
        """Forget them all."""
        for place in (self.to_submit, self.submitting, self.running, self.looking, self.to_save, self.saving):
            place.clear()
