"""The errors of flux-cli, each with its exit code and a hint.

The core raises them; `main` is the one place that turns them into a message and an exit code.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum

DISTRIBUTION = "apiframe-flux-cli"
"""The name of the package on an index."""


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
"""The exit code of a command with several tasks is the first of these that occurs."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` is a misspelling of, or None.

    A wrong guess is worse than none: at most one edit (two from eight letters on), the same digits, and no second
    word just as close. Two letters in the wrong order are one edit. A unique beginning of a word counts as well.
    """
    typed = word.lower().lstrip("-")
    names = {name: name.lower().lstrip("-") for name in known}
    longer = [name for name, letters in names.items() if len(typed) >= 4 and letters.startswith(typed)]
    if len(longer) == 1:
        return longer[0]
    allowed = 0 if len(typed) < 3 else 1 if len(typed) < 8 else 2
    digits = sorted(filter(str.isdigit, typed))
    distances = {
        name: _edits(typed, letters)
        for name, letters in names.items()
        if abs(len(letters) - len(typed)) <= allowed and sorted(filter(str.isdigit, letters)) == digits
    }
    best = min(distances.values(), default=allowed + 1)
    nearest = [name for name, distance in distances.items() if distance == best]
    return nearest[0] if best <= allowed and len(nearest) == 1 else None


def _edits(a: str, b: str) -> int:
    """Return how many letters to insert, remove, replace or swap with their neighbour turn `a` into `b`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                edits = min(edits, last[j - 2] + 1)
            row.append(edits)
    return row[-1]


def worst(codes: Iterable[int]) -> ExitCode:
    """Return the exit code of a command whose tasks ended with these codes; `OK` for none."""
    return min((ExitCode(code) for code in codes), key=WORST_FIRST.index, default=ExitCode.OK)


def os_reason(error: OSError) -> str:
    """Return why the system rejected an operation, without the file's name: `no space left on device`."""
    return (error.strerror or str(error)).lower()


class FluxError(Exception):
    """An error to report: one line, or one for each broken rule; `hint` says what to do, if anything."""

    exit_code = ExitCode.UNEXPECTED

    def __init__(self, message: str | Sequence[str], hint: str | None = None) -> None:
        self.messages = (message,) if isinstance(message, str) else tuple(message)
        self.message = "; ".join(self.messages)
        super().__init__(self.message)
        self.hint = hint


class UsageError(FluxError):
    """An option, a value or a combination that is not allowed; nothing was sent."""

    exit_code = ExitCode.USAGE


class NotAllowedError(FluxError):
    """No key, a key that the service rejects (401, 403), or no credits left (402)."""

    exit_code = ExitCode.NOT_ALLOWED


class TaskFailedError(FluxError):
    """The task ended without a picture, or the service does not know it."""

    exit_code = ExitCode.TASK_FAILED


class ServiceDownError(FluxError):
    """The service is unreachable or keeps failing; a later attempt may succeed."""

    exit_code = ExitCode.SERVICE_DOWN


class BadResponseError(FluxError):
    """The response of the service cannot be interpreted."""


class LocalFileError(FluxError):
    """A local file exists, cannot be written or read, or has the wrong content."""

    exit_code = ExitCode.LOCAL_FILE


class StoreBusyError(LocalFileError):
    """Another process is writing to the same file right now; a later attempt may succeed."""


class OutcomeUnknownError(FluxError):
    """A submission was sent and got no usable response: it may have been accepted and charged."""

    exit_code = ExitCode.OUTCOME_UNKNOWN

    def __init__(self, what: str) -> None:
        """`what` says what happened instead of a response."""
        super().__init__(
            f"the submission may have been accepted and charged: {what}",
            "check `flux-cli history` and `flux-cli account` before you submit it again",
        )
        self.what = what


class MissingExtraError(FluxError):
    """A feature needs packages that are not among the core dependencies."""

    exit_code = ExitCode.USAGE

    def __init__(self, feature: str, extra: str) -> None:
        packages = missing_packages(extra) or [f"{DISTRIBUTION}[{extra}]"]
        super().__init__(
            f"{feature} needs the extra `{extra}`, which is not installed",
            f"install it with: {install_command(*packages)}",
        )


def missing_packages(extra: str) -> list[str]:
    """Return the requirements of an extra that are not installed; the extra itself if they are unknown."""
    from importlib.metadata import PackageNotFoundError, distribution, requires

    try:
        listed = [each.partition(";") for each in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:  # a zipapp
        return [f"{DISTRIBUTION}[{extra}]"]
    wanted = [need.strip() for need, _, marker in listed if re.search(f"extra == ['\"]{extra}['\"]", marker)]
    missing = []
    for requirement in wanted:
        try:
            distribution(re.split("[^A-Za-z0-9._-]", requirement)[0])
        except PackageNotFoundError:
            missing.append(requirement)
    return missing


def install_command(*packages: str) -> str:
    """Return the command that installs packages where the program is installed: by pipx, uv or pip."""
    import shlex
    from importlib.util import find_spec

    wanted = shlex.join(packages)
    *parents, name = os.path.normpath(sys.prefix).split(os.sep)
    if parents[-2:] == ["pipx", "venvs"]:
        return f"pipx inject {name} {wanted}"
    if parents[-2:] == ["uv", "tools"] or find_spec("pip") is None:
        return f"uv pip install --python {shlex.quote(sys.executable)} {wanted}"
    return f"{shlex.quote(sys.executable)} -m pip install {wanted}"


def program() -> str:
    """Return how to call the program: `flux-cli` if it is on the PATH, otherwise as it was called."""
    import shlex
    import shutil

    called = sys.argv[0]
    if shutil.which("flux-cli") or called == "flux-cli":
        return "flux-cli"
    if os.path.basename(called).startswith("flux-cli"):
        return shlex.quote(called)
    return shlex.join([sys.executable, *([called] if called.endswith(".pyz") else ["-m", "flux_cli"])])


class SignalReceived(BaseException):
    """SIGTERM or SIGHUP arrived. A BaseException, so that no error handler swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = ExitCode(128 + number)
