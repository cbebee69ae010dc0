"""`flux-cli batch`: many generations from a file, taken up again wherever a run has ended."""

import sys
from typing import Annotated

import typer

from flux_cli import completion, options
from flux_cli.options import RequestOptions, ServiceOptions
from flux_cli.storage import config as settings

app = typer.Typer(add_completion=False)

ROWS = "Rows"


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli batch prompts.txt -o pictures --sandbox\n\n"
    "$ flux-cli batch rows.csv -o pictures --model flux-dev --width 512 --height 512\n\n"
    "$ jq -c '{prompt: .title, id: .sku}' products.jsonl | flux-cli batch - -o pictures --json\n\n"
    "$ parallel flux-cli batch rows.jsonl -o pictures --shard {}/4 ::: 1 2 3 4"
)
@options.expanded
def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines, CSV with a header, or text with a prompt a line; - reads stdin.",
            autocompletion=completion.files,
        ),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            autocompletion=completion.directories,
            help="The directory for the pictures and results.jsonl; the batch is recognised by it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            min=1,
            max=1000,
            metavar="N",
            help="The most tasks in flight; fewer where the service asks to slow down.",
            rich_help_panel=options.WAITING,
        ),
    ] = 16,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Send rows again whose tasks failed in an earlier run.", rich_help_panel=ROWS
        ),
    ] = False,
    retry_unknown: Annotated[
        bool,
        typer.Option(
            "--retry-unknown",
            help="Send rows again of which it is not known whether they arrived; they may be billed twice.",
            rich_help_panel=ROWS,
        ),
    ] = False,
    max_tasks: Annotated[
        int | None,
        typer.Option("--max-tasks", min=0, metavar="N", help="Submit no more than N.", rich_help_panel=ROWS),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            "--shard",
            metavar="K/N",
            help="Only every N-th row from the K-th on: the same rows on every machine.",
            rich_help_panel=ROWS,
        ),
    ] = "1/1",
    request: RequestOptions,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace files that exist.", rich_help_panel=options.OUTPUT)
    ] = False,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Save the original images too, where there are any.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    sidecar: Annotated[
        bool,
        typer.Option(
            "--sidecar",
            help="Write what made each picture beside it, as PICTURE.json for --like.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Stop after this time: seconds, or 90s, 10m, 1h. Default: never.",
            rich_help_panel=options.WAITING,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check all rows, print the requests and send nothing.", rich_help_panel=ROWS
        ),
    ] = False,
    no_validate: Annotated[
        bool,
        typer.Option(
            "--no-validate",
            help="Send what the local rules would refuse, for models newer than this program.",
            rich_help_panel=ROWS,
        ),
    ] = False,
    service: ServiceOptions,
) -> int:
    """Generate many pictures from a file; run it again to resume.

    A row gives the request's fields by their names, such as prompt, model and width, and two of its own: id, by
    which it is recognised in later runs, and output, the name of its picture's file. A row without an id is
    recognised by what it holds, so rows can be added and moved. Flags hold for rows that do not say otherwise.
    Blank lines are skipped; in a text file every other line is a prompt, whatever it begins with.

    All rows are checked before the first is sent. A later run of the same FILE and DIR skips the rows that are
    finished, waits for the ones that were submitted, and submits the rest.
    """
    from flux_cli.batch import sheet
    from flux_cli.batch.shards import Shard
    from flux_cli.batch.work import BatchPlan
    from flux_cli.commands import batching, connecting, running
    from flux_cli.pictures.saving import Saver

    config = settings.load()
    limit = running.timeout_seconds(timeout, default=None)
    rows_wanted = Shard.parse(shard)
    directory = batching.directory_of(output, config)
    with sheet.opened(file, sys.stdin.buffer) as opened:
        defaults, recorded = batching.flag_defaults(request, config, file, opened.kind)
        batching.check(opened, directory, defaults, validate=not no_validate)
        choice = None if dry_run else connecting.chosen(service, config)
        plan = BatchPlan(
            service=choice.name if choice else "",
            directory=directory,
            name=str(directory.resolve()),
            defaults=defaults,
            recorded=recorded,
            secret=request.webhook_secret or config.webhook_secret,
            shard=rows_wanted,
            retry_failed=retry_failed,
            retry_unknown=retry_unknown,
            max_tasks=max_tasks,
            force=force,
        )
        if dry_run:
            return batching.print_requests(opened, plan)
        with batching.prepared(opened, plan) as work, connecting.opened(service, config, plan.secret) as connected:
            way = batching.way(connected.name, concurrency, limit)
            saver = Saver(connected.url, connected.client.trace, original=original)
            return batching.run(work, connected, saver, way, service, sidecar=sidecar)
