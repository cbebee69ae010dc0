"""The rows of a batch: what each contains, the key by which later runs recognise it, and the checks of one row.

A shard parses and checks only its own rows. Of the others it reads only what can conflict with them: IDs, output
names and equal content.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flux_cli.api.request import JsonValue, flag, parse_text, shown, violations
from flux_cli.batch.reader import COLUMNS, OWN_COLUMNS, BadRowError, RawRow, RowFile
from flux_cli.batch.shards import Shard
from flux_cli.errors import UsageError, closest
from flux_cli.pictures import image_prompt, naming
from flux_cli.storage.paths import RESULTS_NAME, STATE_NAME

MAX_NAME_BYTES = 255
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile(r"[ \t\r\n]*")

ColumnOf = Callable[[str], int | None]


@dataclass(frozen=True)
class Row:
    """One row."""

    position: int
    """Its number among the rows, from 1; blank lines do not count."""
    line: int
    """The line of the file where it starts, from 1."""
    key: str
    """How later runs recognise it: its `id`, or `#`, a hash of its content and its number among the rows with this
    content. So rows can be added and moved without becoming new ones."""
    fields: Mapping[str, JsonValue]
    """The request fields that it sets."""
    output: str | None
    """The name that it sets for its picture, or None."""
    has_id: bool
    column_of: ColumnOf = field(repr=False)
    """Returns the column of a name, or None."""

    def name_of(self, name: str) -> str:
        """Return how a message names a field: by its column or, if the row does not set it, by its flag."""
        column = self.column_of(name)
        if column is not None:
            return f"column {column} (`{name}`)"
        return f"`{name}`" if name in self.fields or name == "prompt" else flag(name)


def parse(
    file: RowFile, shard: Shard, directory: Path, *, ignore_unknown: bool = False
) -> tuple[list[Row], list[BadRowError]]:
    """Return the rows of a shard, in order, and their errors, before the rules of the request are checked.

    Unknown columns are errors unless they are ignored.
    """
    parser = _Parser(file, ignore_unknown=ignore_unknown)
    errors = [*file.errors, *parser.header_errors()]
    if errors:
        return [], errors
    own = {position: parser.row(position, raw) for position, raw in enumerate(file.rows, 1) if shard.has(position)}
    prompts = {str(row.fields.get("prompt")) for row in own.values() if isinstance(row, Row) and not row.has_id}
    rows = []
    occurrences: dict[bytes, int] = {}
    lines: dict[tuple[str, str], int] = {}
    for position, raw in enumerate(file.rows, 1):
        unchecked = parser.unchecked(raw)
        row = own.get(position)
        if row is None and str(unchecked.get("prompt")) in prompts:  # it may have the same content
            row = parser.row(position, raw)
        if isinstance(row, Row):
            if not row.has_id:
                row = replace(row, key=_content_key(row.fields, occurrences))
            if position in own:
                rows.append(row)
        elif row and position in own:
            errors += row
        for name, value in _unique_values(unchecked, directory):
            first = lines.setdefault((name, value), raw.line)
            if first != raw.line and not (name == "output" and os.path.isdir(value)):
                errors.append(parser.conflict(position, raw, name, f"{first}: {shown(value)}"))
    return rows, sorted(errors, key=lambda error: error.line)


def _unique_values(values: Mapping[str, object], directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the values of a row that no other row may have: its ID and, unless it is a directory, its output."""
    if own_id := _text(values, "id"):
        yield "id", own_id
    output = _text(values, "output")
    if output and not output.endswith(("/", os.sep)) and "{" not in output:
        yield "output", os.path.normpath(directory / output)


def _text(values: Mapping[str, object], name: str) -> str:
    value = values.get(name)
    return "" if value is None else str(value).strip()


