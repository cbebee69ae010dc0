"""Whether and when to try again to download a picture."""

from pathlib import Path

from flux_cli.engine.downloads import CHECK_EVERY, EXPIRED_SECONDS, next_attempt
from flux_cli.engine.job import Job
from flux_cli.pictures.download import DownloadError, Retry
from flux_cli.pictures.naming import Target

TRANSIENT, EXPIRED = DownloadError("HTTP 503"), DownloadError("HTTP 404", Retry.EXPIRED)


def job(began: float | None = None) -> Job:
    return Job(Target(Path()), download_began=began)


def test_transient_errors_back_off_and_check_now_and_then() -> None:
    """Each pause is at least half of its step; every few attempts the status comes first."""
    tried = job()
    steps = [next_attempt(tried, TRANSIENT, 100.0, None) or (0.0, None) for _ in range(2 * CHECK_EVERY)]
    assert [check for _, check in steps] == [*[False] * (CHECK_EVERY - 1), True] * 2
    assert 100.25 <= steps[0][0] <= 100.5
    assert 107.5 <= steps[-1][0] <= 115


def test_retry_after_is_the_least_pause() -> None:
    """A longer backoff stays."""
    slow = DownloadError("HTTP 429", retry_after=60.0)
    assert next_attempt(job(), slow, 100.0, None) == (160.0, False)


def test_patience_counts_from_the_first_attempt() -> None:
    """Including the pause before the next one."""
    assert next_attempt(job(began=0.0), TRANSIENT, 99.0, 100.0) is not None
    assert next_attempt(job(began=0.0), TRANSIENT, 100.0, 100.0) is None
    assert next_attempt(job(began=0.0), DownloadError("", retry_after=40.0), 60.0, 100.0) == (100.0, False)
    assert next_attempt(job(), TRANSIENT, 1e6, 100.0) is not None


def test_an_expired_url_is_checked_at_once_and_then_with_pauses() -> None:
    """For two minutes from its first refusal; another error between them starts again."""
    tried = job()
    assert next_attempt(tried, EXPIRED, 100.0, None) == (100.0, True)
    at, check = next_attempt(tried, EXPIRED, 101.0, None) or (0.0, None)
    assert (at > 101.0, check) == (True, True)
    assert next_attempt(tried, EXPIRED, 100.0 + EXPIRED_SECONDS, None) is None
    next_attempt(tried, TRANSIENT, 300.0, None)
    assert next_attempt(tried, EXPIRED, 301.0, None) == (301.0, True)
