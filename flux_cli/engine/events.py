"""The events of a run, for code that draws, prints or counts them.

The run calls one handler with each event, in order, from the thread that runs the loop. An event is emitted only
after what it reports has been committed. An exception in the handler does not end the run.
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
    """The job's request is about to be sent."""

    job: "Job"


@dataclass(frozen=True)
class Submitted:
    """The service accepted the job: it has a task ID and is charged."""

    job: "Job"


@dataclass(frozen=True)
class Progress:
    """As far as is known, the task is still running; `job.task` is None before its first status check."""

    job: "Job"


@dataclass(frozen=True)
class Retrying:
    """An operation failed and will be retried."""

    job: "Job"
    message: str


@dataclass(frozen=True)
class Unrecorded:
    """A change could not be recorded, so only this run knows about it."""

    job: "Job"
    message: str


@dataclass(frozen=True)
class Downloading:
    """The bytes of the picture received so far, and the total if the server sent it."""

    job: "Job"
    received: int
    total: int | None


@dataclass(frozen=True)
class Ended:
    """The job has ended.

    If `result.content` is the picture for stdout, a handler that cannot write it raises NotDeliveredError: the
    picture then counts as not saved.
    """

    job: "Job"
    result: "Result"


Event = Submitting | Submitted | Progress | Retrying | Unrecorded | Downloading | Ended
Handler = Callable[[Event], None]


class NotDeliveredError(Exception):
    """The picture could not be written to stdout, for the reason `exit_code`."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
