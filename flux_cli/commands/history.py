"""`flux-cli history`: what was submitted from here, and what became of it."""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion, options
from flux_cli.api.task import Status
from flux_cli.ui import console, tables

if TYPE_CHECKING:
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli history --limit 5\n\n"
    "$ flux-cli history --status unknown\n\n"
    "$ flux-cli history --search sunflower --json | jq -r .path"
)
def history(
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", parser=options.integer(1), metavar="N", help="How many, the newest first."),
    ] = 20,
    status: Annotated[
        Status | None,
        typer.Option(
            "--status",
            parser=options.one_of(Status),
            autocompletion=completion.words(Status),
            metavar="STATUS",
            help="Only those that are processing, finished, failed, unknown (sent, no answer) or unsent.",
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only those with this text in the prompt, id or path."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """Show what was submitted from here, and what became of it."""
    from flux_cli.storage.history import open_readonly

    opened = open_readonly()
    records = list(opened.records(limit, statuses=[status] if status else (), search=search))
    for problem in opened.problems():
        console.warning(problem)
    if json:
        for record in records:
            console.out_json(_as_json(record))
    elif records:
        columns = ("when", "task", "status", "prompt", "file")
        tables.show(columns, map(_row, records), grow=("prompt", "file"), cut=("prompt",))
    return 0


def _row(record: "Record") -> tuple[str, str, str, str, str]:
    """Return a record's cells: exact in a pipe, on a terminal as short as people need."""
    terminal = sys.stdout.isatty()
    form = "%b %d %H:%M" if terminal else "%Y-%m-%d %H:%M:%S"
    when = time.strftime(form, time.localtime(record.created))
    path = record.path or record.error or "-"
    if terminal:
        path = path.removeprefix(f"{os.getcwd()}{os.sep}")
    return when, record.task_id or "-", record.status.value, record.prompt or "", path


def _as_json(record: "Record") -> dict[str, object]:
    return {
        "created": record.created,
        "ended": record.ended,
        "service": record.service,
        "task_id": record.task_id,
        "status": record.status.value,
        "model": record.model,
        "prompt": record.prompt,
        "seed": record.request.get("seed"),
        "image_url": record.image_url,
        "path": record.path,
        "original_path": record.original_path,
        "error": record.error,
        "exit_code": record.exit_code,
        "batch": record.batch,
        "row": record.row,
        "request": record.request,
    }
