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
from typing import NamedTuple

from flux_cli.api.request import JsonValue, flag, parse_text, shown, violations
from flux_cli.batch.reader import COLUMNS, OWN_COLUMNS, BadRowError, Line, RowFile
from flux_cli.batch.shards import Shard
from flux_cli.errors import UsageError, closest
from flux_cli.pictures import image_prompt, naming
from flux_cli.storage.paths import RESULTS_NAME, STATE_NAME

MAX_NAME_BYTES = 255
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        position: Its number among the rows, from 1; blank lines do not count.
        line: The line of the file where it starts, from 1.
        key: How later runs recognise it: its `id`, or `#`, a hash of its content and its number among the rows
            with this content. So rows can be added and moved without becoming new ones.
        fields: The request fields that it sets.
        output: The name that it sets for its picture, or None.
        has_id: Whether it has an `id`.
        column_of: Returns the column of a name, or None.
    """

    position: int
    line: int
    key: str
    fields: Mapping[str, JsonValue]
    output: str | None
    has_id: bool
    column_of: Callable[[str], int | None] = field(repr=False)

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

    Args:
        file: The file.
        shard: The rows to return.
        directory: The batch directory.
        ignore_unknown: Ignore columns that do not exist instead of reporting them.
    """
    parser = _Parser(file, ignore_unknown=ignore_unknown)
    errors = [*file.errors, *parser.header_errors()]
    if errors:
        return [], errors
    parsed = {}
    for position, line in enumerate(file.lines, 1):
        if shard.has(position):
            parsed[position] = values = parser.values(line)
            if not isinstance(values, _Values):
                errors += values
    summaries = [parser.summary(line) for line in file.lines]
    errors += _conflicts(file, parser, summaries, directory)
    return _with_keys(file, parser, summaries, parsed), sorted(errors, key=lambda error: error.line)


class _Summary(NamedTuple):
    """The values of a row that can conflict with other rows, unchecked; empty for a row that cannot be read."""

    id: str = ""
    output: str = ""
    prompt: object = None


@dataclass(frozen=True)
class _Values:
    """The values of a row by column name, without empty ones."""

    given: Mapping[str, JsonValue]
    column_of: Callable[[str], int | None]

    def own(self, name: str) -> str:
        return str(self.given.get(name, "")).strip()

    def fields(self) -> dict[str, JsonValue]:
        return {name: value for name, value in self.given.items() if name not in OWN_COLUMNS}


def _with_keys(
    file: RowFile,
    parser: "_Parser",
    summaries: Sequence[_Summary],
    parsed: Mapping[int, _Values | list[BadRowError]],
) -> list[Row]:
    """Return the parsed rows with their keys, which count the rows of all shards with equal content."""
    prompts = {summaries[position - 1].prompt for position in parsed if not summaries[position - 1].id}
    occurrences: dict[bytes, int] = {}
    rows = []
    for position, (line, summary) in enumerate(zip(file.lines, summaries, strict=True), 1):
        values = parsed.get(position)
        if values is None and not summary.id and summary.prompt in prompts:
            values = parser.values(line)
        if isinstance(values, _Values):
            fields = values.fields()
            key = values.own("id") or _content_key(fields, occurrences)
            if position in parsed:
                output, has_id = values.own("output") or None, bool(values.own("id"))
                rows.append(Row(position, line.number, key, fields, output, has_id, values.column_of))
    return rows


