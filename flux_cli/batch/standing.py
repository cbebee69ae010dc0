"""How the rows of a batch stand, one by one and counted."""

from dataclasses import dataclass, field
from enum import Enum, auto

from flux_cli.api.task import Status
from flux_cli.errors import ExitCode, worst


class Standing(Enum):
    """How a row stands, and so what a run does with it."""

    NEW = auto()
    """Nothing of it was ever accepted: it is sent."""
    SUBMITTED = auto()
    """It is paid for and its picture is not here: it is waited for."""
    DONE = auto()
    FAILED = auto()
    """Its task failed, or the service refused the request: sent again only when asked for."""
    UNKNOWN = auto()
    """It was sent and no answer came: sent again only when asked for."""


def standing(status: Status, task_id: str | None, path: object, exit_code: int | None) -> Standing:
    """Return how a row stands by its newest submission.

    One that was refused for its key, for credits or for the moment (no id, and no 400) was not accepted.
    """
    if status is Status.UNKNOWN:
        return Standing.UNKNOWN
    if status is Status.UNSENT:
        return Standing.NEW
    if status is Status.FAILED:
        return Standing.FAILED if task_id or exit_code == ExitCode.USAGE else Standing.NEW
    return Standing.DONE if status is Status.FINISHED and path else Standing.SUBMITTED


@dataclass(frozen=True)
class Place:
    """A row in its file, and the exit code that stands for it."""

    row: str
    line: int
    exit_code: ExitCode


@dataclass
class Tally:
    """How many rows stand how.

    Attributes:
        rows: All of this run's shard; the others are counted as they are met or made.
        before: Finished by earlier runs; `changed` are those of them that the file or the flags now give other
            values than they were made with, and `gone` those whose pictures are not where they were.
        failed_before, unknown_before: From earlier runs, and not sent again now.
        under_way: Tasks that are paid for and not over.
        finished, failed, unknown, unsent: How rows ended in this run.
        left: Tasks that live on when this run ends.
    """

    rows: int = 0
    before: int = 0
    changed: int = 0
    gone: int = 0
    failed_before: list[Place] = field(default_factory=list)
    unknown_before: list[Place] = field(default_factory=list)
    under_way: int = 0
    finished: int = 0
    failed: int = 0
    unknown: list[Place] = field(default_factory=list)
    unsent: int = 0
    left: int = 0

    @property
    def over(self) -> int:
        """Rows that need nothing more."""
        skipped = self.before + len(self.failed_before) + len(self.unknown_before)
        return skipped + self.finished + self.failed + len(self.unknown)

    @property
    def to_send(self) -> int:
        """Rows of which nothing has been accepted yet."""
        return self.rows - self.over - self.left - self.under_way

    @property
    def exit_code(self) -> ExitCode:
        """What the rows of earlier runs that did not end well have to say."""
        return worst(place.exit_code for place in (*self.failed_before, *self.unknown_before))
