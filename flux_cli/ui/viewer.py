"""The platform's own viewer for a file."""

import os
import shutil
import sys
from pathlib import Path

from flux_cli.errors import UsageError

PATIENCE_SECONDS = 1.0
"""How soon an opener that cannot open anything has said so; one that is still there by then shows the file."""

_OPENER = "open" if sys.platform == "darwin" else "xdg-open"


def check() -> None:
    """Raise UsageError where this machine has nothing to open files with."""
    if sys.platform != "win32" and shutil.which(_OPENER) is None:
        raise UsageError(f"`--open` needs `{_OPENER}`, which is not installed")


def open_file(path: Path) -> None:
    """Open a file in the default viewer, which lives on when the program ends.

    The viewer gets none of the streams: typer.launch hands its stdout on, so that `$(flux-cli … --open)` would
    wait for it to be closed.

    Raises:
        UsageError: There is no viewer for it.
    """
    import subprocess

    check()
    if sys.platform == "win32":
        os.startfile(path.absolute())  # noqa: S606 - what a double click does
        return
    null = subprocess.DEVNULL
    process = subprocess.Popen(  # noqa: S603 - the platform's opener, with a path
        [_OPENER, str(path.absolute())], stdin=null, stdout=null, stderr=null, start_new_session=True
    )
    try:
        failed = process.wait(PATIENCE_SECONDS) != 0
    except subprocess.TimeoutExpired:
        return
    if failed:
        raise UsageError(f"`{_OPENER}` cannot open {path}")
