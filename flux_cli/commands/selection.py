"""The tasks that a command line names: IDs and prefixes from arguments or stdin, and their records."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from flux_cli.api.task import is_task_id, short_id
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.options import ServiceOptions
from flux_cli.storage.record import SANDBOX
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.commands.service import Choice
    from flux_cli.storage.config import Config
    from flux_cli.storage.history import HistoryReader
    from flux_cli.storage.record import Record

MAX_STDIN_BYTES = 16 << 20


def open_history(*, required: bool = False) -> "HistoryReader":
    """Open the history, for writing if possible, otherwise for reading. It is not created.

    If it cannot be read, LocalFileError is raised if it is `required`; otherwise a warning is printed.
    """
    from flux_cli.storage.history import History, HistoryReader, open_readonly
    from flux_cli.storage.paths import history_files, state_directory

    history: HistoryReader
    try:
        if not history_files(state_directory()):
            return HistoryReader()
        try:
            history = History()
        except LocalFileError as error:
            history = open_readonly()
            console.warning(f"{error.message}; nothing is recorded")
        history.find("")  # some damage is detected only on reading
    except LocalFileError as error:
        if required:
            raise
        console.warning(error.message)
        return HistoryReader()
    warn_of_problems(history)
    return history


def record_numbers(
    records: "Mapping[str, Record | None]", history: "HistoryReader", service: str
) -> "dict[str, int | None]":
    """Return the number of the record that gets each task's outcome; None if there is none.

    A record of another service gets none: it is about another task with the same ID.
    """
    from flux_cli.storage.database import patiently
    from flux_cli.storage.history import History

    found: dict[str, int | None] = dict.fromkeys(records)
    if not isinstance(history, History):
        return found
    usable = {task_id: each for task_id, each in records.items() if each and each.service == service}
    foreign = {task_id: record for task_id, record in usable.items() if not history.owns(record)}
    found |= {task_id: record.number for task_id, record in usable.items() if task_id not in foreign}

    def adopt() -> dict[str, int]:
        with history.transaction():
            return {task_id: history.adopt(record) for task_id, record in foreign.items()}

    if foreign:
        try:
            found |= patiently(adopt)
        except LocalFileError as error:
            console.warning(error.message)
    return found


def warn_of_problems(history: "HistoryReader") -> None:
    """Print a warning for each part of the history that could not be read."""
    for problem in history.problems():
        console.warning(problem)


def resolve_ids(task_ids: Sequence[str], history: "HistoryReader") -> "dict[str, Record | None]":
    """Return the complete IDs for IDs or prefixes, each with its record in the history if there is one.

    An ID that is not in the history is returned unchanged. Raises UsageError if a prefix is ambiguous.
    """
    found: dict[str, Record | None] = {}
    for task_id in task_ids:
        record = history.lookup(task_id)
        found[record.task_id or task_id if record else task_id] = record
    return found


def selected(
    task_ids: Sequence[str] | None,
    options: ServiceOptions,
    config: "Config",
    *,
    last: bool,
    every: bool,
    saved: bool,
) -> "tuple[HistoryReader, Choice, dict[str, Record | None]]":
    """Return the history, the service, and the tasks that a command line names.

    `last` and `every` say whether `--last` and `--all` were given, for tasks that are not saved. With `saved`, the
    last task is the newest one, saved or not. If there is no task, a note is printed.

    Raises:
        UsageError: The arguments contradict each other, or name no task.
        LocalFileError: `--last` or `--all` was given, and the history cannot be read.
    """
    from flux_cli.commands.service import choose

    if sum(map(bool, (task_ids, last, every))) > 1:
        raise UsageError("task IDs, `--last` and `--all` cannot be combined")
    history = open_history(required=last or every)
    if not (last or every):
        records = resolve_ids(read_ids(task_ids or []), history)
        _check_service(records, options, config)
        choice, none = choose(options, config), "no task IDs on stdin"
    else:
        choice, none = choose(options, config), "nothing left to save"
        found = history.unsaved(choice.name)
        if last and saved:
            none = "the history has no task"
            found = (each for each in history.records() if each.service == choice.name and each.task_id)
        records = {record.task_id or "": record for record in islice(found, 1 if last else None)}
    if last and not records:
        raise UsageError(none, "give task IDs" if saved else "see `flux-cli history`")
    if not records:
        console.note(none)
    return history, choice, records


def _check_service(records: "Mapping[str, Record | None]", options: ServiceOptions, config: "Config") -> None:
    """Raise UsageError if a task belongs to the embedded sandbox and the default service is about to be used.

    Another address may be a sandbox on a port, which has the tasks of the embedded one.
    """
    if options.sandbox or config.sandbox or options.api_url or config.api_url:
        return
    for task_id, record in records.items():
        if record and record.service == SANDBOX:
            raise UsageError(f"task {short_id(task_id)} belongs to the sandbox", "add --sandbox")


def read_ids(arguments: Sequence[str]) -> list[str]:
    """Return the IDs from arguments or, for `-`, stdin: plain, or JSON Lines with `task_id`; each one once.

    Raises UsageError if there are no arguments, one cannot be an ID, or a line cannot be read.
    """
    if not arguments:
        raise UsageError("no task IDs", "give IDs, - to read them from stdin, `--last` or `--all`")
    found: dict[str, None] = {}
    for argument in arguments:
        for task_id in _ids_on_stdin() if argument == "-" else [argument.strip()]:
            if not is_task_id(task_id):
                raise UsageError(f"{console.shortened(task_id, 60)!r} is not a task ID")
            found[task_id] = None
    return list(found)


def _ids_on_stdin() -> Iterator[str]:
    for number, line in enumerate(read_stdin_text().split("\n"), 1):
        text = line.strip()
        if not text.startswith("{"):
            yield from text.split()
            continue
        try:
            task_id = json.loads(text)["task_id"]
        except (ValueError, KeyError, RecursionError):
            raise UsageError(f"line {number} of stdin is not a JSON object with a `task_id`") from None
        if task_id is None:
            console.warning(f"line {number} of stdin has no task ID, because it was never accepted")
        elif isinstance(task_id, str | int) and not isinstance(task_id, bool):
            yield str(task_id)
        else:
            raise UsageError(f"line {number} of stdin: `task_id` is neither text nor a number")


def read_stdin_text(limit: int = MAX_STDIN_BYTES) -> str:
    """Return all of stdin, without a byte order mark. Raises UsageError if it is too large or not UTF-8."""
    if sys.stdin.isatty():
        console.note("reading from stdin; press Ctrl-D to end")
    content = sys.stdin.buffer.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"stdin has more than {limit // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text") from None
