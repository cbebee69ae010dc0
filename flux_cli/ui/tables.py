"""Rows for people or for programs: a table on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STATUS_STYLES = {"finished": "green", "failed": "red", "unknown": "red", "processing": "cyan", "unsent": "dim"}

GAP, INDENT = 2, 2
LEAST_CUT, LEAST_FOLDED = 36, 80
"""The least that is worth giving to a cell that ends in an ellipsis, and to one that goes on below."""


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    grow: Collection[str] = (),
    cut: Collection[str] = (),
    header: bool = True,
) -> None:
    """Print rows: on a terminal as a table, else with tabs between.

    The columns in `grow` give way to the others; those in `cut` end in an ellipsis then, the rest go on below.
    Where that leaves them too little they have a line of their own, and where even the others are too wide, each
    cell has. A tab or line break inside a value becomes a space: a line stays a row.
    """
    cleaned = [[console.clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cleaned:
            console.out("\t".join(row))
        return
    from rich.cells import cell_len  # rich: 60 ms, only for people
    from rich.console import Console

    screen = Console(highlight=False, no_color=not console.wants_colour(sys.stdout))
    named = [[*columns], *cleaned]
    shapes = [
        _Column(number, max(cell_len(row[number]) for row in named), name in grow, name in cut)
        for number, name in enumerate(columns)
    ]
    lines = _lines(shapes, screen.width)
    if lines is None:
        for number, row in enumerate(cleaned):
            screen.print(*[""] * bool(number), _record(columns, row), sep="\n")
        return
    for number, row in enumerate(named):
        if number or header:
            for indent, widths in zip((0, INDENT, INDENT), lines, strict=False):
                screen.print(_line(row, widths, indent, "" if number else "bold"))


@dataclass(frozen=True)
class _Column:
    """A column: which, how wide its widest cell is, and what becomes of it where that is too much."""

    number: int
    wanted: int
    grows: bool
    cut: bool

    @property
    def least(self) -> int:
        """The least width that it is worth showing in."""
        return min(self.wanted, LEAST_CUT if self.cut else LEAST_FOLDED) if self.grows else self.wanted


Widths = dict[_Column, int]
"""The columns of a line, from left to right."""


def _lines(columns: Sequence[_Column], available: int) -> list[Widths] | None:
    """Return the lines that a row takes: one, two, or one for each growing column; None if that is too wide."""
    fixed = [column for column in columns if not column.grows]
    growing = [column for column in columns if column.grows]
    for split in [columns], [fixed, growing], [fixed, *([column] for column in growing)]:
        lines = [_shared(line, available - INDENT * bool(number)) for number, line in enumerate(split)]
        found = [line for line in lines if line is not None]
        if len(found) == len(lines):
            return found
    return None


def _shared(columns: Sequence[_Column], available: int) -> Widths | None:
    """Share a line out: to each column its least, what is left first to those that are not cut."""
    widths = {column: column.least for column in columns}
    left = available - GAP * (len(columns) - 1) - sum(widths.values())
    if left < 0 and not (len(columns) == 1 and columns[0].grows):
        return None
    for column in sorted(columns, key=lambda column: column.cut):
        more = min(left, column.wanted - widths[column])
        widths[column], left = widths[column] + more, left - more
    return widths


def _line(row: Sequence[str], widths: Widths, indent: int, style: str) -> "RenderableType":
    from rich.padding import Padding
    from rich.table import Table

    table = Table.grid(padding=(0, GAP, 0, 0))
    for column, width in widths.items():
        table.add_column(width=width, no_wrap=column.cut, overflow="ellipsis" if column.cut else "fold")
    table.add_row(*(_text(row[column.number]) for column in widths), style=style)
    return Padding(table, (0, 0, 0, indent), expand=False)


def _record(columns: Sequence[str], row: Sequence[str]) -> "Text":
    from rich.text import Text

    lines = [Text.assemble((f"{name}: ", "bold"), _text(cell)) for name, cell in zip(columns, row, strict=True)]
    return Text("\n").join(lines)


def _text(cell: str) -> "Text":
    from rich.text import Text

    return Text(cell, style=STATUS_STYLES.get(cell, ""))
