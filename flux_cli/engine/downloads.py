"""Downloads of finished tasks' pictures: how many at once, and when to retry."""

from enum import Enum, auto
from functools import partial

from flux_cli.api.backoff import backoff
from flux_cli.engine.events import Downloading, Retrying
from flux_cli.engine.job import Job
from flux_cli.engine.settings import Parts
from flux_cli.errors import FluxError
from flux_cli.pictures.download import DownloadError, Retry

MIN_DOWNLOADS, MAX_DOWNLOADS = 8, 128
"""Downloads at once: half of the tasks in flight, within these limits."""
EXPIRED_SECONDS = 120.0
"""How long to retry a URL that the server rejects: a CDN may lag, and a status check may return another URL."""
CHECK_EVERY = 4
"""A status check precedes every fourth attempt."""


class NextAttempt(Enum):
    """What to do after a failed download."""

    NONE = auto()
    DOWNLOAD = auto()
    CHECK = auto()
    """Check the task's status first."""


def next_attempt(job: Job, error: FluxError, now: float, patience: float | None) -> tuple[NextAttempt, float]:
    """Return what to do next, and when.

    `patience` limits the retries to this many seconds after the first attempt; None means no limit.
    """
    if not isinstance(error, DownloadError) or error.kind is Retry.FINAL:
        return NextAttempt.NONE, now
    job.download_attempts += 1
    if error.kind is Retry.EXPIRED:
        first = job.expired_since is None
        job.expired_since = now if job.expired_since is None else job.expired_since
        at = now if first else now + backoff(job.download_attempts)
        over = at - job.expired_since > EXPIRED_SECONDS
        return (NextAttempt.NONE if over else NextAttempt.CHECK), at
    job.expired_since = None
    at = now + max(backoff(job.download_attempts), error.retry_after or 0.0)
    began = now if job.download_began is None else job.download_began
    if patience is not None and at - began > patience:
        return NextAttempt.NONE, now
    return (NextAttempt.CHECK if job.download_attempts % CHECK_EVERY == 0 else NextAttempt.DOWNLOAD), at


class Downloads:
    """The downloads of a run."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queues = parts.queues
        self._outbox = parts.outbox
        self._endings = parts.endings
        self._limit = min(MAX_DOWNLOADS, max(MIN_DOWNLOADS, parts.settings.concurrency // 2))

    @property
    def backlog(self) -> int:
        """How many pictures wait beyond four times the limit; each takes the place of a task in flight."""
        return max(0, len(self._queues.to_save) + len(self._queues.saving) - 4 * self._limit)

    @property
    def has_room(self) -> bool:
        """Whether another download may start now."""
        return len(self._queues.saving) < self._limit

    def start_due(self, now: float) -> None:
        """Start the downloads that are due, within the limits on downloads and threads."""
        for job in [job for job, due in self._queues.to_save.items() if due <= now]:
            if not self.has_room or not self._parts.workers.reserve(1):
                break
            del self._queues.to_save[job]
            self._queues.saving.add(job)
            job.download_began = now if job.download_began is None else job.download_began
            self._parts.operations.download(
                job,
                partial(self._downloading, job),
                partial(self._endings.end_saved, job),
                partial(self._not_saved, job),
            )

    def _downloading(self, job: Job, received: int, total: int | None) -> None:
        self._outbox.emit(Downloading(job, received, total))

    def _not_saved(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        now = self._parts.clock()
        step, at = next_attempt(job, error, now, self._parts.settings.picture_patience)
        if step is NextAttempt.NONE:
            self._endings.end_not_saved(job, error)
            return
        self._queues.saving.discard(job)
        job.last_error = error.message
        # A status check first: the picture may have a new URL.
        (self._queues.running if step is NextAttempt.CHECK else self._queues.to_save)[job] = at
        self._outbox.emit(Retrying(job, error.message))
