"""Where the program keeps its own files."""

import os
import re
import sys
from pathlib import Path

from flux_cli.errors import LocalFileError

APP = "flux-cli"
HISTORY = "history.sqlite3"
"""The history's file, unless several hosts share the file system: then each has one like `_HOST_HISTORY`."""
RESULTS_NAME, STATE_NAME = "results.jsonl", ".flux-cli"
"""In a batch directory: one JSON object per row; and the directory of its journals and claims."""
_HOST_HISTORY = re.compile(r"history-.+-[0-9a-f]{8}\.sqlite3")


def state_directory() -> Path:
    """Return the directory for the history and other records of the program's own work. Need not exist."""
    return _directory("user_state_path", "XDG_STATE_HOME", ".local/state")


def config_directory() -> Path:
    """Return the directory of the config file. Need not exist."""
    return _directory("user_config_path", "XDG_CONFIG_HOME", ".config")


def history_files(directory: Path) -> list[Path]:
    """Return the history files of all hosts in a directory; none if it cannot be read."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [directory / name for name in names if name == HISTORY or _HOST_HISTORY.fullmatch(name)]


def expanded(text: str) -> Path:
    """Return a path with `~` replaced. Unlike Path's own, it keeps that of a user who does not exist."""
    return Path(os.path.expanduser(text))


def _directory(function: str, variable: str, default: str) -> Path:
    """Return what a function of platformdirs returns, on Linux without importing it.

    Raises LocalFileError if there is no home: platformdirs would return a relative path that begins with `~`.
    """
    if sys.platform != "linux" or "ANDROID_ROOT" in os.environ:
        import platformdirs  # 20 ms

        return Path(getattr(platformdirs, function)(APP))
    base = os.environ.get(variable, "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is ignored
        base = os.path.join(os.path.expanduser("~"), default)
    if not os.path.isabs(base):
        raise LocalFileError("this user has no home directory", f"set HOME or {variable}")
    return Path(base, APP)
