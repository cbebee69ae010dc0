"""The attempts to submit a row, and the state in which they leave it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from flux_cli.api.task import Status
from flux_cli.engine.result import Result
from flux_cli.errors import WORST_FIRST, ExitCode

Object = Mapping[str, object]


class RowState(Enum):
    """The state of a row, which decides what a run does with it."""

    NEW = auto()
    """None of its submissions was accepted: submit it."""
    SUBMITTED = auto()
    """It is charged and its picture is not saved: wait for it."""
    DONE = auto()
    FAILED = auto()
    """Its task failed, or the service rejected the request: resubmit it only on request."""
    UNKNOWN = auto()
    """It was sent and got no usable response: resubmit it only on request."""


ENDED = {RowState.DONE: Status.FINISHED, RowState.FAILED: Status.FAILED, RowState.UNKNOWN: Status.UNKNOWN}
"""Rows in these states have an object in the results, with this status."""
_UNCERTAIN = (RowState.UNKNOWN, RowState.NEW)


def state_of(status: Status, task_id: str | None, path: object, exit_code: int | None) -> RowState:
    """Return the state of a row after its last submission.

    A submission that was rejected because of the key, the credits or the rate limit leaves the row new.
    """
    if status is Status.UNKNOWN:
        return RowState.UNKNOWN
    if status is Status.UNSENT:
        return RowState.NEW
    if status is Status.FAILED:
        return RowState.FAILED if task_id or exit_code == ExitCode.USAGE else RowState.NEW
    return RowState.DONE if status is Status.FINISHED and path else RowState.SUBMITTED


def state_after(result: Result) -> RowState:
    """Return the state of a row after its job."""
    return state_of(result.status, result.task_id, result.path, result.exit_code)


@dataclass
class Attempt:
    """One submission of a row, and what is known about its outcome."""

    state: RowState = RowState.UNKNOWN
    task_id: str | None = None
    request: Object | None = None
    """The request as it is recorded."""
    created: float | None = None
    """When it was recorded, just before it was sent (Unix time, seconds)."""
    journal: str = ""
    """The name of the journal that has it; empty if only the results or the history have it."""
    result: Object | None = None
    """The object of the row in the results, if the row has ended."""

    @classmethod
    def of_result(cls, result: Object) -> "Attempt":
        """Return the attempt that an object of the results is about."""
        request = result.get("request")
        attempt = cls(request=request if isinstance(request, dict) else None)
        attempt.close(result)
        return attempt

    @property
    def age(self) -> float | None:
        """Seconds since it was recorded. The clocks of hosts differ, so it may seem to be in the future."""
        return None if self.created is None else max(0.0, time.time() - self.created)

    @property
    def path(self) -> str | None:
        """Where the picture was saved."""
        return text_of(self.result, "path")

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a row that failed or has an unknown outcome."""
        if self.state is RowState.UNKNOWN:
            return ExitCode.OUTCOME_UNKNOWN
        return ExitCode(_code_of(self.result) or ExitCode.TASK_FAILED)

    def accept(self, task_id: str | None) -> None:
        """Note that the service has accepted it."""
        self.task_id = task_id or self.task_id
        if self.state in _UNCERTAIN:
            self.state = RowState.SUBMITTED

    def withdraw(self) -> None:
        """Note that it was certainly not accepted."""
        if self.state is RowState.UNKNOWN:
            self.state = RowState.NEW

    def close(self, result: Object) -> None:
        """Note how it ended. A certain state replaces an uncertain one, never the reverse."""
        task_id = text_of(result, "task_id")
        try:
            state = state_of(Status(str(result.get("status"))), task_id, result.get("path"), _code_of(result))
        except ValueError:
            return
        self.task_id = task_id or self.task_id
        if state is RowState.DONE or (state is RowState.FAILED and self.state is not RowState.DONE):
            self.state, self.result = state, result
        elif state is RowState.UNKNOWN and self.state is RowState.UNKNOWN:
            self.result = result
        elif self.state in _UNCERTAIN and state is not RowState.UNKNOWN:
            self.state = state

    def is_recorded(self, result: Object | None) -> bool:
        """Return whether an object of the results, if there is one, says how it ended."""
        if result is None:
            return False
        return result.get("status") == ENDED[self.state] and result.get("task_id") == self.task_id


def best_of(attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt that determines a row's state, so that no accepted request is resubmitted.

    A row with a picture is done, and a task that was accepted is waited for, whatever later attempts did.
    """
    for states in ((RowState.DONE,), (RowState.SUBMITTED,), (RowState.FAILED, RowState.UNKNOWN)):
        for attempt in reversed(attempts):
            if attempt.state in states:
                return attempt
    return attempts[-1]


def row_object(row: str, line: int | None, service: str, result: Result) -> dict[str, object]:
    """Return the object about a row in the results."""
    place = {"row": row, "line": line, "service": service}
    return {**place, **result.as_json(), "request": dict(result.request)}


def text_of(values: Object | None, name: str) -> str | None:
    """Return a value that is text and not empty."""
    value = values.get(name) if values else None
    return value if isinstance(value, str) and value else None


def _code_of(result: Object | None) -> int | None:
    code = result.get("exit_code") if result else None
    return code if isinstance(code, int) and code in WORST_FIRST else None  # a later version may have others
