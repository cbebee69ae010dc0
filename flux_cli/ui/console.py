"""The two streams: stdout for data, stderr for people. Text from outside never reaches a terminal unescaped.

Does not use rich: most commands print a line or two, and importing rich takes 90 ms.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from flux_cli.api.redaction import Redactor
from flux_cli.errors import LocalFileError, os_reason

if TYPE_CHECKING:
    from flux_cli.ui.live import LiveDisplay

_UNSAFE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""C0, DEL and C1; bidi marks, embeddings, overrides and isolates; line separators; lone surrogates."""
_RED, _CYAN, _RESET = "\x1b[31m", "\x1b[36m", "\x1b[0m"

_redactor = Redactor()

live_display: "LiveDisplay | None" = None
"""The display to hide while something else is written to the terminal."""


def above_live_display() -> contextlib.AbstractContextManager[None]:
    """Return a context in which the live display, if there is one, is not on the terminal."""
    return contextlib.nullcontext() if live_display is None else live_display.hidden()


def keep_secret(text: str | None) -> None:
    """Redact a text in all later output on stderr."""
    _redactor.add(text)


def clean(text: object) -> str:
    """Return a text as one line: white space is folded, and control characters are escaped."""
    folded = re.sub(r"[\t\n\r\f\v ]+", " ", str(text))
    return folded if folded.isprintable() else re.sub(_UNSAFE, _escape, folded)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def shortened(text: str, width: int) -> str:
    """Return a text, cleaned, with at most `width` characters."""
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def wants_colour(stream: object) -> bool:
    """Return whether a stream is a terminal that gets colours: `NO_COLOR` is unset or empty."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_terminal(stream: object) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM") != "dumb"


def error(message: str) -> None:
    """Print an error, in one line."""
    _say("error:", message, _RED)


def hint(message: str) -> None:
    """Print how to solve the problem, in one line."""
    _say("hint:", message, _CYAN)


quiet = False
"""Whether `--quiet` suppresses warnings and notes."""


def set_quiet(requested: bool) -> bool:
    """Set `quiet`: the callback of the option."""
    global quiet
    quiet = requested
    return requested


def warning(message: str) -> None:
    """Print a warning, in one line."""
    if not quiet:
        warning_despite_quiet(message)


def warning_despite_quiet(message: str) -> None:
    """Print a warning, in one line, even with `--quiet`."""
    _say("warning:", message, _CYAN)


def note(message: str) -> None:
    """Print a message, in one line."""
    if not quiet:
        trace(message)


def trace(message: str) -> None:
    """Print a line of the trace that `--verbose` requests, even with `--quiet`."""
    raw_stderr(clean(message) + "\n")


def _say(label: str, message: str, colour: str) -> None:
    if wants_colour(sys.stderr):
        label = f"{colour}{label}{_RESET}"
    raw_stderr(f"{label} {clean(message)}\n")


def raw_stderr(text: str) -> None:
    """Write to stderr, above the live display. A stderr that cannot be written is ignored."""
    with above_live_display():
        write_terminal(text)


def write_terminal(text: str) -> None:
    """Write to stderr at once, with secrets redacted, wherever the cursor is."""
    stderr.write(_redactor.text(text))
    stderr.flush()


class _ForgivingStderr:
    """Stderr, ignoring errors: a terminal that was closed must not end a run whose tasks are charged."""

    def __getattr__(self, name: str) -> Any:  # rich uses more of a stream
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write a text if possible."""
        return self._try(lambda: sys.stderr.write(text))

    def flush(self) -> None:
        """Flush if possible."""
        self._try(sys.stderr.flush)

    def _try(self, action: Callable[[], int | None]) -> int:
        try:
            return action() or 0
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                # Otherwise Python reports at exit that its buffer cannot be written.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            return 0


stderr = cast("IO[str]", _ForgivingStderr())


def out(line: str) -> None:
    """Write one line of data to stdout and flush. Raises as `out_bytes` does."""
    text = clean(line) if sys.stdout.isatty() else line
    out_bytes((text + "\n").encode("utf-8", "surrogateescape"))


def out_bytes(content: bytes) -> None:
    """Write bytes to stdout and flush.

    Raises:
        BrokenPipeError: The reader has closed the pipe.
        LocalFileError: Stdout cannot be written, for example because the disk is full.
    """
    room = above_live_display() if sys.stdout.isatty() else contextlib.nullcontext()
    try:
        with room:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise LocalFileError(f"cannot write to stdout: {os_reason(error)}") from error


def out_json(value: Mapping[str, object], *, indent: int | None = None) -> None:
    """Write one object as JSON in UTF-8 to stdout, on one line unless indented."""
    import json  # 1 ms that completion and `--version` do not spend

    text = json.dumps(value, ensure_ascii=False, indent=indent)
    escaped = re.sub(_UNSAFE, lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    out_bytes((escaped + "\n").encode())


stdout_is_closed = False
"""Whether the caller closed stdout."""


def fill_missing_streams() -> None:
    """Open the null device for each standard stream that the caller closed.

    Otherwise the next file to be opened would get its number, and with it the output of the stream.
    """
    global stdout_is_closed
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            stdout_is_closed = stdout_is_closed or number == 1
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open


def discard_stdout() -> None:
    """Replace a stdout that cannot be written with the null device, so that Python reports no error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush() -> None:
    """Flush stdout before the program ends, ignoring errors."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        discard_stdout()
