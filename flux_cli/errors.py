"""What can go wrong, each with the exit code that scripts rely on and a hint for people.

The core raises these; `main` is the one place that turns them into a message and an exit code.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line, fixed because scripts test for them."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    TASK_FAILED = 4
    SERVICE_DOWN = 5
    LOCAL_FILE = 6
    GAVE_UP_WAITING = 7
    STILL_RUNNING = 8
    OUTCOME_UNKNOWN = 9
    SIGHUP = 129
    SIGINT = 130
    SIGPIPE = 141
    SIGTERM = 143


WORST_FIRST = tuple(ExitCode(code) for code in (129, 130, 143, 141, 9, 3, 4, 2, 6, 7, 5, 1, 8, 0))
"""Of several tasks' exit codes the first of these that occurs is the command's."""


def worst(codes: Iterable[int]) -> ExitCode:
    """Return the exit code that speaks for several tasks; `OK` for none."""
    return min((ExitCode(code) for code in codes), key=WORST_FIRST.index, default=ExitCode.OK)


class FluxError(Exception):
    """Something to tell the user in one line: `message`, and where there is something to do, `hint`."""

    exit_code = ExitCode.UNEXPECTED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.messages: tuple[str, ...] = (message,)
        self.hint = hint


class UsageError(FluxError):
    """A flag, a value or a combination that the rules do not allow; nothing was sent."""

    exit_code = ExitCode.USAGE


class BrokenRulesError(UsageError):
    """Several rules are broken at once; `messages` has a line for each."""

    def __init__(self, messages: Sequence[str], hint: str | None = None) -> None:
        super().__init__("; ".join(messages), hint)
        self.messages = tuple(messages)


class NotAllowedError(FluxError):
    """No key, a key that the service refuses (401, 403), or no credits left (402)."""

    exit_code = ExitCode.NOT_ALLOWED


class TaskFailedError(FluxError):
    """The task ended without a picture, or the service does not know it."""

    exit_code = ExitCode.TASK_FAILED


class ServiceDownError(FluxError):
    """The service cannot be reached or keeps failing; a later try may work."""

    exit_code = ExitCode.SERVICE_DOWN


class BadResponseError(FluxError):
    """The service answered something that cannot be understood."""

    exit_code = ExitCode.UNEXPECTED


class LocalFileError(FluxError):
    """A local file exists, cannot be written or read, or is not what it should be."""

    exit_code = ExitCode.LOCAL_FILE


class StoreBusyError(LocalFileError):
    """Another process is writing to the same file right now; a later attempt may succeed."""


class OutcomeUnknownError(FluxError):
    """A submission went out and no usable answer came back: it may have been accepted, and billed."""

    exit_code = ExitCode.OUTCOME_UNKNOWN

    def __init__(self, what: str) -> None:
        """`what` is all that is known of the submission."""
        super().__init__(
            f"the submission's outcome is unknown, it may have been accepted and billed: {what}",
            "it is never sent again by itself; see `flux-cli account` and `flux-cli history` before you repeat it",
        )
        self.what = what


class MissingExtraError(FluxError):
    """A feature needs packages that are not among the core dependencies."""

    exit_code = ExitCode.USAGE

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra `{extra}`, which is not installed",
            f"pip install 'apiframe-flux-cli[{extra}]', or pipx install --force 'apiframe-flux-cli[{extra}]'",
        )


class SignalReceived(BaseException):
    """SIGTERM or SIGHUP arrived. A BaseException, so that no handler of errors swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = ExitCode(128 + number)
