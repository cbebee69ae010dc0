"""The events of a run, for code that draws, prints or counts them.

The run calls one handler with each event, in order, from the thread that runs the loop. An event is emitted only
after what it reports has been committed. A handler that raises ends nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_cli.errors import ExitCode

if TYPE_CHECKING:
    from flux_cli.engine.job import Job
    from flux_cli.engine.result import Result


@dataclass(frozen=True)
class Submitting:
    """The job's request is about to be sent, for the first time or again."""

    job: "Job"


@dataclass(frozen=True)
class Submitted:
    """The service accepted the job: it has a task ID and is charged."""

    job: "Job"


@dataclass(frozen=True)
class Progress:
    """The task is still running, as far as is known; `job.task` is None before its first status check."""

    job: "Job"


@dataclass(frozen=True)
class Retrying:
    """Something failed and will be tried again."""

    job: "Job"
    message: str


@dataclass(frozen=True)
class Unrecorded:
    """What happened could not be written down: nothing but this run knows of it."""

    job: "Job"
    message: str


@dataclass(frozen=True)
class Downloading:
    """Bytes of the picture received so far, and how many there will be if the server said so."""

    job: "Job"
    received: int
    total: int | None


@dataclass(frozen=True)
class Ended:
    """The job is over.

    If `result.content` holds the picture for stdout, a handler that cannot write it raises NotDeliveredError: the
    picture then counts as not saved.
    """

    job: "Job"
    result: "Result"


Event = Submitting | Submitted | Progress | Retrying | Unrecorded | Downloading | Ended
Handler = Callable[[Event], None]


class NotDeliveredError(Exception):
    """The picture could not be written to stdout; `exit_code` says why."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
