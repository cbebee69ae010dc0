"""Tables: aligned columns on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STATUS_STYLES = {"finished": "green", "failed": "red", "unknown": "red", "processing": "cyan"}

GAP, INDENT = 2, 2
MIN_CUT, MIN_FOLDED = 36, 80
"""The minimum widths of a cell that is cut with an ellipsis, and of one that continues on the next line."""


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    grow: Collection[str] = (),
    cut: Collection[str] = (),
    header: bool = True,
) -> None:
    """Print rows: as a table on a terminal, otherwise with tabs between the cells.

    If the terminal is too narrow, the columns in `grow` become narrower. A cell that does not fit is cut with an
    ellipsis if its column is in `cut`, and otherwise continues on the next line. If that leaves too little room,
    growing columns get lines of their own; as a last resort every cell gets one. A tab or line break inside a
    value becomes a space.
    """
    cleaned = [[console.clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cleaned:
            console.out("\t".join(row))
        return
    from rich.cells import cell_len  # rich: 60 ms, needed only on a terminal
    from rich.console import Console

    # Explicit, because rich would otherwise read its own environment variables (TTY_COMPATIBLE etc.).
    screen = Console(force_terminal=True, highlight=False, no_color=not console.wants_colour(sys.stdout))
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
    """The layout of a column; `width` is that of its widest cell."""

    number: int
    width: int
    grows: bool
    cut: bool

    @property
    def min_width(self) -> int:
        """The smallest useful width."""
        return min(self.width, MIN_CUT if self.cut else MIN_FOLDED) if self.grows else self.width


Widths = dict[_Column, int]
"""The columns of a line, from left to right."""


def _lines(columns: Sequence[_Column], available: int) -> list[Widths] | None:
    """Return the lines of a row: one, two, or one more per growing column; None if all of these are too wide."""
    fixed = [column for column in columns if not column.grows]
    growing = [column for column in columns if column.grows]
    for split in [columns], [fixed, growing], [fixed, *([column] for column in growing)]:
        lines = [_distribute(line, available - INDENT * bool(number)) for number, line in enumerate(split)]
        found = [line for line in lines if line is not None]
        if len(found) == len(lines):
            return found
    return None


def _distribute(columns: Sequence[_Column], available: int) -> Widths | None:
    """Return the widths of columns: each gets its minimum, the rest goes first to those that are not cut."""
    widths = {column: column.min_width for column in columns}
    left = available - GAP * (len(columns) - 1) - sum(widths.values())
    if left < 0 and not (len(columns) == 1 and columns[0].grows):
        return None
    for column in sorted(columns, key=lambda column: column.cut):
        more = min(left, column.width - widths[column])
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
