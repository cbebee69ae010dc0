"""`flux-cli batch`: generate many pictures from a file, resumable at any point."""

import sys
from functools import partial
from typing import Annotated

import typer

from flux_cli import completion, options
from flux_cli.commands import SUMMARIES, load_config
from flux_cli.options import RequestOptions, ServiceOptions

app = typer.Typer(add_completion=False)

_row_option = partial(typer.Option, rich_help_panel="Rows")
DETAILS = """\
A row sets fields of the request by name, such as prompt, model and width. It can also set id, by which later
runs recognise it, and output, the name of its picture. A row without an id is recognised by its content, so rows
can be added and moved. Flags apply to rows that do not set the field. Blank lines are skipped. In a text file
each line is one prompt.

All rows are checked before the first one is sent. A later run with the same FILE and DIR skips finished rows,
waits for submitted ones, and submits the rest. DIR contains everything that a later run needs, so it can be
moved, and the batch can be resumed on another machine or with other shards.\
"""


@app.command(
    help=f"{SUMMARIES['batch']}\n\n{DETAILS}",
    epilog="Examples:\n\n"
    "$ flux-cli batch prompts.txt -o pictures --sandbox\n\n"
    "$ flux-cli batch rows.csv -o pictures --model flux-dev --width 512 --height 512\n\n"
    "$ jq -c '{prompt: .title, id: .sku}' products.jsonl | flux-cli batch - -o pictures --json\n\n"
    "$ parallel flux-cli batch rows.jsonl -o pictures --shard {}/4 ::: 1 2 3 4",
)
@options.expanded
def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines, CSV or TSV with a header, or text with one prompt per line; - reads stdin.",
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
            help="The directory for the pictures and results.jsonl; it identifies the batch. "
            "Default: output_dir of the config, or the current directory.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        _row_option(
            "--format",
            metavar="FORMAT",
            help="The format of FILE: jsonl, csv, tsv or text. Default: from its extension.",
        ),
    ] = None,
    ignore_unknown_columns: Annotated[
        bool, _row_option("--ignore-unknown-columns", help="Ignore columns that do not exist, such as notes.")
    ] = False,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            parser=options.integer(1, 1000),
            metavar="N",
            help="The most tasks in flight, from 1 to 1000; fewer if the service asks to slow down.",
            rich_help_panel=options.WAITING,
        ),
    ] = 16,
    retry_failed: Annotated[
        bool, _row_option("--retry-failed", help="Resubmit rows whose tasks failed in an earlier run.")
    ] = False,
    retry_unknown: Annotated[
        bool,
        _row_option("--retry-unknown", help="Resubmit rows whose outcome is unknown (may charge twice)."),
    ] = False,
    refetch: Annotated[
        bool,
        _row_option("--refetch", help="Download missing pictures of finished rows again, free of charge."),
    ] = False,
    max_tasks: Annotated[
        int | None,
        _row_option("--max-tasks", parser=options.integer(0), metavar="N", help="Submit at most N rows."),
    ] = None,
    shard: Annotated[
        str,
        _row_option(
            "--shard",
            metavar="K/N",
            help="Only every N-th row, starting with the K-th. Other shards may run at the same time.",
        ),
    ] = "1/1",
    request: RequestOptions,
    force: options.Force = False,
    original: options.Original = False,
    sidecar: options.Sidecar = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Stop after this time: seconds, or 90s, 10m, 1h. Default: never.",
            rich_help_panel=options.WAITING,
        ),
    ] = None,
    dry_run: options.DryRun = False,
    no_validate: options.NoValidate = False,
    service: ServiceOptions,
) -> int:
    """Check all rows, then run them."""
    from flux_cli.batch import reader
    from flux_cli.batch.plan import BatchSettings
    from flux_cli.batch.shards import Shard
    from flux_cli.commands import batching
    from flux_cli.commands.service import choose, connect
    from flux_cli.pictures.saving import Saver

    config = load_config()
    limit = options.timeout_seconds(timeout, default=None)
    own_rows = Shard.parse(shard)
    directory = batching.directory_of(output, config)
    rows_file = reader.read(file, sys.stdin.buffer, format_name)
    defaults, image_prompt = batching.flag_defaults(request, config, file, rows_file.format)
    settings = BatchSettings(
        directory=directory,
        file_name=rows_file.name,
        defaults=defaults,
        image_prompt=image_prompt,
        secret=request.webhook_secret or config.webhook_secret,
        random_seeds=request.has_random_seed,
        shard=own_rows,
        retry_failed=retry_failed,
        retry_unknown=retry_unknown,
        refetch=refetch,
        max_tasks=max_tasks,
        force=force,
    )
    rows = batching.checked_rows(
        rows_file, settings, config, validate=not no_validate, ignore_unknown=ignore_unknown_columns
    )
    if dry_run:
        return batching.print_requests(rows, settings)
    choice = choose(service, config)
    with (
        batching.prepared(rows, settings, choice.name) as (plan, store),
        connect(choice, settings.secret) as connected,
    ):
        return batching.run(
            plan,
            store,
            connected,
            Saver(connected.url, connected.client.trace, original=original),
            json=service.json,
            concurrency=concurrency,
            timeout=limit,
            sidecar=bool(config.defaults.get("sidecar")) if sidecar is None else sidecar,
        )
