"""`flux-cli wait`: wait for submitted tasks, and download their pictures."""

from typing import Annotated

import typer

from flux_cli import options
from flux_cli.commands import load_config
from flux_cli.errors import ExitCode
from flux_cli.options import OutputOptions, PictureOptions, ServiceOptions

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli wait --last\n\n"
    "$ flux-cli wait 64cd7965 -o sunflowers.png\n\n"
    '$ flux-cli imagine --no-wait "a red kite" | flux-cli wait -'
)
@options.expanded
def wait(
    task_ids: options.TaskIds = None,
    *,
    last: Annotated[
        bool,
        typer.Option("--last", help="The newest task that is not saved.", rich_help_panel=options.TASKS),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every task that is not saved.", rich_help_panel=options.TASKS)
    ] = False,
    first: Annotated[
        bool,
        typer.Option("--any", help="Stop after the first picture.", rich_help_panel=options.WAITING),
    ] = False,
    timeout: options.Timeout = None,
    output: OutputOptions,
    pictures: PictureOptions,
    service: ServiceOptions,
) -> int:
    """Wait for tasks, and save their pictures."""
    from flux_cli.commands import running, selection
    from flux_cli.commands.service import connect
    from flux_cli.engine.job import Job
    from flux_cli.engine.settings import RunSettings
    from flux_cli.storage.history import History
    from flux_cli.ui import saved

    config = load_config()
    limit = options.timeout_seconds(timeout if timeout is not None else config.defaults.get("timeout"))
    if output.output != "-":
        pictures = pictures.with_default(sidecar=bool(config.defaults.get("sidecar")))
    history, choice, records = selection.selected(task_ids, service, config, last=last, every=every, saved=False)
    if not records:
        return ExitCode.OK
    target = output.target(service, config, len(records))
    saved.check(pictures, target)
    numbers = selection.record_numbers(records, history, choice.name)
    jobs = [
        Job(
            target,
            task_id=task_id,
            n=n,
            recorded=record.request if record else {},
            number=numbers[task_id],
            age=record.age if record else None,
        )
        for n, (task_id, record) in enumerate(reversed(records.items()) if every else records.items(), 1)
    ]
    with connect(choice) as connected:
        settings = RunSettings(
            timeout=options.DEFAULT_TIMEOUT if limit == 0 else limit,
            check_once=limit == 0,
            first_only=first,
            concurrency=max(16, len(jobs)),
        )
        store = history if isinstance(history, History) else None
        return running.run_jobs(jobs, connected, store, service, output, settings, pictures)
