"""`flux-cli wait`: wait for tasks that exist, and download their pictures."""

from typing import Annotated

import typer

from flux_cli import completion, options
from flux_cli.errors import UsageError
from flux_cli.options import OutputOptions, PictureOptions, ServiceOptions
from flux_cli.storage import config as settings

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli wait --last\n\n"
    "$ flux-cli wait 64cd7965-1b78-42c8-b929-9d7751a2e149 -o sunflowers.png\n\n"
    '$ flux-cli imagine --no-wait "a red kite" | flux-cli wait -'
)
@options.expanded
def wait(
    task_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK_ID]...", help="Tasks; - reads ids from stdin.", autocompletion=completion.task_ids
        ),
    ] = None,
    *,
    last: Annotated[
        bool,
        typer.Option("--last", help="The newest task that is not saved yet.", rich_help_panel=options.WAITING),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every task that is not saved yet.", rich_help_panel=options.WAITING)
    ] = False,
    timeout: options.Timeout = None,
    output: OutputOptions,
    pictures: PictureOptions,
    service: ServiceOptions,
) -> int:
    """Wait for tasks to end, and save their pictures."""
    from flux_cli.commands import connecting, running
    from flux_cli.engine.job import Job
    from flux_cli.engine.run import Plan
    from flux_cli.storage.history import History
    from flux_cli.storage.record import Record
    from flux_cli.ui import pictures as after

    limit = running.timeout_seconds(timeout)
    config = settings.load()
    if (last or every) and (task_ids or (last and every)):
        raise UsageError("give task ids, or `--last`, or `--all`")
    history: History | None
    if last or every:
        choice = connecting.chosen(service, config)
        history = History()
        known: dict[str, Record | None] = {
            record.task_id: record
            for record in history.unsaved(choice.name, 1 if last else None)
            if record.task_id
        }
        if not known:
            raise UsageError("there is no task that is not saved yet", "see `flux-cli history`")
    else:
        ids = connecting.task_ids(task_ids or [])
        history = connecting.existing_history()
        known = connecting.records(ids, history, service, config)
        choice = connecting.chosen(service, config)
    target = running.target(output, service, config, len(known))
    after.check(pictures, target)
    jobs = [
        Job(
            target,
            task_id=task_id,
            n=n,
            recorded=record.request if record else {},
            number=record.number if record and record.service == choice.name else None,
            age=record.age if record else None,
        )
        for n, (task_id, record) in enumerate(known.items(), 1)
    ]
    with connecting.opened(service, config) as connected:
        plan = Plan(connected.name, timeout=limit, concurrency=max(16, len(jobs)))
        return running.take_to_end(jobs, connected, history, service, output, plan, pictures)
