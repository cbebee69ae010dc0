"""`flux-cli show`: a saved picture, in the terminal or in the default viewer."""

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion
from flux_cli.api.task import wait_command
from flux_cli.errors import LocalFileError
from flux_cli.storage.paths import expanded
from flux_cli.storage.record import STDOUT
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)

MAX_COMPARED = 2000
"""How many files are compared to find a picture that was renamed."""


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli show\n\n"
    "$ flux-cli show kite.png\n\n"
    "$ flux-cli show 64cd7965 --open\n\n"
    '$ cp "$(flux-cli show 64cd7965)" best.png'
)
def show(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|TASK_ID]",
            help="A picture, or a saved task: its ID or a prefix of at least 4 characters. Default: the newest.",
            autocompletion=completion.saved_tasks_or_files,
        ),
    ] = None,
    viewer: Annotated[
        bool, typer.Option("--open", help="Open the picture in the default viewer instead.")
    ] = False,
) -> int:
    """Show a picture in the terminal, or print its path in a pipe."""
    path = _found(what)
    if viewer:
        from flux_cli.ui.viewer import open_file

        open_file(path)
    elif console.is_terminal(sys.stdout):
        from flux_cli.ui import preview

        preview.show(path)
    else:
        console.out(str(path))
    return 0


def _found(what: str | None) -> Path:
    """Return the path of a picture: a file's, a task's, or the newest saved one. Raises LocalFileError."""
    from flux_cli.storage.history import open_readonly

    if what is None:
        for record in open_readonly().records():
            if record.path and record.path != STDOUT and os.path.isfile(record.path):
                return Path(record.path)
        raise LocalFileError("the history has no saved picture", "give a file")
    path = expanded(what)
    if not os.path.lexists(path):
        path = _path_of(open_readonly().named(what))
    _check(path)
    return path


def _path_of(record: "Record") -> Path:
    """Return where a task's picture is. Raises LocalFileError if it is not on disk."""
    task_id = record.task_id or ""
    if record.path is None:
        raise LocalFileError(f"task {task_id} is not saved", f"get it with: {wait_command(task_id)}")
    if record.path == STDOUT:
        hint = f"get it with: {wait_command(task_id, ' -o FILE')}"
        raise LocalFileError(f"the picture of task {task_id} went to stdout", hint)
    path = Path(record.path)
    found = path if os.path.lexists(path) else _renamed(path, record.sha256)
    if found is None:
        raise LocalFileError(f"{path} no longer exists", f"get it again with: {wait_command(task_id)}")
    return found


def _renamed(path: Path, sha256: str | None) -> Path | None:
    """Return a file with the recorded content in the picture's directory or the current one, if there is one."""
    from flux_cli.storage.files import sha256_of

    if sha256 is None:
        return None
    candidates: list[Path] = []
    for directory in dict.fromkeys((path.parent, Path())):
        with contextlib.suppress(OSError):
            candidates += sorted(each for each in directory.glob(f"*{path.suffix}") if each.is_file())
    for candidate in candidates[:MAX_COMPARED]:
        with contextlib.suppress(LocalFileError):
            if sha256_of(candidate) == sha256:
                return candidate
    return None


def _check(path: Path) -> None:
    """Raise LocalFileError unless a file is a picture."""
    from flux_cli.pictures.formats import type_of
    from flux_cli.storage.filesystem import local_errors

    with local_errors(path, "read"):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would block
            raise LocalFileError(f"{path} is not a file")
    if type_of(path) is None:
        raise LocalFileError(f"{path} is not a picture")
