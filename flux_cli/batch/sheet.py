"""The file of a batch, JSON Lines, CSV or plain text: what each row gives, with its place for error messages.

Nothing is kept of what has been read, so that a file of any length can be gone through, and more than once.
"""

import contextlib
import csv
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flux_cli.api.request import FIELDS, parse_text, shown
from flux_cli.errors import LocalFileError, UsageError, closest

OWN_COLUMNS = ("id", "output")
"""What a row may have beside the request's fields."""
COLUMNS = (*FIELDS, *OWN_COLUMNS)

_SNIFFED_BYTES = 64 * 1024
_BLANK = re.compile(r"[ \t\r\n]*")


class BadRowError(UsageError):
    """A row cannot be used; `message` says where and why, `line` is where."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Line:
    """What the file gives for one row.

    Attributes:
        number: The line where it begins, from 1.
        values: What stands there, by column name: parsed where the name is a field's, empty cells left out.
        column_of: Returns the column where a name's value stands: of characters in JSON, of cells in CSV.
    """

    number: int
    values: Mapping[str, object]
    column_of: Callable[[str], int | None]


class Sheet:
    """The rows of a file.

    Attributes:
        name: What messages call the file.
        kind: `json`, `csv` or `text`.
    """

    def __init__(self, name: str, kind: str, file: BinaryIO) -> None:
        self.name = name
        self.kind = kind
        self._file = file

    def lines(self) -> Iterator[Line | BadRowError]:
        """Yield what each row gives, from the start of the file, or the error for one that cannot be read.

        Blank ones are left out. Where the rest cannot be made sense of, the error is the last to come.
        """
        texts = self._texts()
        if self.kind == "csv":
            yield from self._from_csv(texts)
            return
        for number, text in texts:
            if isinstance(text, BadRowError):
                yield text
            elif text.strip():
                if self.kind == "json":
                    yield self._from_json(number, text.rstrip("\r\n"))
                elif "\r" in text.rstrip():
                    yield self.error(number, "a carriage return ends no line here; use other line ends")
                else:
                    yield Line(number, {"prompt": text.strip()}, lambda _: None)

    def error(self, line: int, message: str, column: int | None = None) -> BadRowError:
        """Return the error for something at a line and, where it is known, a column."""
        return BadRowError(f"{self.name}:{line}: {'' if column is None else f'column {column}: '}{message}", line)

    def _texts(self) -> Iterator[tuple[int, str | BadRowError]]:
        self._file.seek(0)
        for number, content in enumerate(self._file, 1):
            if number == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, content.decode()
            except UnicodeDecodeError as error:
                column = len(content[: error.start].decode()) + 1
                yield number, self.error(number, "this is not UTF-8 text", column)

    def _from_json(self, number: int, text: str) -> Line | BadRowError:
        try:
            values = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            return self.error(number, f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.colno)
        except (ValueError, RecursionError) as error:
            # Python's own word on long numbers is about its settings.
            what = "a number has too many digits" if "digits" in str(error) else str(error)[:200]
            return self.error(number, what, 1)
        if not isinstance(values, dict):
            return self.error(number, 'not a JSON object such as {"prompt": "a red kite"}', 1)
        return Line(number, values, lambda name: _key_columns(text).get(name))

    def _from_csv(self, texts: Iterator[tuple[int, str | BadRowError]]) -> Iterator[Line | BadRowError]:
        undecodable: list[BadRowError] = []

        def decodable() -> Iterator[str]:
            for _, text in texts:
                if isinstance(text, BadRowError):
                    undecodable.append(text)
                    return
                yield text

        reader = csv.reader(decodable(), strict=True)
        header: list[str] = []
        began = 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    if header:
                        yield from self._from_cells(header, cells, began)
                    else:
                        header = [cell.strip() for cell in cells]
                        if errors := list(self._broken_header(header, began)):
                            yield from errors
                            return
                began = reader.line_num + 1
        except csv.Error as error:
            if not undecodable:
                yield self.error(began, f"not CSV from here on: {error}")
        yield from undecodable

    def _broken_header(self, header: Sequence[str], line: int) -> Iterator[BadRowError]:
        for column, name in enumerate(header, 1):
            if name not in COLUMNS:
                yield self.error(line, unknown_name(name), column)
            elif header.index(name) < column - 1:
                yield self.error(line, f"`{name}` is given twice", column)
        if "prompt" not in header:
            yield self.error(line, "there is no column `prompt`; the first line has to name the columns")

    def _from_cells(self, header: Sequence[str], cells: Sequence[str], line: int) -> Iterator[Line | BadRowError]:
        columns = {name: column for column, name in enumerate(header, 1)}
        if len(cells) > len(header):
            columns_there = "1 column" if len(header) == 1 else f"{len(header)} columns"
            what = f"{len(cells)} cells for {columns_there}; a text with a comma needs quotes around it"
            yield self.error(line, what, len(header) + 1)
            return
        values: dict[str, object] = {}
        bad = False
        for name, cell in zip(header, cells, strict=False):
            if not cell.strip():
                continue
            try:
                values[name] = cell if name in OWN_COLUMNS else parse_text(name, cell)
            except ValueError as error:
                yield self.error(line, f"`{name}` {error}, not `{shown(cell)}`", columns[name])
                bad = True
        if not bad:
            yield Line(line, values, columns.get)


@contextlib.contextmanager
def opened(source: str, stdin: BinaryIO) -> Iterator[Sheet]:
    """Yield the rows of a file, or for `-` of `stdin`.

    They are copied first, since what is a pipe can be read only once, and a file can grow while it is worked on.

    Raises:
        LocalFileError: The file cannot be read.
        UsageError: It is of a kind that is not taken.
    """
    with tempfile.TemporaryFile() as copy:
        try:
            if source == "-":
                shutil.copyfileobj(stdin, copy)
            else:
                with Path(source).expanduser().open("rb") as file:
                    shutil.copyfileobj(file, copy)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LocalFileError(f"cannot read {source}: {reason.lower()}") from None
        name = "stdin" if source == "-" else source
        yield Sheet(name, _kind(name, copy), copy)


def unknown_name(name: str) -> str:
    """Return the message for a column that does not exist."""
    close = closest(name, COLUMNS)
    tip = f"did you mean `{close}`?" if close else f"known: {', '.join(COLUMNS)}"
    return f"`{shown(name)}` is not known; {tip}"


def _kind(name: str, file: BinaryIO) -> str:
    """Tell the format by the file's name, else by its first line that is not blank."""
    file.seek(0)
    head = file.read(_SNIFFED_BYTES).removeprefix(b"\xef\xbb\xbf")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{name} is UTF-16", "save it as UTF-8")
    first = next((line.strip() for line in head.decode(errors="replace").splitlines() if line.strip()), "")
    suffix = Path(name).suffix.lower()
    if first.startswith("[") and suffix in (".json", ".jsonl", ".ndjson"):
        raise UsageError(f"{name} is a JSON array", f"make it an object a line: jq -c '.[]' {name}")
    if suffix in (".jsonl", ".ndjson", ".json", ".csv"):
        return "csv" if suffix == ".csv" else "json"
    with contextlib.suppress(ValueError, RecursionError):
        if first.startswith("{") and isinstance(json.loads(first), dict):
            return "json"
    cells = [cell.strip() for cell in first.split(",")]
    return "csv" if suffix != ".txt" and "prompt" in cells and set(cells) <= set(COLUMNS) else "text"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{shown(twice)}` is given twice")
    return values


def _key_columns(text: str) -> dict[str, int]:
    """Return the column, from 1, of each key of a JSON object that is known to be one."""
    decoder = json.JSONDecoder()
    columns: dict[str, int] = {}
    index = _after_blanks(text, text.index("{") + 1)
    while text[index] != "}":
        if text[index] == ",":
            index = _after_blanks(text, index + 1)
        key, end = decoder.raw_decode(text, index)
        columns[key] = index + 1
        colon = _after_blanks(text, end)
        _, end = decoder.raw_decode(text, _after_blanks(text, colon + 1))
        index = _after_blanks(text, end)
    return columns


def _after_blanks(text: str, index: int) -> int:
    match = _BLANK.match(text, index)
    return match.end() if match else index
