"""The history on a terminal: one line per task, newest at the bottom, in a pager if the screen is too small."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux_cli.api.task import Status, short_id
from flux_cli.storage.record import SANDBOX, STDOUT, Record
from flux_cli.ui import console
from flux_cli.ui.tables import STATUS_STYLES

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = ("task", "when", "status", "model", "prompt", "file")
DROPPED = ("model", "file", "when")
"""The columns that a narrow terminal omits, in this order."""
LEAST = {"prompt": 14, "file": 12}
"""The minimum useful widths of these columns."""
GAP = 2
PAGER = "less -FRX +G"
"""It exits at once if everything fits, keeps the colours and the screen, and starts at the bottom."""


def show(records: Sequence[Record]) -> None:
    """Print records, given newest first, to stdout, which is a terminal."""
    from rich.console import Console  # 60 ms, needed only on a terminal

    size = shutil.get_terminal_size()
    screen = Console(highlight=False, width=size.columns, no_color=not console.wants_colour(sys.stdout))
    with screen.capture() as capture:
        for line in lines(records, size.columns, time.time()):
            screen.print(line, no_wrap=True, overflow="crop", soft_wrap=True)
    text = capture.get()
    if text.count("\n") < size.lines or not console.is_terminal(sys.stdout) or not _paged(text):
        console.out_bytes(text.encode("utf-8", "replace"))


def lines(records: Sequence[Record], width: int, now: float) -> "list[Text]":
    """Return a header and one line of at most `width` cells per record, the oldest first."""
    from rich.cells import cell_len
    from rich.text import Text

    rows = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(_cells(record, now) for record in reversed(records))]
    widths = _widths({name: max(cell_len(row[name]) for row in rows) for name in COLUMNS}, width)
    found = []
    for number, row in enumerate(rows):
        line = Text(style="bold" if number == 0 else "")
        for name, cells in widths.items():
            text, style = row[name], ""
            if name == "file" and cell_len(text) > cells:  # the end of a path is more useful
                while cell_len(text) > cells - 1:
                    text = text[1:]
                text = f"…{text}"
            elif name == "status":
                style = STATUS_STYLES.get(text, "yellow" if text == "not saved" else "")
            cell = Text(text, style=style)
            cell.truncate(cells, overflow="ellipsis", pad=True)
            line.append_text(cell).append(" " * GAP)
        line.rstrip()
        found.append(line)
    return found


def age(seconds: float, created: float) -> str:
    """Return how long ago something was, in at most seven characters: `12s ago`, `3h ago`, `Nov 03`, `2025-11`."""
    for unit, length, limit in (("s", 1, 60), ("m", 60, 3600), ("h", 3600, 86400), ("d", 86400, 30 * 86400)):
        if seconds < limit:
            return f"{max(0, int(seconds // length))}{unit} ago"
    return time.strftime("%b %d" if seconds < 300 * 86400 else "%Y-%m", time.localtime(created))


def state(record: Record) -> str:
    """Return the status, or `not saved` for a finished task without a file."""
    return "not saved" if record.unsaved and record.status is Status.FINISHED else record.status.value


def model(record: Record) -> str:
    """Return the model without its common prefix, marked if it is from the sandbox."""
    name = (record.model or "-").removeprefix("flux-")
    return f"{name} (sandbox)" if record.service == SANDBOX else name


def _cells(record: Record, now: float) -> dict[str, str]:
    cells = {
        "task": short_id(record.task_id),
        "when": age(now - record.created, record.created),
        "status": state(record),
        "model": model(record),
        "prompt": record.prompt or "",
        "file": short_path(record.path),
    }
    return {name: console.clean(cell) for name, cell in cells.items()}


def short_path(path: str | None) -> str:
    """Return a path in its shortest form: relative to the working directory or the home directory."""
    if path is None or path == STDOUT:
        return "" if path is None else "(stdout)"
    with contextlib.suppress(OSError):  # the working directory may be gone
        relative = path.removeprefix(f"{os.getcwd()}{os.sep}")
        if relative != path:
            return relative
    home = os.path.expanduser("~")
    return f"~{path[len(home) :]}" if len(home) > 1 and path.startswith(home + os.sep) else path


def _widths(wanted: dict[str, int], width: int) -> dict[str, int]:
    """Return the widths of the columns that fit: prompt and file share what the others leave."""
    for dropped in range(len(DROPPED) + 1):
        kept = [name for name in COLUMNS if name not in DROPPED[:dropped]]
        widths = {name: min(wanted[name], LEAST.get(name, wanted[name])) for name in kept}
        left = width - sum(widths.values()) - GAP * (len(kept) - 1)
        if left >= 0:
            break
    # The prompt first, up to half of the space: the file's name is often derived from it.
    for name, share in (("prompt", (left + 1) // 2), ("file", left), ("prompt", left)):
        if name in widths:
            more = max(0, min(share, left, wanted[name] - widths[name]))
            widths[name], left = widths[name] + more, left - more
    return widths


def _paged(text: str) -> bool:
    """Show a text in the user's pager; return whether there is one."""
    command = shlex.split(os.environ.get("PAGER", PAGER)) or ["cat"]
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own choice
            command, stdin=subprocess.PIPE, env={"LESSCHARSET": "utf-8", **os.environ}
        )
    except OSError:
        return False
    with contextlib.suppress(OSError, KeyboardInterrupt):  # the pager was quit early
        if process.stdin:
            process.stdin.write(text.encode("utf-8", "replace"))
            process.stdin.close()
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is for the pager
            process.wait()
    return True
