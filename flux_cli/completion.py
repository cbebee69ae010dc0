"""Shell completion: the candidates, and the protocol that the scripts in `completions/` speak.

A script passes the command line up to the cursor and gets one line per candidate: its kind (`word`, or `file` and
`dir` for what the shell completes itself), the whole word, and a description, separated by tabs. All knowledge of
commands and values is here, so a script is never out of date. Nothing is sent, created or reported while somebody
types, and no candidate contains a character that a shell interprets.

Typer's own scripts sort task IDs alphabetically, break ratios at the colon in bash, offer files for every option,
and import rich on each TAB (90 ms).
"""

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

import typer

from flux_cli.api.request import DEFAULT_MODEL, FIELDS, MODELS, Field
from flux_cli.errors import ExitCode, FluxError, UsageError
from flux_cli.ui import console

VARIABLE = "_FLUX_CLI_COMPLETE"
"""The environment variable that makes the program print completions; its value is the shell."""
SCRIPTS = {"bash": "flux-cli.bash", "zsh": "_flux-cli", "fish": "flux-cli.fish", "powershell": "flux-cli.ps1"}
"""The file of each shell's script."""
_DESCRIPTION_WIDTH = 100
_SAFE = re.compile(r"[\w@%+=:,./{}-]*", re.ASCII)
"""Words that no shell expands, splits or executes. Braces appear in templates of file names."""
_SAFE_ID = re.compile(r"[A-Za-z0-9_][\w@%+=:,.-]*", re.ASCII)
"""Task IDs come from the service. One that looks like an option or contains braces is not offered either."""

MAX_TASKS = 50
"""How many tasks are offered at once: about one screen."""

Candidate = str | tuple[str, str]


class Item:
    """One candidate with its description, as Typer's own class for it."""

    type = "plain"

    def __init__(self, value: str, help: str) -> None:  # noqa: A002 - Typer's name
        self.value = value
        self.help = help


class FileNames(str):
    """A request to the shell to complete file names itself."""

    kind = "file"


class DirectoryNames(FileNames):
    """The same for directories."""

    kind = "dir"


def files(incomplete: str) -> Iterator[Candidate]:
    """Let the shell complete files."""
    yield FileNames(incomplete)


def directories(incomplete: str) -> Iterator[Candidate]:
    """Let the shell complete directories."""
    yield DirectoryNames(incomplete)


def models() -> Iterator[Candidate]:
    """Yield the models, each with what it is for."""
    for model, purpose in MODELS.items():
        yield model, f"{'the default; ' if model == DEFAULT_MODEL else ''}{purpose}"


def for_field(field: Field) -> Callable[..., Iterator[Candidate]] | None:
    """Return the function that yields candidates for a request field, or None if there is nothing to offer."""
    if field.name == "model":
        return models
    if field.name == "image_prompt":
        return files
    return words(field.values) if field.values else None


def words(choices: Iterable[object]) -> Callable[[], Iterator[Candidate]]:
    """Return the function that yields these words."""
    return lambda: (str(choice) for choice in choices)


def commands(ctx: typer.Context) -> Iterator[Candidate]:
    """Yield the commands, or after one its subcommands."""
    group: Any = ctx.find_root().command
    for name in ctx.params.get("names") or ():
        group = group.get_command(ctx, name)
    yield from group.summaries().items()


def output(incomplete: str) -> Iterator[Candidate]:
    """Yield the fields of a file name template inside a brace; otherwise let the shell complete files."""
    from flux_cli.pictures import naming

    before, brace, name = incomplete.rpartition("{")
    if brace and "}" not in name:
        yield from (f"{before}{{{field}}}" for field in naming.FIELD_NAMES)
    else:
        yield FileNames(incomplete)


def faults() -> Iterator[Candidate]:
    """Yield the sandbox's faults, each with its effect."""
    from flux_cli.sandbox.faults import FAULTS

    for fault in FAULTS.values():
        yield fault.name, fault.effect


