"""The default viewer of this machine for a file."""

import os
import shutil
import sys
from pathlib import Path

from flux_cli.api.request import FIELDS
from flux_cli.errors import UsageError
from flux_cli.storage.settings import KEY_VARIABLE

FAILURE_SECONDS = 1.0
"""An opener that fails does so within this time; one that still runs after it shows the file."""

_OPENER = "open" if sys.platform == "darwin" else "xdg-open"
_SECRET_VARIABLES = (KEY_VARIABLE, FIELDS["webhook_secret"].envvar or "")


def check() -> None:
    """Raise UsageError if this machine has no program to open files with."""
    if sys.platform != "win32" and shutil.which(_OPENER) is None:
        raise UsageError(f"`--open` needs `{_OPENER}`, which is not installed", "open the file yourself")


def open_file(path: Path) -> None:
    """Open a file in the default viewer, which keeps running when the program ends.

    The viewer inherits neither the streams (`$(flux-cli … --open)` would wait until it closes them) nor the key
    and the webhook secret. Raises UsageError if there is no viewer for the file.
    """
    import subprocess

    check()
    try:
        if sys.platform == "win32":
            for name in _SECRET_VARIABLES:
                os.environ.pop(name, None)  # startfile takes no environment of its own
            os.startfile(path.absolute())  # noqa: S606 - what a double click does
            return
        null = subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: S603 - the opener of the system, with a path
            [_OPENER, str(path.absolute())],
            stdin=null,
            stdout=null,
            stderr=null,
            env={name: value for name, value in os.environ.items() if name not in _SECRET_VARIABLES},
            start_new_session=True,
        )
        if process.wait(FAILURE_SECONDS) == 0:
            return
    except subprocess.TimeoutExpired:
        return
    except OSError:
        pass  # Windows knows no program for the file, or the opener cannot be started
    kind = f"{path.suffix} files" if path.suffix else "such files"
    raise UsageError(
        f"cannot open {path} in the default viewer", f"open it yourself, or install a viewer for {kind}"
    )
