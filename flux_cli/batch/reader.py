"""Reading a batch file: its format, and its rows as text or cells.

The file is read once. `rows` interprets its rows, so that a shard parses only those it needs.
"""

import contextlib
import csv
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from flux_cli.api.request import FIELDS
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.storage.paths import expanded

FORMATS = ("jsonl", "csv", "tsv", "text")
OWN_COLUMNS = ("id", "output")
"""The columns of a row that are not fields of the request."""
COLUMNS = (*FIELDS, *OWN_COLUMNS)

MAX_BYTES = 1 << 30
"""A larger file is not read: it would not fit into memory."""
_EXTENSIONS = {"jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "csv": "csv", "tsv": "tsv", "txt": "text"}
_DELIMITERS = (",", ";", "\t")
_BOM = b"\xef\xbb\xbf"
_SEPARATOR_LINE = re.compile(r"sep=([^\r\n])")
"""What Excel writes before the header to name the delimiter."""
_COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class BadRowError(UsageError):
    """A row that starts in a line of the file cannot be used."""

    def __init__(self, file_name: str, line: int, message: str, column: int | None = None) -> None:
        super().__init__(f"{file_name}:{line}: {'' if column is None else f'column {column}: '}{message}")
        self.line = line


class RawRow(NamedTuple):
    """A row as it was read: the line where it starts, and its text, its CSV cells, or why it cannot be read."""

    line: int
    content: str | Sequence[str] | BadRowError


@dataclass(frozen=True)
class RowFile:
    """A batch file that has been read."""

    name: str
    """What messages call it."""
    format: str
    rows: Sequence[RawRow]
    """Its rows in order, without blank ones and without a CSV header."""
    header: Sequence[str] = ()
    """The column names of a CSV or TSV file, from the line `header_line`."""
    header_line: int = 1
    errors: Sequence[BadRowError] = ()
    """What makes the file as a whole unusable."""

    def error(self, line: int, message: str, column: int | None = None) -> BadRowError:
        """Return an error about a line and, if it is known, a column."""
        return BadRowError(self.name, line, message, column)


def read(source: str, stdin: BinaryIO, format_name: str | None = None) -> RowFile:
    """Read a batch file, or `stdin` for `-`.

    `format_name` is one of `FORMATS`, or None to use the extension, or for a pipe the first line.

    Raises:
        LocalFileError: The file cannot be read.
        UsageError: The format is unknown, or the content does not have this format.
    """
    if format_name is not None and format_name not in FORMATS:
        raise UsageError(f"`--format` takes {', '.join(FORMATS)}, not `{format_name[:60]}`")
    name = "stdin" if source == "-" else source
    content, is_pipe = _content(source, stdin)
    if len(content) > MAX_BYTES:
        raise LocalFileError(f"{name} is larger than {MAX_BYTES >> 30} GiB", "split it into several files")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{name} is UTF-16", "save it as UTF-8")
    lines = _decoded(name, content.removeprefix(_BOM))
    first = _first_text(lines).strip()
    detected = _detected_format(first)
    by_extension = _EXTENSIONS.get(Path(source).suffix.lower().removeprefix("."))
    chosen = format_name or by_extension or (detected if is_pipe else None)
    if chosen is None:
        raise UsageError(f"cannot tell the format of {name} from its extension", f"--format {'|'.join(FORMATS)}")
    if chosen == "jsonl" and first.startswith("["):
        raise UsageError(f"{name} is a JSON array", f"write one object per line: jq -c '.[]' {name}")
    if chosen == "text" and detected == "csv":
        raise UsageError(
            f"the first line of {name} is a header of columns, not a prompt: {first[:60]}",
            "if it is a table, use --format csv; otherwise remove the line",
        )
    if chosen == "text" and detected == "jsonl" and format_name is None:
        chosen = "jsonl"
    if chosen in ("csv", "tsv"):
        return _read_table(name, chosen, lines)
    rows = [line for line in lines if not isinstance(line.content, str) or line.content.strip()]
    return RowFile(name, chosen, rows)


def _content(source: str, stdin: BinaryIO) -> tuple[bytes, bool]:
    """Return the bytes of a file, and whether it is a pipe, whose name has no useful extension."""
    try:
        if source == "-":
            content, is_pipe = stdin.read(MAX_BYTES + 1), True
        else:
            with expanded(source).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
                is_pipe = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LocalFileError(f"cannot read {source}: {reason.lower()}") from None
    return content, is_pipe


def _decoded(name: str, content: bytes) -> list[RawRow]:
    """Return all lines of a file, which are the rows unless it is a table."""
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(RawRow(number, line.decode()))
        except UnicodeDecodeError as error:
            column = len(line[: error.start].decode()) + 1
            lines.append(RawRow(number, BadRowError(name, number, "this is not UTF-8 text", column)))
    return lines


def _first_text(lines: Sequence[RawRow]) -> str:
    """Return the first line that is not blank."""
    return next((line.content for line in lines if isinstance(line.content, str) and line.content.strip()), "")


def _detected_format(first: str) -> str:
    """Return the format that the first line suggests: `jsonl`, `csv` (with any delimiter) or `text`."""
    with contextlib.suppress(ValueError, RecursionError):
        if first.startswith("{") and isinstance(json.loads(first), dict):
            return "jsonl"
    if _SEPARATOR_LINE.fullmatch(first):
        return "csv"
    cells = [cell.lower() for cell in _cells(first, _delimiter(first))]
    is_header = "prompt" in cells and all(_COLUMN_NAME.fullmatch(cell) for cell in cells)
    return "csv" if is_header else "text"


def _delimiter(header: str) -> str:
    """Return the delimiter with which a header has the most known columns; a comma if there are none."""

    def known(delimiter: str) -> int:
        return sum(cell.lower() in COLUMNS for cell in _cells(header, delimiter))

    return max(_DELIMITERS, key=known)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _read_table(name: str, format_name: str, lines: Sequence[RawRow]) -> RowFile:
    """Read CSV or TSV: the first line that is not blank names the columns."""
    skipped = 0
    delimiter = "\t" if format_name == "tsv" else _delimiter(_first_text(lines))
    if match := _SEPARATOR_LINE.fullmatch(_first_text(lines[:1]).rstrip("\r")):
        delimiter, skipped = match[1], 1

    def texts() -> Iterator[str]:
        for line in lines[skipped:]:
            if isinstance(line.content, BadRowError):
                raise line.content
            yield f"{line.content}\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    table: list[tuple[int, list[str]]] = []
    errors = []
    start = 1 + skipped
    try:
        for cells in reader:
            if "".join(cells).strip():
                table.append((start, cells))
            start = reader.line_num + 1 + skipped
    except BadRowError as error:
        errors = [error]
    except csv.Error as error:
        errors = [BadRowError(name, start, f"invalid CSV: {error}")]
    if not table:
        return RowFile(name, format_name, [], errors=errors)
    header_line, header = table[0]
    rows = [RawRow(line, cells) for line, cells in table[1:]]
    return RowFile(name, format_name, rows, [cell.strip() for cell in header], header_line, errors)
