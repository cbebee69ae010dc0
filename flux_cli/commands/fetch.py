"""`flux-cli fetch`: one look at tasks."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion, options
from flux_cli.api.task import Status, Task
from flux_cli.commands.loading import load_config
from flux_cli.errors import ExitCode, FluxError, TaskFailedError, worst
from flux_cli.options import DEFAULT_TIMEOUT, OutputOptions, ServiceOptions
from flux_cli.ui import console, tables

if TYPE_CHECKING:
    from flux_cli.commands.service import Service
    from flux_cli.engine.job import Result
    from flux_cli.pictures.naming import Target
    from flux_cli.storage.history import History
    from flux_cli.storage.record import Record

app = typer.Typer(add_completion=False)

EXIT_CODES = {
    Status.FINISHED: ExitCode.OK,
    Status.FAILED: ExitCode.TASK_FAILED,
    Status.PROCESSING: ExitCode.STILL_RUNNING,
}


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli fetch 64cd7965-1b78-42c8-b929-9d7751a2e149\n\n"
    "$ flux-cli fetch --json 64cd7965-1b78-42c8-b929-9d7751a2e149 | jq -r .image_url\n\n"
    "$ flux-cli fetch --exit-status - < ids.txt"
)
@options.expanded
def fetch(
    task_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK_ID...", help="Tasks; - reads ids from stdin.", autocompletion=completion.task_ids
        ),
    ],
    *,
    exit_status: Annotated[
        bool,
        typer.Option(
            "--exit-status",
            help="Exit with 0 if all are finished, 4 if any failed, 8 if any still runs.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    output: OutputOptions,
    service: ServiceOptions,
) -> int:
    """Ask once how tasks stand."""
    from flux_cli.api.status import check_tasks
    from flux_cli.commands import tasks
    from flux_cli.commands.service import choose, connect
    from flux_cli.storage.history import History

    config = load_config(quiet=service.quiet)
    reader = tasks.open_history()
    known = tasks.known(tasks.read_ids(task_ids), reader)
    tasks.check_service(known, service, config)
    history = reader if isinstance(reader, History) else None
    ids = list(known)
    choice = choose(service, config)
    target = None
    if output.output is not None:
        from flux_cli.commands import running

        target = running.target(output, service, config, len(ids))
    with connect(choice) as connected:
        looks = check_tasks(connected.client, ids)
        seen = [_result(task_id, found, known[task_id], history, connected.name) for task_id, found in looks]
        if target is not None:
            seen = _downloaded(seen, target, connected, history, output.original, service.quiet)
    if target is not None and target.stdout:
        for result in seen:
            if result.content is None and result.error is None:
                console.error(f"{result.task_id}: there is no picture yet, the task still runs")
        _print_errors(seen)
        return _picture_code(seen, exit_status)
    _print(seen, json=service.json)
    named = target is not None and target.explicit
    return _picture_code(seen, exit_status) if named else _exit_code(seen, exit_status)


def _result(
    task_id: str, found: Task | FluxError, record: "Record | None", history: "History | None", service: str
) -> "Result":
    """Return what is known of a task, and note it in the history."""
    from flux_cli.engine.job import Result

    request = record.request if record else {}
    if isinstance(found, FluxError):
        status = Status.FAILED if isinstance(found, TaskFailedError) else Status.UNKNOWN
        return Result(
            status, found.exit_code, task_id=task_id, request=request, error=found.message, hint=found.hint
        )
    news = record and record.path is None and record.status is not found.status
    if history and record and news and record.service == service:  # another service may not know the task
        history.observed(task_id, found.status, image_url=found.image_url, error=found.error)
    return Result(
        found.status, EXIT_CODES[found.status], task=found, task_id=task_id, request=request, error=found.error
    )


def _downloaded(
    seen: "list[Result]",
    target: "Target",
    service: "Service",
    history: "History | None",
    original: bool,
    quiet: bool,
) -> "list[Result]":
    """Save the pictures of the finished ones; return all results, in the same order."""
    from flux_cli.engine.events import Ended, Event, NotDeliveredError
    from flux_cli.engine.job import Job, Result
    from flux_cli.engine.run import Plan, Run
    from flux_cli.engine.store import HistoryStore
    from flux_cli.pictures.saving import Saver
    from flux_cli.ui.reporter import reporting

    jobs = []
    for n, result in enumerate(seen, 1):
        if result.status is Status.FINISHED:
            record = history.find(result.task_id or "") if history else None
            number = record.number if record and record.service == service.name else None
            jobs.append(
                Job(target, task_id=result.task_id, recorded=result.request, n=n, number=number, task=result.task)
            )
    results: dict[str | None, Result] = {}
    saver = Saver(service.url, service.client.trace, original=original)
    with reporting(jobs, flags=service.flags, service=service.name, quiet=quiet, prints=False) as reporter:

        def handle(event: Event) -> None:
            if isinstance(event, Ended):
                results[event.job.task_id] = event.result
            try:
                reporter.handle(event)
            except NotDeliveredError as error:
                lost = results[event.job.task_id]
                results[event.job.task_id] = replace(lost, exit_code=error.exit_code, resumable=True)
                raise

        store = HistoryStore(history, service.name) if history else None
        Run(service.client, saver, store, handle, Plan(timeout=DEFAULT_TIMEOUT)).run(jobs)
    return [results.get(result.task_id, result) for result in seen]


def _print(seen: "list[Result]", *, json: bool) -> None:
    if json:
        for result in seen:
            console.out_json(result.as_json())
    else:
        rows = [_row(result) for result in seen if result.task is not None]
        if rows:
            tables.show(("task", "status", "%", "image"), rows, grow=("image",))
    _print_errors(seen)


def _print_errors(seen: "list[Result]") -> None:
    for result in seen:
        if result.error is not None and not result.resumable:  # the others were told of when they ended
            console.error(f"{result.task_id}: {result.error}")
            if result.hint:
                console.hint(result.hint)


def _row(result: "Result") -> tuple[str, str, str, str]:
    task = result.task
    percentage = f"{task.percentage:g}" if task and task.percentage is not None else ""
    return result.task_id or "", result.status.value, percentage, (task.image_url if task else None) or ""


def _picture_code(seen: "list[Result]", exit_status: bool) -> ExitCode:
    """Return the exit code where a picture was asked for: nothing less will do. 8 is for `--exit-status` alone."""
    code = _exit_code(seen, exit_status=True)
    return ExitCode.GAVE_UP_WAITING if code == ExitCode.STILL_RUNNING and not exit_status else code


def _exit_code(seen: "list[Result]", exit_status: bool) -> ExitCode:
    """Return the worst that happened; how the tasks stand counts only where it is asked for."""
    return worst(result.exit_code for result in seen if exit_status or result.task is None or result.resumable)