def _content_key(fields: Mapping[str, JsonValue], occurrences: dict[bytes, int]) -> str:
    content = {name: value for name, value in fields.items() if name != "webhook_secret"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()[:8]
    occurrences[digest] = occurrences.get(digest, 0) + 1
    return f"#{digest.hex()}-{occurrences[digest]}"


class _Parser:
    """Turns the lines of one file into values."""

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

    def values(self, line: Line) -> _Values | list[BadRowError]:
        """Return the values of a row, or its errors."""
        if isinstance(line.content, BadRowError):
            return [line.content]
        if not isinstance(line.content, str):
            return self._from_cells(line.number, line.content)
        if self._file.format == "jsonl":
            return self._from_json(line.number, line.content.rstrip("\r"))
        text = line.content.strip()
        if "\r" in text:
            return [self._file.error(line.number, "a carriage return does not end a line; use LF or CRLF")]
        return _Values({"prompt": text}, lambda _: None)

    def summary(self, line: Line) -> _Summary:
        """Return the values of a row that can conflict with other rows."""
        content = line.content
        if isinstance(content, BadRowError):
            return _Summary()
        if not isinstance(content, str):
            cells = [self._cell(content, name) for name in ("id", "output", "prompt")]
            return _Summary(cells[0].strip(), cells[1].strip(), cells[2])
        if self._file.format == "text":
            return _Summary(prompt=content.strip())
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            return _Summary()
        if not isinstance(values, dict):
            return _Summary()
        own_id, output = (
            "" if (value := values.get(name)) is None else str(value).strip() for name in OWN_COLUMNS
        )
        prompt = values.get("prompt")
        return _Summary(own_id, output, prompt if isinstance(prompt, str | int | float) else None)

    def _cell(self, cells: Sequence[str], name: str) -> str:
        column = self._columns.get(name, 0)
        return cells[column - 1] if 0 < column <= len(cells) else ""

    def _from_json(self, number: int, text: str) -> _Values | list[BadRowError]:
        try:
            values = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
            return [self._file.error(number, what, error.colno)]
        except (ValueError, RecursionError) as error:
            # Python's message about long numbers names a setting of Python.
            what = "a number has too many digits" if "digits" in str(error) else str(error)[:200]
            return [self._file.error(number, what, 1)]
        if not isinstance(values, dict):
            return [self._file.error(number, 'not a JSON object such as {"prompt": "a red kite"}', 1)]
        given = {name: value for name, value in values.items() if value is not None}
        return self._checked(number, given, lambda name: _key_columns(text).get(name))

    def _from_cells(self, number: int, cells: Sequence[str]) -> _Values | list[BadRowError]:
        header = self._file.header
        if len(cells) > len(header):
            columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
            what = f"{len(cells)} cells for {columns}; text that contains the delimiter needs quotes"
            return [self._file.error(number, what, len(header) + 1)]
        given: dict[str, object] = {}
        errors = []
        for name, cell in zip(header, cells, strict=False):
            if not cell.strip() or name not in COLUMNS:
                continue
            try:
                given[name] = cell if name in OWN_COLUMNS else parse_text(name, cell)
            except ValueError as error:
                what = f"`{name}` {error}, not `{shown(cell)}`"
                errors.append(self._file.error(number, what, self._columns[name]))
        return errors or self._checked(number, given, self._columns.get)

    def _checked(
        self, number: int, given: Mapping[str, object], column_of: Callable[[str], int | None]
    ) -> _Values | list[BadRowError]:
        """Check the types of the values, which the rules of the request assume to be correct."""
        values: dict[str, JsonValue] = {}
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
            elif name in OWN_COLUMNS and (isinstance(value, bool | float) or "\0" in str(value)):
                what = f"`{name}` takes text"
            else:
                values[name] = value
                continue
            errors.append(self._file.error(number, what, column_of(name)))
        return errors or _Values(values, column_of)


def _conflicts(
    file: RowFile, parser: _Parser, summaries: Sequence[_Summary], directory: Path
) -> Iterator[BadRowError]:
    """Yield an error for each row of the whole file with the same `id` or `output` as an earlier row."""
    ids: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for line, summary in zip(file.lines, summaries, strict=True):
        if summary.id and (first := ids.setdefault(summary.id, line.number)) != line.number:
            yield _conflict(file, parser, line, "id", f"{first}: {shown(summary.id)}")
        if summary.output and not summary.output.endswith(("/", os.sep)) and "{" not in summary.output:
            path = os.path.normpath(directory / summary.output)
            if (first := outputs.setdefault(path, line.number)) != line.number and not os.path.isdir(path):
                yield _conflict(file, parser, line, "output", f"{first}: {path}")


def _conflict(file: RowFile, parser: _Parser, line: Line, name: str, what: str) -> BadRowError:
    values = parser.values(line)
    column = values.column_of(name) if isinstance(values, _Values) else None
    where = f"`{name}`" if column is None else f"column {column} (`{name}`)"
    return file.error(line.number, f"{where} is the same as in line {what}")


class Checks:
    """Checks single rows against all rules.

    Args:
        file: The file.
        directory: The batch directory.
        defaults: The fields of rows that do not set them.
        validate: Whether the rules of the service are checked; local ones always are.
    """

    def __init__(
        self, file: RowFile, directory: Path, defaults: Mapping[str, JsonValue], *, validate: bool
    ) -> None:
        self._file = file
        self._directory = directory
        self._root = Path(os.path.normpath(directory))
        self._defaults = defaults
        self._validate = validate

    def errors(self, row: Row) -> Iterator[BadRowError]:
        """Yield the errors of a row."""
        for message in (*self._broken_id(row), *self._broken_fields(row), *self._broken_output(row)):
            yield self._file.error(row.line, message)

    def _broken_id(self, row: Row) -> Iterator[str]:
        if row.has_id and row.key.startswith("#"):
            yield f"{row.name_of('id')} must not begin with #"

    def _broken_fields(self, row: Row) -> Iterator[str]:
        if self._validate:
            yield from violations({**self._defaults, **row.fields}, row.name_of)
        source = row.fields.get("image_prompt")
        if isinstance(source, str) and (problem := image_prompt.problem(source)):
            yield f"{row.name_of('image_prompt')} {problem}"

    def _broken_output(self, row: Row) -> Iterator[str]:
        if row.output is None:
            return
        try:
            target = target_for(row, self._directory, force=False)
        except UsageError as error:
            yield f"{row.name_of('output')} {error.message.removeprefix('`-o` ')}"
            return
        path = Path(os.path.normpath(target.directory / target.template))
        inside = path.relative_to(self._root).parts if path.is_relative_to(self._root) else ()
        if row.output.startswith("~") or not path.is_relative_to(self._root):
            yield f"{row.name_of('output')} is outside the batch directory: {shown(row.output)}"
        elif any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
            yield f"{row.name_of('output')} is too long for a file name: {shown(row.output)}"
        elif [part.casefold() for part in inside] == [RESULTS_NAME] or (
            inside and inside[0].casefold() == STATE_NAME
        ):
            yield f"{row.name_of('output')} is a name that the batch uses itself: {shown(row.output)}"


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
