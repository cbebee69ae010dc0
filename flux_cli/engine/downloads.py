"""Whether and when to try again to download a picture. Pure: the clock's readings are passed in."""

from enum import Enum, auto

from flux_cli.api.backoff import backoff
from flux_cli.engine.job import Job
from flux_cli.errors import FluxError
from flux_cli.pictures.download import DownloadError, Retry

EXPIRED_SECONDS = 120.0
"""How long a URL that is refused is tried: a CDN may lag behind, and a new status check may return another URL."""
CHECK_EVERY = 4
"""A status check comes before every so many attempts."""
FINISHED_WITHOUT_URL_SECONDS = 20.0
"""How long a task that is finished without an image URL is polled."""


class NextAttempt(Enum):
    """What to do after an attempt to download failed."""

    NONE = auto()
    DOWNLOAD = auto()
    CHECK = auto()
    """Check the task's status first."""


def next_attempt(job: Job, error: FluxError, now: float, patience: float | None) -> tuple[NextAttempt, float]:
    """Return what to do next, and when.

    `patience` is how many seconds the picture is tried for, counted from the first attempt; None is without limit.
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
