"""Downloads of finished tasks' pictures: how many at once, and when to retry."""

from functools import partial
from typing import TYPE_CHECKING

from flux_cli.api.backoff import backoff
from flux_cli.engine.events import Downloading, Retrying
from flux_cli.engine.job import Job
from flux_cli.engine.workers import Operation
from flux_cli.errors import FluxError
from flux_cli.pictures.download import DownloadError, Retry
from flux_cli.pictures.saving import Saved, Transfer

if TYPE_CHECKING:
    from flux_cli.engine.run import Run

MIN_DOWNLOADS, MAX_DOWNLOADS = 8, 128
"""Downloads at once: half of the tasks in flight, within these limits."""
EXPIRED_SECONDS = 120.0
"""How long to retry a URL that the server rejects: a CDN may lag, and a status check may return another URL."""
CHECK_EVERY = 4
"""A status check precedes every fourth attempt."""
STALL_SECONDS = 30.0
"""How long a download may take for its first byte, and for each further `STALL_BYTES`."""
STALL_BYTES = 4096
PROGRESS_SECONDS = 0.1
"""How often a download reports its bytes."""


def next_attempt(job: Job, error: FluxError, now: float, patience: float | None) -> tuple[float, bool] | None:
    """Return when to retry a download, and whether a status check comes first; None if no attempt can help.

    `patience` limits the retries to this many seconds after the first attempt; None means no limit.
    """
    if not isinstance(error, DownloadError) or error.kind is Retry.FINAL:
        return None
    job.download_attempts += 1
    if error.kind is Retry.EXPIRED:
        first = job.expired_since is None
        job.expired_since = now if job.expired_since is None else job.expired_since
        at = now if first else now + backoff(job.download_attempts)
        return None if at - job.expired_since > EXPIRED_SECONDS else (at, True)
    job.expired_since = None
    at = now + max(backoff(job.download_attempts), error.retry_after or 0.0)
    began = now if job.download_began is None else job.download_began
    if patience is not None and at - began > patience:
        return None
    return at, job.download_attempts % CHECK_EVERY == 0


class _StoppedError(Exception):
    """Ends a download whose result is no longer needed."""


class Downloads:
    """The downloads of a run."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._limit = min(MAX_DOWNLOADS, max(MIN_DOWNLOADS, run.settings.concurrency // 2))

    @property
    def backlog(self) -> int:
        """How many pictures wait beyond four times the limit; each takes the place of a task in flight."""
        return max(0, len(self._run.queues.to_save) + len(self._run.queues.saving) - 4 * self._limit)

    @property
    def has_room(self) -> bool:
        """Whether another download may start now."""
        return len(self._run.queues.saving) < self._limit

    def start_due(self, now: float) -> None:
        """Start the downloads that are due, within the limits on downloads and threads."""
        for job in [job for job, due in self._run.queues.to_save.items() if due <= now]:
            if not self.has_room or not self._run.workers.reserve(1):
                break
            self._run.queues.move(job, self._run.queues.saving, now)
            job.download_began = now if job.download_began is None else job.download_began
            self._start(job)

    def _start(self, job: Job) -> None:
        assert job.task is not None and job.target is not None  # noqa: S101, PT018 - only such jobs are saved
        task, last, marked = job.task, float("-inf"), 0
        transfer = job.transfer = job.transfer or Transfer(job.target, job.recorded, job.n)

        def save(operation: Operation) -> Saved:
            def progress(received: int, total: int | None) -> None:
                nonlocal last, marked
                if self._run.workers.stopped.is_set():
                    raise _StoppedError
                if received - marked >= STALL_BYTES or received < marked:
                    marked = received
                    operation.extend()
                if received == total:
                    operation.ends_at = float("inf")  # no time limit for writing to the disk
                if (now := self._run.clock()) - last >= PROGRESS_SECONDS:
                    last = now
                    self._run.workers.post(partial(self._run.outbox.emit, Downloading(job, received, total)))

            return self._run.saver.save(task, transfer, progress)

        def overdue() -> Exception:
            return DownloadError(f"it stalled for {STALL_SECONDS:.0f} s")

        saved, not_saved = partial(self._run.endings.end_saved, job), partial(self._not_saved, job)
        self._run.workers.start(Operation(save, saved, not_saved, STALL_SECONDS, overdue))

    def _not_saved(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        attempt = next_attempt(job, error, self._run.clock(), self._run.settings.picture_patience)
        if attempt is None:
            self._run.endings.end_unfinished(job, error)
            return
        at, check = attempt
        job.last_error = error.message
        # A status check first: the picture may have a new URL.
        self._run.queues.move(job, self._run.queues.running if check else self._run.queues.to_save, at)
        self._run.outbox.emit(Retrying(job, error.message))