def setting_names(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield the names of the settings; `set` does not accept the key. Those for one model follow `models.`."""
    from flux_cli.storage.settings import SETTINGS

    yield from (name for name in SETTINGS if (ctx.info_name, name) != ("set", "api_key"))
    if incomplete.startswith("models."):
        own = [name for name, setting in SETTINGS.items() if setting.per_model]
        yield from (f"models.{model}.{name}" for model in MODELS for name in own)


def setting_values(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield values for the setting whose name precedes."""
    from flux_cli.storage.settings import SETTINGS

    name = str(ctx.params.get("name")).rpartition(".")[2]
    field = FIELDS.get(name)
    candidates = for_field(field) if field else None
    if name == "output_dir":
        yield DirectoryNames(incomplete)
    elif name == "image_prompt":
        yield FileNames(incomplete)
    elif candidates:
        yield from candidates()
    elif name in SETTINGS and SETTINGS[name].kind is bool:
        yield from ("true", "false")


def task_ids(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield task IDs from the history, newest first, with status and prompt, except those on the line already."""
    given = {each for value in ctx.params.values() if isinstance(value, list | tuple) for each in value}
    yield from (task[:2] for task in _newest_tasks(incomplete) if task[0] not in given)


def tasks_or_files(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield task IDs, and let the shell complete files, too."""
    yield from task_ids(ctx, incomplete)
    yield FileNames(incomplete)


def saved_tasks_or_files(incomplete: str) -> Iterator[Candidate]:
    """Yield the IDs of tasks whose pictures exist, and let the shell complete files, too."""
    tasks = _newest_tasks(incomplete, saved=True)
    yield from ((task_id, text) for task_id, text, path in tasks if path and os.path.exists(path))
    yield FileNames(incomplete)


def _newest_tasks(prefix: str, *, saved: bool = False) -> list[tuple[str, str, str | None]]:
    """Return ID, description and path of the newest tasks with this prefix; none without a history."""
    import sqlite3

    from flux_cli.storage import database, paths  # lighter than `storage.history`

    # By the primary key nothing is sorted; a prefix is found by the index alone, which is a tenth of the table.
    matching = "task_id BETWEEN :prefix AND :prefix || char(1114111)" if prefix else "task_id IS NOT NULL"
    matching += " AND path <> '-'" if saved else ""
    newest = f"SELECT id FROM submissions WHERE {matching} ORDER BY id DESC LIMIT :limit"  # noqa: S608 - ours
    rows: list[tuple[float, str, str, str | None, str | None]] = []
    with contextlib.suppress(FluxError):
        for file in paths.history_files(paths.state_directory()):
            with (
                contextlib.suppress(FluxError, sqlite3.Error, OSError, ValueError),
                contextlib.closing(database.open_for_reading(file)) as connection,
            ):
                rows += connection.execute(
                    "SELECT created, task_id, status, substr(prompt, 1, 200), path FROM submissions "  # noqa: S608 - ours as well
                    f"WHERE id IN ({newest}) ORDER BY id DESC",
                    {"prefix": prefix, "limit": MAX_TASKS},
                )
    tasks: dict[str, tuple[str, str, str | None]] = {}
    for _, task_id, status, prompt, path in sorted(rows, key=lambda row: -row[0])[:MAX_TASKS]:
        if _SAFE_ID.fullmatch(task_id):
            # Each ID once: what two lines share, bash may insert.
            tasks.setdefault(task_id, (task_id, f"{status}: {prompt or ''}", path))
    return list(tasks.values())


def script(shell: str) -> str:
    """Return the completion script for a shell. Raises UsageError if there is none."""
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for the shell `{shell}`", f"known: {', '.join(SCRIPTS)}")
    from importlib.resources import files as resources

    packaged = resources("flux_cli") / "completions" / SCRIPTS[shell]
    # An editable installation has no copy in the package.
    source = packaged if packaged.is_file() else Path(__file__).parents[1] / "completions" / SCRIPTS[shell]
    return source.read_text(encoding="ascii")


def answer(group: Any) -> NoReturn:
    """Print the candidates for the word at the cursor, and end the process. Errors are never reported."""
    with contextlib.suppress(Exception):
        console.out_bytes(_answer(group, os.environ[VARIABLE]).encode("utf-8", "replace"))
    os._exit(ExitCode.OK)  # Python's own cleanup takes 9 ms of the 90


def _answer(group: Any, shell: str) -> str:
    # Private, and the same from Typer 0.27 to 0.29. Without them there are no candidates.
    from typer._click.shell_completion import _resolve_context, _resolve_incomplete, split_arg_string

    # A letter at the end makes the last word one, even if it is empty or has an open quote.
    _, *words, last = split_arg_string(os.environ.get("_FLUX_CLI_LINE", "") + "x")
    word = last[:-1]
    flag, equals, _ = word.partition("=")
    prefix = flag + equals if equals and flag.startswith("-") else ""
    context = _resolve_context(group, {}, "flux-cli", words)
    target, incomplete = _resolve_incomplete(context, words, word)
    found = [
        (_kind(item), prefix + str(item.value), console.shortened(item.help or "", _DESCRIPTION_WIDTH))
        for item in target.shell_complete(context, incomplete)
    ]
    safe = [each for each in found if each[0] != "word" or _SAFE.fullmatch(each[1])]
    if shell == "bash":
        safe = _for_bash(safe)
    return "".join("\t".join(each) + "\n" for each in safe)


def _kind(item: Any) -> str:
    return str(getattr(item.value, "kind", "word") if item.type == "plain" else item.type)


def _for_bash(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return the candidates with a line for bash's list instead of the description, which bash does not have."""
    columns = int(os.environ.get("_FLUX_CLI_COLUMNS", 80)) - 1
    longest = max((len(word) for _, word, _ in found), default=0)
    room = columns - longest - len("  ()")
    lines = []
    for kind, word, description in found:
        listed = f"{word:{longest}}  ({_cut(description, room)})" if description and room > 0 else word
        # Wider than half a screen: otherwise readline prints columns.
        lines.append((kind, word, f"{listed:{columns // 2 if listed != word else 0}}"))
    return lines


def _cut(text: str, columns: int) -> str:
    """Return a text cut to a number of columns; some characters take two."""
    if text.isascii():
        return text if len(text) <= columns else text[: columns - 1] + "…"
    from unicodedata import east_asian_width

    ends = list(accumulate(2 if east_asian_width(character) in "WF" else 1 for character in text))
    return text if not ends or ends[-1] <= columns else text[: bisect_right(ends, columns - 1)] + "…"
