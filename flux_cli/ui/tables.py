"""Tables: aligned columns on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.text import Text

STATUS_STYLES = {"finished": "green", "failed": "red", "unknown": "red", "processing": "cyan"}

GAP, INDENT = 2, 2
MIN_LAST = 80
"""The last column is beside the others if they leave it this many cells, or all that it needs."""


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], *, header: bool = True) -> None:
    """Print rows: as a table on a terminal, otherwise with tabs between the cells.

    If the terminal is too narrow, a cell of the last column continues on the next line. If that leaves too little
    room for it, it gets lines of its own; as a last resort every cell gets one. A tab or line break inside a value
    becomes a space.
    """
    cleaned = [[console.clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cleaned:
            console.out("\t".join(row))
        return
    from rich.cells import cell_len  # rich: 60 ms, needed only on a terminal
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    # Explicit, because rich would otherwise read its own environment variables (TTY_COMPATIBLE etc.).
    screen = Console(force_terminal=True, highlight=False, no_color=not console.wants_colour(sys.stdout))
    named = [[*columns], *cleaned]
    *widths, last = (max(map(cell_len, cells)) for cells in zip(*named, strict=True))
    left = screen.width - sum(width + GAP for width in widths)
    beside = min(last, MIN_LAST) <= left
    if not beside and left + GAP < 0:
        for number, row in enumerate(cleaned):
            screen.print(*[""] * bool(number), _record(columns, row), sep="\n")
        return
    if beside:
        widths.append(min(last, left))
    for number, row in enumerate(named):
        if number or header:
            style = "" if number else "bold"
            line = Table.grid(padding=(0, GAP, 0, 0))
            for width in widths:
                line.add_column(width=width, overflow="fold")
            line.add_row(*map(_text, row[: len(widths)]), style=style)
            screen.print(line)
            if not beside:
                screen.print(Padding(_text(row[-1]), (0, 0, 0, INDENT), style=style, expand=False))


def _record(columns: Sequence[str], row: Sequence[str]) -> "Text":
    from rich.text import Text

    lines = [Text.assemble((f"{name}: ", "bold"), _text(cell)) for name, cell in zip(columns, row, strict=True)]
    return Text("\n").join(lines)


def _text(cell: str) -> "Text":
    from rich.text import Text

    return Text(cell, style=STATUS_STYLES.get(cell, ""))