def _content_key(fields: Mapping[str, JsonValue], occurrences: dict[bytes, int]) -> str:
    content = {name: value for name, value in fields.items() if name != "webhook_secret"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()[:8]
    occurrences[digest] = occurrences.get(digest, 0) + 1
    return f"#{digest.hex()}-{occurrences[digest]}"


class _Parser:
    """Parses the rows of one file."""

    def __init__(self, file: RowFile, *, ignore_unknown: bool) -> None:
        self._file = file
        self._ignore_unknown = ignore_unknown
        self._columns = {name: column for column, name in enumerate(file.header, 1)}

    def header_errors(self) -> Iterator[BadRowError]:
        """Yield the errors in the header of a table."""
        header = self._file.header
        if not header:
            return
        line = self._file.header_line
        for column, name in enumerate(header, 1):
            if name not in COLUMNS:
                if not self._ignore_unknown:
                    yield self._file.error(line, _unknown_column(name), column)
            elif header.index(name) < column - 1:
                yield self._file.error(line, f"`{name}` appears twice", column)
        if "prompt" not in header:
            yield self._file.error(line, "there is no column `prompt`; the first line has to name the columns")

    def row(self, position: int, raw: RawRow) -> Row | list[BadRowError]:
        """Return a row, or its errors; the key is empty if it has no `id`."""
        if isinstance(raw.content, BadRowError):
            return [raw.content]
        if not isinstance(raw.content, str):
            return self._from_cells(position, raw.line, raw.content)
        if self._file.format == "jsonl":
            return self._from_json(position, raw.line, raw.content.rstrip("\r"))
        text = raw.content.strip()
        if "\r" in text:
            return [self._file.error(raw.line, "a carriage return does not end a line; use LF or CRLF")]
        return self._checked(position, raw.line, {"prompt": text}, lambda _: None)

    def unchecked(self, raw: RawRow) -> Mapping[str, object]:
        """Return the values of a row, without blank cells, valid or not; none if it cannot be read."""
        if isinstance(raw.content, BadRowError):
            return {}
        if not isinstance(raw.content, str):
            cells = zip(self._file.header, raw.content, strict=False)
            return {name: cell for name, cell in cells if cell.strip()}
        if self._file.format == "text":
            return {"prompt": raw.content.strip()}
        try:
            values = json.loads(raw.content)
        except (ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}

    def conflict(self, position: int, raw: RawRow, name: str, other: str) -> BadRowError:
        """Return the error of a row with the same value as an earlier one."""
        row = self.row(position, raw)
        column = row.column_of(name) if isinstance(row, Row) else None
        where = f"`{name}`" if column is None else f"column {column} (`{name}`)"
        return self._file.error(raw.line, f"{where} is the same as in line {other}")

    def _from_json(self, position: int, line: int, text: str) -> Row | list[BadRowError]:
        try:
            values = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
            return [self._file.error(line, what, error.colno)]
        except (ValueError, RecursionError) as error:
            # Python's message about long numbers names a setting of Python.
            what = "a number has too many digits" if "digits" in str(error) else str(error)[:200]
            return [self._file.error(line, what, 1)]
        if not isinstance(values, dict):
            return [self._file.error(line, 'not a JSON object such as {"prompt": "a red kite"}', 1)]
        given = {name: value for name, value in values.items() if value is not None}
        return self._checked(position, line, given, lambda name: _key_columns(text).get(name))

    def _from_cells(self, position: int, line: int, cells: Sequence[str]) -> Row | list[BadRowError]:
        header = self._file.header
        if len(cells) > len(header):
            columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
            what = f"{len(cells)} cells for {columns}; text that contains the delimiter needs quotes"
            return [self._file.error(line, what, len(header) + 1)]
        given: dict[str, object] = {}
        errors = []
        for name, cell in zip(header, cells, strict=False):
            if not cell.strip() or name not in COLUMNS:
                continue
            try:
                given[name] = cell if name in OWN_COLUMNS else parse_text(name, cell)
            except ValueError as error:
                what = f"`{name}` {error}, not `{shown(cell)}`"
                errors.append(self._file.error(line, what, self._columns[name]))
        return errors or self._checked(position, line, given, self._columns.get)

    def _checked(
        self, position: int, line: int, given: Mapping[str, object], column_of: ColumnOf
    ) -> Row | list[BadRowError]:
        """Check the types of the values, which the rules of the request assume to be correct."""
        fields: dict[str, JsonValue] = {}
        errors = []
        for name, value in given.items():
            if name not in COLUMNS:
                if self._ignore_unknown:
                    continue
                what = _unknown_column(name)
            elif not isinstance(value, str | int | float):
                what = f"`{name}` takes no {'list' if isinstance(value, list) else 'object'}"
            elif isinstance(value, str) and _SURROGATE.search(value):
                what = f"`{name}` contains half a surrogate pair, which cannot be sent"
            elif name not in OWN_COLUMNS:
                fields[name] = value
                continue
            elif isinstance(value, bool | float) or "\0" in str(value):
                what = f"`{name}` takes text"
            else:
                continue
            errors.append(self._file.error(line, what, column_of(name)))
        own_id, output = _text(given, "id"), _text(given, "output")
        return errors or Row(position, line, own_id, fields, output or None, bool(own_id), column_of)


def check(row: Row, directory: Path, defaults: Mapping[str, JsonValue], *, validate: bool) -> Iterator[str]:
    """Yield what is wrong with a row in this batch directory.

    `defaults` are the fields of rows that do not set them. `validate` adds the rules of the service to local ones.
    """
    if row.has_id and row.key.startswith("#"):
        yield f"{row.name_of('id')} must not begin with #"
    if validate:
        yield from violations({**defaults, **row.fields}, row.name_of)
    source = row.fields.get("image_prompt")
    if isinstance(source, str) and (problem := image_prompt.problem(source)):
        yield f"{row.name_of('image_prompt')} {problem}"
    if row.output is not None and (problem := _output_problem(row, row.output, directory)):
        yield f"{row.name_of('output')} {problem}"


def _output_problem(row: Row, output: str, directory: Path) -> str | None:
    try:
        target = target_for(row, directory, force=False)
    except UsageError as error:
        return error.message.removeprefix("`-o` ")
    path, root = (Path(os.path.normpath(each)) for each in (target.directory / target.template, directory))
    if output.startswith("~") or not path.is_relative_to(root):
        return f"is outside the batch directory: {shown(output)}"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        return f"is too long for a file name: {shown(output)}"
    inside = [part.casefold() for part in path.relative_to(root).parts]
    if inside == [RESULTS_NAME] or inside[:1] == [STATE_NAME]:
        return f"is a name that the batch uses itself: {shown(output)}"
    return None


def target_for(row: Row, directory: Path, *, force: bool) -> naming.Target:
    """Return where the picture of a row goes: its `output` below the batch directory, or a generated name.

    Raises:
        UsageError: The `output` is invalid.
    """
    if row.output is None:
        return naming.Target(directory, force=force)
    if row.output == "-":
        raise UsageError("takes the name of a file")
    path = directory / row.output
    if "{" in row.output or "}" in row.output:
        return replace(naming.parse_output(row.output, None, 1, force), directory=directory)
    if row.output.endswith(("/", os.sep)) or path.is_dir():
        return naming.Target(path, force=force)
    return naming.Target(path.parent, path.name, explicit=True, force=force)


def _unknown_column(name: str) -> str:
    close = closest(name, COLUMNS)
    suggestion = f"did you mean `{close}`?" if close else "--ignore-unknown-columns skips it"
    return f"unknown column `{shown(name)}`; {suggestion}"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{shown(twice)}` appears twice")
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
