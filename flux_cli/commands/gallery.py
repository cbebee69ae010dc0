"""`flux-cli gallery`: one HTML page of what was made."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion
from flux_cli.commands import SUMMARIES
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.gallery.pictures import Picture, Thumbnail

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
            help="What lies in it and below, from the history and from sidecars. Default: all of the history.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            autocompletion=completion.files,
            help="The page. Default: gallery.html in DIR, or here without DIR.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that is not a gallery.")] = False,
    viewer: Annotated[bool, typer.Option("--open", help="Open the page in the default browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")] = False,
) -> int:
    """Write the page and print its path."""
    from flux_cli.gallery import page
    from flux_cli.ui import viewer as default_viewer

    if viewer:
        default_viewer.check()
    path = output or (directory or Path()) / "gallery.html"
    if path.is_dir():
        raise UsageError(f"`-o {path}` is a directory", "name a file, such as gallery.html")
    page.check(path, force=force)
    pictures = _found(directory, quiet)
    page.write(path, pictures, _thumbnails(pictures, path, quiet))
    console.out(str(path))
    if viewer:
        default_viewer.open_file(path)
    return 0


def _found(directory: Path | None, quiet: bool) -> "list[Picture]":
    """Return the pictures, newest first. Raises LocalFileError where there is none, or DIR cannot be read."""
    from flux_cli.gallery.pictures import in_history, with_sidecars
    from flux_cli.storage.history import open_readonly

    history = open_readonly()
    pictures, gone = in_history(history.records(), directory)
    for problem in history.problems():
        console.warning(problem)
    if directory is not None:
        known = {picture.path for picture in pictures}
        pictures += [picture for picture in with_sidecars(directory) if picture.path not in known]
        pictures.sort(key=lambda picture: picture.created or 0, reverse=True)
    if not pictures:
        where = f"in {directory}" if directory else "in the history"
        raise LocalFileError(
            f"there is no picture {where} that was made with flux-cli",
            "pictures are known by the history, or by sidecars (`flux-cli imagine --sidecar`)",
        )
    if gone and not quiet:
        console.note(f"left out: {gone} of the history whose file is gone")
    return pictures


def _thumbnails(pictures: "list[Picture]", path: Path, quiet: bool) -> "list[Thumbnail | None]":
    """Return a thumbnail for each picture: from the page that is there, else made now, if Pillow is installed."""
    from flux_cli.gallery import page

    known: dict[tuple[str, str], Thumbnail | None] = {**page.thumbnails_in(path)}
    keys = [page.key(picture, path) for picture in pictures]
    missing = {key: picture.path for key, picture in zip(keys, pictures, strict=True) if key not in known}
    known |= zip(missing, _made(list(missing.values()), quiet), strict=True)
    return [known[key] for key in keys]


def _made(paths: list[Path], quiet: bool) -> "Iterable[Thumbnail | None]":
    """Return a new thumbnail for each path, and show on a terminal how far it is; none where Pillow is missing."""
    from importlib.util import find_spec

    if not paths:
        return []
    if find_spec("PIL") is None:
        if not quiet:
            console.note("no thumbnails: they need the extra `preview`; the page shows the files themselves")
        return [None] * len(paths)
    from flux_cli.gallery.thumbnails import thumbnails

    coming = thumbnails(paths)
    if quiet or not console.is_terminal(sys.stderr):
        return coming
    from flux_cli.ui.task_bars import tracked

    return tracked(coming, "Thumbnails", len(paths))
