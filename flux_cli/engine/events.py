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
class Event:
    """Something has happened to a job."""

    job: "Job"


class Submitting(Event):
    """The job's request is about to be sent."""


class Submitted(Event):
    """The service accepted the job: it has a task ID and is charged."""


class Progress(Event):
    """As far as is known, the task is still running; `job.task` is None before its first status check."""


@dataclass(frozen=True)
class Retrying(Event):
    """An operation failed and will be retried."""

    message: str


@dataclass(frozen=True)
class Unrecorded(Event):
    """A change could not be recorded, so only this run knows about it."""

    message: str


@dataclass(frozen=True)
class Downloading(Event):
    """The bytes of the picture received so far, and the total if the server sent it."""

    received: int
    total: int | None


@dataclass(frozen=True)
class Ended(Event):
    """The job has ended.

    If `result.content` is the picture for stdout, a handler that cannot write it raises NotDeliveredError: the
    picture then counts as not saved.
    """

    result: "Result"


Handler = Callable[[Event], None]


class NotDeliveredError(Exception):
    """The picture could not be written to stdout, for the reason `exit_code`."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
