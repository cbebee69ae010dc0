"""`flux-cli forget`: remove tasks from the history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import options
from flux_cli.commands import SUMMARIES
from flux_cli.errors import ExitCode, LocalFileError, UsageError
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.history import HistoryReader
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)

DETAILS = "Pictures stay where they are. `flux-cli wait --all` no longer includes the tasks."


@app.command(
    help=f"{SUMMARIES['forget']}\n\n{DETAILS}",
    epilog="Examples:\n\n"
    "$ flux-cli forget 64cd7965\n\n"
    "$ flux-cli forget --before 30d\n\n"
    "$ flux-cli history --status not-saved --json | flux-cli forget -",
)
def forget(
    task_ids: options.TaskIds = None,
    before: Annotated[
        float | None,
        typer.Option(
            "--before",
            parser=options.moment,
            metavar="DATE",
            help="All tasks submitted before DATE: 2026-11-25, today, 2h, 7d.",
        ),
    ] = None,
    quiet: options.Quiet = False,  # noqa: ARG001 - its callback acts
) -> int:
    """Remove tasks from the history."""
    from flux_cli.commands import selection
    from flux_cli.storage.database import patiently
    from flux_cli.storage.history import History, open_readonly

    if bool(task_ids) is (before is not None):
        raise UsageError("give either task IDs or `--before`")
    ids = [] if before is not None else selection.read_ids(task_ids or [])
    opened = open_readonly()
    found = list(opened.records(until=before)) if before is not None else _named(ids, opened)
    if found:
        history = History()
        patiently(lambda: history.delete(found))
    unsaved = sum(record.unsaved for record in found)
    what = f"{len(found)} record{'' if len(found) == 1 else 's'}"
    console.note(f"removed {what} from the history" + (f"; {unsaved} not saved" if unsaved else ""))
    return ExitCode.OK


def _named(ids: Sequence[str], history: "HistoryReader") -> "list[Record]":
    """Return the records of tasks. Raises LocalFileError if one is not in the history."""
    from flux_cli.commands import selection

    found: list[Record] = []
    for task_id, record in selection.resolve_ids(ids, history).items():
        if record is None:
            raise LocalFileError(f"there is no task {task_id} in the history", "see `flux-cli history`")
        found += history.of_task(task_id)
    return found
