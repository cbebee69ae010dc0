"""`flux-cli history`: what was submitted from here and its outcome."""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion, options
from flux_cli.api.task import Status
from flux_cli.commands import SUMMARIES
from flux_cli.errors import ExitCode, LocalFileError, UsageError
from flux_cli.storage.paths import expanded
from flux_cli.ui import console, tables

if TYPE_CHECKING:
    from flux_cli.storage.history import HistoryReader
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)


DETAILS = (
    "On a terminal the newest task is at the bottom. In a pipe it comes first, and each line has time, task ID, "
    "status, prompt, path and error, separated by tabs."
)


NOT_SAVED = "not-saved"
"""The value of `--status` for finished tasks without a file."""
STATUSES = (*Status, NOT_SAVED)
JSON_FIELDS = (
    *("created", "ended", "service", "task_id", "status", "model", "prompt", "seed", "image_url", "path"),
    *("original_path", "sha256", "error", "exit_code", "batch", "row", "request"),
)


@app.command(
    help=f"{SUMMARIES['history']}\n\n{DETAILS}",
    epilog="Examples:\n\n"
    "$ flux-cli history --limit 5\n\n"
    "$ flux-cli history --status unknown --status not-saved --since 7d\n\n"
    "$ flux-cli history --search sunflower --json | jq -r .path\n\n"
    "$ flux-cli history kite.png",
)
def history(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|TASK_ID]",
            help="Only the task of this picture, even if it was renamed, or the task with this ID or prefix.",
            autocompletion=completion.tasks_or_files,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", parser=options.integer(1), metavar="N", help="The newest N tasks.")
    ] = 20,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            parser=options.one_of(STATUSES),
            autocompletion=completion.words(STATUSES),
            metavar="STATUS",
            help="Only tasks that are processing, finished, not-saved (finished without a file), failed, unknown "
            "(sent, no response) or unsent. Can be repeated.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Only tasks of this model.", autocompletion=completion.models
        ),
    ] = None,
    since: Annotated[
        float | None,
        typer.Option(
            "--since",
            parser=options.moment,
            metavar="DATE",
            help="Only tasks submitted at or after DATE: 2026-11-25, today, 2h, 7d.",
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option("--until", parser=options.moment, metavar="DATE", help="Only tasks submitted before DATE."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only tasks with this text in the prompt, ID or path."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per task.")] = False,
) -> int:
    """Show what was submitted from here, and its outcome."""
    from flux_cli.commands.selection import warn_of_problems
    from flux_cli.storage.history import open_readonly

    opened = open_readonly()
    states = set(status or ())
    filters = (states, model, since, until, search)
    if what is not None and any(filters):
        raise UsageError("FILE or TASK_ID cannot be combined with filters")
    if what is not None:
        records = [_of(what, opened)]
    else:
        records = list(
            opened.records(
                limit,
                statuses=[Status(state) for state in states - {NOT_SAVED}],
                unsaved=NOT_SAVED in states,
                search=search,
                model=model,
                since=since,
                until=until,
            )
        )
    warn_of_problems(opened)
    if what is not None and not json and sys.stdout.isatty():
        tables.show(("name", "value"), _details(records[0]), header=False)
    else:
        _print(records, json=json, filtered=any(filters))
    return ExitCode.OK


def _print(records: "Sequence[Record]", *, json: bool, filtered: bool) -> None:
    if json:
        for record in records:
            console.out_json(_as_json(record))
    elif not sys.stdout.isatty():
        tables.show((), map(_row, records))
    elif records:
        from flux_cli.ui import history_lines

        history_lines.show(records)
    else:
        console.note("no task matches" if filtered else "the history is empty")


def _of(what: str, opened: "HistoryReader") -> "Record":
    """Return the record of a picture or task. Raises LocalFileError if there is none."""
    path = expanded(what)
    if not os.path.isfile(path):  # unlike Path's own, it takes any text
        return opened.named(what)
    if record := opened.find_picture(path):
        return record
    raise LocalFileError(f"{path} is not a picture in the history")


def _when(record: "Record") -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))


def _row(record: "Record") -> tuple[str, ...]:
    path, error = record.path or "", record.error or ""
    return _when(record), record.task_id or "", record.status.value, record.prompt or "", path, error


def _details(record: "Record") -> list[tuple[str, str]]:
    """Return the details of one task, for a terminal."""
    from flux_cli.ui.history_lines import state

    known: dict[str, object] = {
        "task": record.task_id,
        "submitted": _when(record),
        "status": state(record),
        "error": record.error,
        "service": record.service,
        **record.request,
        "image_url": record.image_url,
        "file": record.path,
        "original": record.original_path,
        "batch": record.batch,
    }
    return [(name, str(value)) for name, value in known.items() if value is not None]


def _as_json(record: "Record") -> dict[str, object]:
    values = {"seed": record.request.get("seed")}
    return {name: values[name] if name in values else getattr(record, name) for name in JSON_FIELDS}
