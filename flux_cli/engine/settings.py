"""The settings of a run."""

from dataclasses import dataclass

from flux_cli.errors import FluxError


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        wait: False ends each job as soon as it is accepted.
        check_once: End each task that still runs after one check, and each new one as soon as it is accepted.
        first_only: End the run as soon as one picture is saved; the other tasks stay as they are.
        timeout: Seconds for the whole run, or None.
        concurrency: The most tasks that are submitted or running at once.
        patience: The most seconds that one submission waits in total because the service asks to slow down, the
            store is busy or, once the service has accepted something, it is unreachable.
        picture_patience: Seconds to keep retrying one download; None for as long as the run lasts.
        finish_downloads: After a first signal, finish the downloads that have begun.
        stop_reason: Why nothing is submitted, if that is known before; jobs to wait for are not affected.
    """

    wait: bool = True
    check_once: bool = False
    first_only: bool = False
    timeout: float | None = None
    concurrency: int = 16
    patience: float = 60.0
    picture_patience: float | None = None
    finish_downloads: bool = False
    stop_reason: FluxError | None = None
