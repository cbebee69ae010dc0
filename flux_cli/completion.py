"""What a TAB offers for the values of options and arguments.

The shells' scripts in `ui.shells` ask the program itself, so the tables here are the ones that the commands use.
Nothing is sent, created or complained about while somebody types.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import typer

from flux_cli.api.request import DEFAULT_MODEL, MODELS, Field
from flux_cli.errors import FluxError

MAX_TASKS = 50
"""How many tasks are offered at once: about a screenful of ids with their prompts."""

Candidate = str | tuple[str, str]


class Place(str):
    """Stands for the names of files, which the shell completes better than we could."""

    kind = "file"


class DirectoryPlace(Place):
    """Stands for the names of directories."""

    kind = "dir"


def files(incomplete: str) -> Iterator[Candidate]:
    """Yield what makes the shell offer files."""
    yield Place(incomplete)


def directories(incomplete: str) -> Iterator[Candidate]:
    """Yield what makes the shell offer directories."""
    yield DirectoryPlace(incomplete)


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
    return (lambda: iter(field.values)) if field.values else None


def output(incomplete: str) -> Iterator[Candidate]:
    """Yield the fields of a template inside of a brace, else what makes the shell offer files."""
    from flux_cli.pictures import naming

    before, brace, name = incomplete.rpartition("{")
    if brace and "}" not in name:
        yield from (f"{before}{{{field}}}" for field in naming.FIELD_NAMES)
    else:
        yield Place(incomplete)


def faults() -> Iterator[Candidate]:
    """Yield the sandbox's faults, each with its effect."""
    from flux_cli.sandbox.faults import FAULTS

    for fault in FAULTS.values():
        yield fault.name, fault.effect


def setting_names(ctx: typer.Context) -> Iterator[Candidate]:
    """Yield the names in the config file; `set` takes no key."""
    from flux_cli.storage import config

    yield from (name for name in config.NAMES if (ctx.info_name, name) != ("set", "api_key"))


def setting_values(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield values for the setting whose name stands before."""
    name = ctx.params.get("name")
    if name == "model":
        yield from models()
    elif name == "sandbox":
        yield from ("true", "false")
    elif name == "output_dir":
        yield DirectoryPlace(incomplete)


def task_ids(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield task ids from the history, newest first, with state and prompt; not those that are given already."""
    given = {each for value in ctx.params.values() if isinstance(value, list | tuple) for each in value}
    for task_id, status, prompt, _ in _newest_tasks(incomplete):
        if task_id not in given:
            yield task_id, f"{status}: {prompt or ''}"


def tasks_or_files(ctx: typer.Context, incomplete: str) -> Iterator[Candidate]:
    """Yield task ids, and what makes the shell offer files too."""
    yield from task_ids(ctx, incomplete)
    yield Place(incomplete)


def saved_tasks_or_files(incomplete: str) -> Iterator[Candidate]:
    """Yield the ids of tasks whose pictures are here, and what makes the shell offer files too."""
    for task_id, status, prompt, path in _newest_tasks(incomplete, saved=True):
        if path and os.path.exists(path):
            yield task_id, f"{status}: {prompt or ''}"
    yield Place(incomplete)


def _newest_tasks(prefix: str, *, saved: bool = False) -> list[tuple[str, str, str | None, str | None]]:
    """Return ID, status, prompt and path of the newest tasks with this prefix; none without a history."""
    import sqlite3

    from flux_cli.storage import database, paths  # lighter than `storage.history`

    # By the primary key nothing is sorted; a prefix is found by the index alone, which is a tenth of the table.
    matching = "task_id BETWEEN ?1 AND ?1 || char(1114111)" if prefix else "task_id IS NOT NULL"
    matching += " AND path <> '-'" if saved else ""
    newest = f"SELECT id FROM submissions WHERE {matching} ORDER BY id DESC LIMIT ?2"  # noqa: S608 - ours
    rows: list[tuple[float, tuple[str, str, str | None, str | None]]] = []
    with contextlib.suppress(FluxError):
        for path in paths.history_files(paths.state_directory()):
            with (
                contextlib.suppress(FluxError, sqlite3.Error, OSError, ValueError),
                contextlib.closing(database.open_for_reading(path)) as connection,
            ):
                for created, *task in connection.execute(
                    "SELECT created, task_id, status, substr(prompt, 1, 200), path FROM submissions "  # noqa: S608 - ours as well
                    f"WHERE id IN ({newest}) ORDER BY id DESC",
                    (prefix, MAX_TASKS),
                ):
                    rows.append((created, (task[0], task[1], task[2], task[3])))
    tasks: dict[str, tuple[str, str, str | None, str | None]] = {}
    for _, task in sorted(rows, key=lambda row: -row[0])[:MAX_TASKS]:
        tasks.setdefault(task[0], task)  # each ID once: what two lines share, bash may insert
    return list(tasks.values())
