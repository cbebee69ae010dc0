"""`flux-cli fetch`: the status of tasks, and with `-o` the pictures of finished ones."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import options
from flux_cli.api.task import Status, Task, recorded_url, short_id
from flux_cli.commands import SUMMARIES, load_config
from flux_cli.errors import ExitCode, FluxError, LocalFileError, TaskFailedError, worst
from flux_cli.options import DEFAULT_TIMEOUT, OutputOptions, ServiceOptions
from flux_cli.ui import console, tables

if TYPE_CHECKING:
    from flux_cli.commands.service import Service
    from flux_cli.engine.result import Result
    from flux_cli.pictures.naming import Target
    from flux_cli.storage.history import HistoryReader
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)

EXIT_CODES = {
    Status.FINISHED: ExitCode.OK,
    Status.FAILED: ExitCode.TASK_FAILED,
    Status.PROCESSING: ExitCode.STILL_RUNNING,
}


@app.command(
    help=f"{SUMMARIES['fetch']}\n\nWith -o, the pictures of finished tasks are saved too.",
    epilog="Examples:\n\n"
    "$ flux-cli fetch 64cd7965\n\n"
    "$ flux-cli fetch --json 64cd7965-1b78-42c8-b929-9d7751a2e149 | jq -r .image_url\n\n"
    "$ flux-cli fetch --exit-status - < ids.txt",
)
@options.expanded
def fetch(
    task_ids: options.TaskIds = None,
    *,
    last: Annotated[bool, typer.Option("--last", help="The newest task.", rich_help_panel=options.TASKS)] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every task that is not saved.", rich_help_panel=options.TASKS)
    ] = False,
    exit_status: Annotated[
        bool,
        typer.Option(
            "--exit-status",
            help="Exit with 0 if all are finished, 4 if any failed, 8 if any is still running.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    output: OutputOptions,
    service: ServiceOptions,
) -> int:
    """Show the status of tasks."""
    from flux_cli.api.status import check_tasks
    from flux_cli.commands import selection
    from flux_cli.commands.service import connect

    config = load_config()
    history, choice, records = selection.selected(task_ids, service, config, last=last, every=every, saved=True)
    if not records:
        return ExitCode.OK
    target = output.target(service, config, len(records)) if output.output is not None else None
    with connect(choice) as connected:
        checks = check_tasks(connected.client, list(records))
        results = [_result(task_id, found, records[task_id]) for task_id, found in checks]
        _record(results, records, history, connected.name)
        if target is not None:
            results = _downloaded(results, records, target, connected, history, output.original)
    required = exit_status or (target is not None and (target.explicit or target.stdout))
    _print(results, records, target, json=service.json)
    _print_messages(results, required=required)
    return _exit_code(results, required=required, exit_status=exit_status)


def _result(task_id: str, found: Task | FluxError, record: "Record | None") -> "Result":
    """Return the result of a status check."""
    from flux_cli.engine.result import Result

    request = record.request if record else {}
    if isinstance(found, FluxError):
        status = Status.FAILED if isinstance(found, TaskFailedError) else Status.UNKNOWN
        code, error, hint = found.exit_code, found.message, found.hint
        return Result(status, code, task_id=task_id, request=request, error=error, hint=hint)
    code = EXIT_CODES[found.status]
    return Result(found.status, code, task=found, task_id=task_id, request=request, error=found.error)


def _record(
    results: "Sequence[Result]", records: "Mapping[str, Record | None]", history: "HistoryReader", service: str
) -> None:
    """Record each status that has changed, except for tasks of another service. A failure is a warning."""
    from flux_cli.commands.selection import record_numbers
    from flux_cli.storage.database import patiently
    from flux_cli.storage.history import History

    changed: dict[str, Task] = {}
    for result in results:
        record = records[result.task_id or ""]
        if result.task and record and record.path is None and record.status is not result.status:
            changed[record.task_id or ""] = result.task
    if not changed or not isinstance(history, History):
        return
    numbers = record_numbers({task_id: records[task_id] for task_id in changed}, history, service)

    def change() -> None:
        with history.transaction():
            for task_id, task in changed.items():
                if (number := numbers[task_id]) is not None:
                    url = recorded_url(task.image_url)
                    history.ended(number, task.status, image_url=url, error=task.error)

    try:
        patiently(change)
    except LocalFileError as error:
        console.warning(error.message)


def _downloaded(
    results: "list[Result]",
    records: "Mapping[str, Record | None]",
    target: "Target",
    service: "Service",
    history: "HistoryReader",
    original: bool,
) -> "list[Result]":
    """Save the pictures of the finished tasks; return all results, in the same order."""
    from flux_cli.commands.selection import record_numbers
    from flux_cli.engine.events import Ended, Event, NotDeliveredError
    from flux_cli.engine.job import Job
    from flux_cli.engine.result import Result
    from flux_cli.engine.run import Run
    from flux_cli.engine.settings import RunSettings
    from flux_cli.engine.store import HistoryStore
    from flux_cli.pictures.saving import Saver
    from flux_cli.storage.history import History
    from flux_cli.ui.reporter import reporting

    numbers = record_numbers(records, history, service.name)
    jobs = [
        Job(
            target,
            task_id=result.task_id,
            recorded=result.request,
            n=n,
            number=numbers[result.task_id or ""],
            task=result.task,
        )
        for n, result in enumerate(results, 1)
        if result.status is Status.FINISHED
    ]
    ended: dict[str | None, Result] = {}
    saver = Saver(service.url, service.client.trace, original=original)
    with reporting(jobs, flags=service.flags, service=service.name, prints=False) as reporter:

        def handle(event: Event) -> None:
            if isinstance(event, Ended):
                ended[event.job.task_id] = event.result
            try:
                reporter.handle(event)
            except NotDeliveredError as error:
                lost = ended[event.job.task_id]
                ended[event.job.task_id] = replace(lost, exit_code=error.exit_code, resumable=True)
                raise

        store = HistoryStore(history, service.name) if isinstance(history, History) else None
        Run(service.client, saver, store, handle, RunSettings(timeout=DEFAULT_TIMEOUT)).run(jobs)
    return [ended.get(result.task_id, result) for result in results]


def _print(
    results: "Sequence[Result]", records: "Mapping[str, Record | None]", target: "Target | None", *, json: bool
) -> None:
    """Print the objects, with `-o` the paths, or a row per task. A picture for stdout is already written."""
    if json:
        for result in results:
            task = result.as_json()
            if target is None and (record := records[result.task_id or ""]):
                task["path"] = record.path
            console.out_json(task)
    elif target is not None:
        for result in results:
            for path in filter(None, (result.path, result.original_path)):
                console.out(str(path))
    elif rows := [_row(result, records[result.task_id or ""]) for result in results if result.task is not None]:
        tables.show(("task", "status", "%", "picture"), rows)


def _row(result: "Result", record: "Record | None") -> tuple[str, ...]:
    """Return task ID, status, percentage, URL and path; on a terminal a short ID, and the path or else the URL."""
    task = result.task
    percentage = f"{task.percentage:g}" if task and task.percentage is not None else ""
    url, path = (task.image_url if task else None) or "", (record.path if record else None) or ""
    if sys.stdout.isatty():
        from flux_cli.ui.history_lines import short_path  # subprocess: 10 ms

        return short_id(result.task_id), result.status.value, percentage, short_path(path) if path else url
    return result.task_id or "", result.status.value, percentage, url, path


def _print_messages(results: "Sequence[Result]", *, required: bool) -> None:
    """Print why tasks have no picture: as an error if it affects the exit code."""
    for result in results:
        name = f"task {short_id(result.task_id)}"
        if result.resumable or result.path or result.content is not None:
            continue  # the download has printed the reason, or there is a picture
        if result.status is Status.PROCESSING and required:
            console.error(f"{name} is still running")
        elif result.task is not None and result.error is not None and not required:
            console.note(f"{name} failed: {result.error}")
        elif result.error is not None:
            console.error(f"{name} failed: {result.error}" if result.task else f"{name}: {result.error}")
            if result.hint:
                console.hint(result.hint)


def _exit_code(results: "Sequence[Result]", *, required: bool, exit_status: bool) -> ExitCode:
    """Return the worst exit code; the status of a task counts only if it is `required`.

    Only `--exit-status` returns 8. Without it, a requested picture that is not finished counts as a timeout.
    """
    code = worst(each.exit_code for each in results if required or each.task is None or each.resumable)
    return ExitCode.GAVE_UP_WAITING if code == ExitCode.STILL_RUNNING and not exit_status else code
