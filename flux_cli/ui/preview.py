"""Shows a picture in the terminal with the best protocol it has: Sixel (iTerm2 too), Kitty's, or half blocks."""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.errors import LocalFileError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CELLS = 240
"""Kitty's protocol allows at most 297 columns and rows per picture."""

MAX_SIDE = 2400
"""The longer side of the decoded picture, in pixels: more than a terminal shows."""
MAX_RATIO = 20
"""The largest ratio of the sides: a narrower picture would be less than one cell wide."""


def check() -> None:
    """Raise MissingExtraError if the packages for previews are not installed."""
    if find_spec("textual_image") is None or find_spec("PIL") is None:
        raise MissingExtraError("a picture in the terminal", "preview")


def show(path: Path) -> None:
    """Show a picture on stdout, which has to be a terminal, as large as fits.

    Raises LocalFileError if it cannot be read, or is no picture, UsageError if the terminal cannot show pictures,
    and the error of `check`.
    """
    check()
    from flux_cli.pictures.decoding import decode

    picture = decode(path, MAX_SIDE)
    if max(picture.width, picture.height) > MAX_RATIO * min(picture.width, picture.height):
        raise LocalFileError(f"{path} is too narrow to be shown in a terminal")
    with _terminal_as_stdin():
        _draw(picture.image)


def _draw(picture: "Image") -> None:
    import logging

    from rich.console import Console

    # Otherwise logging prints a traceback if the terminal does not respond to a query.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    from textual_image import renderable  # queries the terminal: 100 ms and more

    if renderable.Image is renderable.HalfcellImage and os.environ.get("NO_COLOR"):
        raise UsageError("NO_COLOR is set, and this terminal can show pictures only with colours")
    terminal = Console(
        file=sys.stdout,
        force_terminal=True,  # regardless of rich's environment variables
        # Kitty's placeholders carry the picture's number in a 24-bit colour.
        color_system="truecolor" if renderable.Image is renderable.TGPImage else "auto",
        no_color=False,
    )
    image = renderable.Image(picture, width="auto", height="auto")
    room = max(1, terminal.height - 2)  # for the path above and the prompt below
    try:
        terminal.print(image, width=min(terminal.width, MAX_CELLS), height=min(room, MAX_CELLS))
    except (ValueError, ZeroDivisionError):  # Pillow: a side without pixels; textual-image: no columns
        raise UsageError("the terminal is too small to show a picture, or does not report its size") from None


@contextlib.contextmanager
def _terminal_as_stdin() -> Iterator[None]:
    """Let textual-image read the terminal's responses if stdin is a pipe; it would raise termios.error.

    It reads from `sys.__stdin__`; if that is None, it uses half blocks.
    """
    stdin = sys.__stdin__
    if stdin is not None and stdin.isatty():
        yield
        return
    with contextlib.ExitStack() as stack:
        terminal = None
        with contextlib.suppress(OSError):
            terminal = stack.enter_context(open("/dev/tty", encoding="utf-8"))
        sys.__stdin__ = terminal  # type: ignore[misc] # Final for type checkers
        try:
            yield
        finally:
            sys.__stdin__ = stdin  # type: ignore[misc]
