"""`flux-cli show`: a picture that was saved, in the terminal or in the default viewer."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flux_cli import completion
from flux_cli.api.task import wait_command
from flux_cli.errors import LocalFileError
from flux_cli.ui import console

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli show kite.png\n\n"
    "$ flux-cli show 64cd7965-1b78-42c8-b929-9d7751a2e149 --open\n\n"
    '$ cp "$(flux-cli show 64cd7965-1b78-42c8-b929-9d7751a2e149)" best.png'
)
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|TASK_ID",
            help="A picture, or a task in the history that was saved.",
            autocompletion=completion.saved_tasks_or_files,
        ),
    ],
    viewer: Annotated[bool, typer.Option("--open", help="Open it in the default viewer instead.")] = False,
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


def _found(what: str) -> Path:
    """Return the path of a picture: a file's, or where the history says that a task's was saved.

    Raises:
        LocalFileError: There is none, or it is no picture.
    """
    from flux_cli.pictures.formats import SNIFF_BYTES, sniff
    from flux_cli.storage.history import open_readonly

    path = Path(what).expanduser()
    if not path.exists():
        record = open_readonly().find(what)
        if record is None:
            raise LocalFileError(f"there is no file {what}, and no task of that id in the history")
        if record.path is None:
            raise LocalFileError(f"task {what} has no picture here", f"get it with: {wait_command(what)}")
        if record.path == "-":
            raise LocalFileError(
                f"the picture of task {what} went to stdout", f"get it with: {wait_command(what, ' -o FILE')}"
            )
        path = Path(record.path)
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(SNIFF_BYTES))
    except FileNotFoundError:
        raise LocalFileError(f"{path} is gone", f"get it again with: {wait_command(what)}") from None
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if kind is None:
        raise LocalFileError(f"{path} is not a picture")
    return path
