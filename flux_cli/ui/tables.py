"""Rows for people or for programs: a table on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

STATUS_STYLES = {"finished": "green", "failed": "red", "unknown": "red", "processing": "cyan", "unsent": "dim"}


GAP = 2
LEAST_GROWING = 12
"""The fewest columns of a terminal that are worth giving to the cells that give way."""


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], *, grow: Sequence[str] = ()) -> None:
    """Print rows: on a terminal as a table, where the columns in `grow` give way; else with tabs between.

    Where that is too wide for the terminal, growing columns are dropped, the last first; where even that does not
    help, each row becomes a few lines. A tab or line break inside a value becomes a space: a line stays a row.
    """
    cleaned = [[console.clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cleaned:
            console.out("\t".join(row))
        return
    from rich.cells import cell_len  # rich: 60 ms, only for people
    from rich.console import Console

    screen = Console(highlight=False, no_color=not console.wants_colour(sys.stdout))
    natural = [max(map(cell_len, (name, *(row[n] for row in cleaned)))) for n, name in enumerate(columns)]
    growing = [name in grow for name in columns]
    widths, shown = _widths(natural, growing, screen.width), len(columns)
    while widths is None and growing[shown - 1] and sum(growing[:shown]) > 1:
        shown -= 1
        widths = _widths(natural[:shown], growing[:shown], screen.width)
    if widths is None:
        screen.print(_stacked(columns, cleaned))
    else:
        screen.print(_table(columns[:shown], widths, [row[:shown] for row in cleaned]))


def _widths(natural: Sequence[int], growing: Sequence[bool], available: int) -> list[int] | None:
    """Share a width out: fixed columns get all they need, growing ones what is left; None if it is too little."""
    left = available - GAP * len(natural) - sum(n for n, grows in zip(natural, growing, strict=True) if not grows)
    widths, sharing = [], sum(growing)
    for wanted, grows in zip(natural, growing, strict=True):
        width = min(wanted, left // sharing) if grows else wanted
        if width < min(wanted, LEAST_GROWING):
            return None
        if grows:
            left, sharing = left - width, sharing - 1
        widths.append(width)
    return widths if left >= 0 else None


def _table(columns: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=any(columns))
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, overflow="ellipsis", no_wrap=True, width=width)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _stacked(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Group":
    from rich.console import Group
    from rich.text import Text

    lines: list[Text] = []
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            lines.append(Text.assemble((f"{name}: ", "bold"), _text(cell)))
        lines.append(Text())
    return Group(*lines[:-1])


def _text(cell: str) -> "Text":
    from rich.text import Text

    return Text(cell, style=STATUS_STYLES.get(cell, ""))
