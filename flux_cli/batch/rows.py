"""The rows of a batch: what is recognised in later runs, and what has to be right before any of them is sent."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flux_cli.api.request import JsonValue, flag, shown, violations
from flux_cli.batch.results_file import NAME
from flux_cli.batch.sheet import COLUMNS, OWN_COLUMNS, BadRowError, Line, Sheet, unknown_name
from flux_cli.errors import UsageError
from flux_cli.pictures import image_prompt, naming

MAX_NAME_BYTES = 255
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        position: Its number among the rows, from 1; blank lines do not count.
        line: The line of the file where it begins, from 1.
        key: What it is recognised by in later runs: its `id`; else `#`, a hash of its content, and which of the
            rows with this content it is. So rows can be added and moved without any of them counting as new.
        fields: The request's fields that it gives.
        output: The name that it gives to its picture, if any.
        identified: Whether it has an `id`.
        column_of: Returns the column where a field stands, if it does.
    """

    position: int
    line: int
    key: str
    fields: Mapping[str, JsonValue]
    output: str | None
    identified: bool
    column_of: Callable[[str], int | None] = field(repr=False)

    def name_of(self, name: str) -> str:
        """Return how a message names a field: one that does not come from the row comes from a flag."""
        column = self.column_of(name)
        if column is not None:
            return f"column {column} (`{name}`)"
        return f"`{name}`" if name in self.fields or name == "prompt" else flag(name)


def rows(sheet: Sheet) -> Iterator[Row | BadRowError]:
    """Yield each row of the file, in order, or the error for one that makes no sense by itself."""
    seen: dict[bytes, int] = {}
    position = 0
    for line in sheet.lines():
        if isinstance(line, BadRowError):
            yield line
        else:
            position += 1
            given = {name: value for name, value in line.values.items() if value is not None}
            if errors := list(_unusable(sheet, line, given)):
                yield from errors
            else:
                yield _row(line, given, position, seen)


def _unusable(sheet: Sheet, line: Line, given: Mapping[str, object]) -> Iterator[BadRowError]:
    for name, value in given.items():
        column = line.column_of(name)
        if name not in COLUMNS:
            yield sheet.error(line.number, unknown_name(name), column)
        elif not isinstance(value, str | int | float):
            kind = "list" if isinstance(value, list) else "object"
            yield sheet.error(line.number, f"`{name}` takes no {kind}", column)
        elif isinstance(value, str) and _HALF_CHARACTER.search(value):
            yield sheet.error(line.number, f"`{name}` holds half a character, which cannot be sent", column)
        elif name in OWN_COLUMNS and (isinstance(value, bool | float) or "\0" in str(value)):
            yield sheet.error(line.number, f"`{name}` takes text", column)


def _row(line: Line, given: Mapping[str, object], position: int, seen: dict[bytes, int]) -> Row:
    fields = {name: value for name, value in given.items() if isinstance(value, str | int | float)}
    own = {name: str(fields.pop(name, "")).strip() for name in OWN_COLUMNS}
    key = own["id"] or _content_key(fields, seen)
    return Row(position, line.number, key, fields, own["output"] or None, bool(own["id"]), line.column_of)


def _content_key(fields: Mapping[str, JsonValue], seen: dict[bytes, int]) -> str:
    content = {name: value for name, value in fields.items() if name != "webhook_secret"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()[:8]
    seen[digest] = seen.get(digest, 0) + 1
    return f"#{digest.hex()}-{seen[digest]}"


class Checks:
    """Checks the rows of one file against all rules, each row alone and beside the ones before it.

    Args:
        sheet: The file.
        directory: The batch's.
        defaults: The fields that rows get which do not give them.
        validate: Whether the service's rules are checked; what only matters here always is.
    """

    def __init__(
        self, sheet: Sheet, directory: Path, defaults: Mapping[str, JsonValue], *, validate: bool
    ) -> None:
        self._sheet = sheet
        self._directory = directory
        self._defaults = defaults
        self._validate = validate
        self._ids: dict[str, int] = {}
        self._files: dict[Path, int] = {}

    def errors(self, row: Row) -> Iterator[BadRowError]:
        """Yield everything that is wrong with a row."""
        for message in (*self._broken_id(row), *self._broken_fields(row), *self._broken_output(row)):
            yield self._sheet.error(row.line, message)

    def _broken_id(self, row: Row) -> Iterator[str]:
        if row.identified:
            first = self._ids.setdefault(row.key, row.line)
            if first != row.line:
                yield f"{row.name_of('id')} is that of line {first}, too: {shown(row.key)}"
            if row.key.startswith("#"):
                yield f"{row.name_of('id')} must not begin with #"

    def _broken_fields(self, row: Row) -> Iterator[str]:
        if self._validate:
            yield from violations({**self._defaults, **row.fields}, row.name_of)
        source = row.fields.get("image_prompt")
        if isinstance(source, str) and (problem := image_prompt.problem(source)):
            yield f"{row.name_of('image_prompt')} {problem}"

    def _broken_output(self, row: Row) -> Iterator[str]:
        try:
            target = target_for(row, self._directory, force=False)
        except UsageError as error:
            yield f"{row.name_of('output')} {error.message.removeprefix('`-o` ')}"
            return
        directory = Path(os.path.normpath(self._directory))
        path = Path(os.path.normpath(target.directory / target.template))
        if row.output is not None and (row.output.startswith("~") or not path.is_relative_to(directory)):
            yield f"{row.name_of('output')} leads out of the batch's directory: {shown(row.output)}"
        elif any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
            yield f"{row.name_of('output')} is too long for a file's name: {shown(row.output)}"
        elif target.explicit and path.parent == directory and path.name.casefold() == NAME:
            yield f"{row.name_of('output')} is the name of the batch's own results"
        elif target.explicit:
            first = self._files.setdefault(path, row.line)
            if first != row.line:
                yield f"{row.name_of('output')} is that of line {first}, too: {path}"


def target_for(row: Row, directory: Path, *, force: bool) -> naming.Target:
    """Return where a row's picture goes: its `output` below the batch's directory, or a name made up from it.

    Raises:
        UsageError: The `output` makes no sense.
    """
    if row.output is None:
        return naming.Target(directory, force=force)
    if row.output == "-":
        raise UsageError("takes the name of a file")
    path = directory / row.output
    if "{" in row.output or "}" in row.output:
        return replace(naming.plan(row.output, None, 1, force), directory=directory)
    if row.output.endswith(("/", os.sep)) or path.is_dir():
        return naming.Target(path, force=force)
    return naming.Target(path.parent, path.name, explicit=True, force=force)
