"""`flux-cli gallery`: one HTML page of generated pictures."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion, options
from flux_cli.commands import SUMMARIES
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.gallery.collection import Picture, Thumbnail

app = typer.Typer(add_completion=False)


@app.command(
    help=f"{SUMMARIES['gallery']}\n\nThe page contains thumbnails and needs no network. Its large view "
    "shows the files.",
    epilog="Examples:\n\n"
    "$ flux-cli gallery --open\n\n"
    "$ flux-cli gallery pictures/\n\n"
    "$ flux-cli gallery pictures/ -o /var/www/pictures.html",
)
def gallery(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            autocompletion=completion.directories,
            help="Pictures in DIR and below that are in the history, have sidecars or are batch results. "
            "Default: the whole history.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            autocompletion=completion.files,
            help="The page. Default: gallery.html in DIR, or in the current directory.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that is not a gallery.")] = False,
    viewer: Annotated[bool, typer.Option("--open", help="Open the page in the default browser.")] = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - its callback acts
) -> int:
    """Write the page and print its path."""
    from flux_cli.gallery import page
    from flux_cli.ui import viewer as default_viewer

    if viewer:
        default_viewer.check()
    path = Path(output) if output else (directory or Path()) / "gallery.html"
    if path.is_dir() or (output or "").endswith(("/", os.sep)):
        raise UsageError(f"`-o {path}` is a directory", "name a file, such as gallery.html")
    page.check(path, force=force)
    pictures = _found(directory)
    page.write(path, pictures, _thumbnails(pictures, path))
    console.out(str(path))
    if viewer:
        default_viewer.open_file(path)
    return 0


def _found(directory: Path | None) -> "list[Picture]":
    """Return the pictures, newest first. Raises LocalFileError if there are none, or DIR cannot be read."""
    from flux_cli.gallery.collection import from_directory

    pictures, gone = _in_history(directory)
    if directory is not None:
        known = {picture.path for picture in pictures}
        pictures += [picture for picture in from_directory(directory) if picture.path not in known]
        pictures.sort(key=lambda picture: picture.created or 0, reverse=True)
    if not pictures:
        where = f"in {directory}" if directory else "in the history"
        raise LocalFileError(
            f"no picture {where} is from flux-cli",
            "it finds pictures through the history, sidecars (`flux-cli imagine --sidecar`) and batch results",
        )
    if gone:
        files = "1 picture whose file" if gone == 1 else f"{gone} pictures whose files"
        console.note(f"omitted {files} no longer exist{'s' if gone == 1 else ''}")
    return pictures


def _in_history(directory: Path | None) -> "tuple[list[Picture], int]":
    """Return the history's pictures, and the number of missing files. With DIR, the history is optional."""
    from flux_cli.gallery.collection import from_history
    from flux_cli.storage.history import open_readonly

    try:
        history = open_readonly()
        found = from_history(history.records(), directory)
    except LocalFileError as error:
        if directory is None:
            raise
        console.warning(str(error))
        return [], 0
    for problem in history.problems():
        console.warning(problem)
    return found


def _thumbnails(pictures: "list[Picture]", path: Path) -> "list[Thumbnail | None]":
    """Return a thumbnail for each picture: from the earlier page, or a new one if Pillow is installed."""
    from flux_cli.gallery import page

    known: dict[tuple[str, str], Thumbnail | None] = {**page.thumbnails_in(path)}
    keys = [page.key(picture, path) for picture in pictures]
    missing = {key: picture.path for key, picture in zip(keys, pictures, strict=True) if key not in known}
    known |= zip(missing, _created(list(missing.values())), strict=True)
    return [known[key] for key in keys]


def _created(paths: list[Path]) -> "Iterable[Thumbnail | None]":
    """Return a new thumbnail for each path, with a progress bar on a terminal; none if Pillow is missing."""
    from importlib.util import find_spec

    if not paths:
        return []
    if find_spec("PIL") is None:
        console.note("no thumbnails: they need the extra `preview`; the page shows the files instead")
        return [None] * len(paths)
    from flux_cli.gallery.thumbnails import thumbnails

    made = thumbnails(paths)
    if console.quiet or not console.is_terminal(sys.stderr):
        return made
    from flux_cli.ui.progress import tracked

    return tracked(made, "Thumbnails", len(paths))
