"""What `flux-cli batch` does: flags as defaults, the check of all rows, the claim, the run, the summing up."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flux_cli.api.request import DEFAULT_MODEL, Body, flag, violations
from flux_cli.batch.recorder import Recorder
from flux_cli.batch.results_file import ResultsFile
from flux_cli.batch.rows import Checks, Row, rows
from flux_cli.batch.shards import claimed
from flux_cli.batch.sheet import BadRowError, Sheet
from flux_cli.batch.work import Batch, BatchPlan, bodies
from flux_cli.commands.service import Service
from flux_cli.engine.run import Plan, Run
from flux_cli.errors import ExitCode, FluxError, LocalFileError, UsageError, ViolationsError, worst
from flux_cli.options import PictureOptions, RequestOptions, ServiceOptions
from flux_cli.pictures import image_prompt, naming
from flux_cli.pictures.saving import Saver
from flux_cli.storage import config as settings
from flux_cli.storage.history import History
from flux_cli.ui import batch_summary, console
from flux_cli.ui.batch_progress import RowPrinter, batch_observer

PATIENCE_SECONDS = 3600.0
"""How long a row waits in all for a service that asks to slow down, or a network that is gone."""
CREDITS_SECONDS = 5.0
"""How long it may take to learn the credits, which nothing depends on."""


def directory_of(output: str | None, config: settings.Config) -> Path:
    """Return the batch's directory. Raises UsageError for what is not meant as one."""
    if output is None:
        return Path(config.output_dir or ".").expanduser()
    if not output.strip() or output == "-" or "{" in output or "\0" in output:
        raise UsageError("`-o` of a batch takes a directory", "a row names its file in its own `output`")
    return Path(output).expanduser()


def flag_defaults(
    request: RequestOptions, config: settings.Config, file: str, kind: str
) -> tuple[Body, dict[str, Any]]:
    """Return the fields that the flags set for all rows: as they are sent, and as they are kept.

    `kind` is the file's: in a text file the flags alone have to keep the rules.

    Raises:
        ViolationsError: A flag's value cannot be what it has to be.
        LocalFileError, DownloadError: The image prompt cannot be read.
    """
    given, broken = request.given()
    body: Body = {"model": request.model if request.model is not None else config.model or DEFAULT_MODEL, **given}
    recorded: dict[str, Any] = dict(body)
    if request.image_prompt is not None:
        if request.image_prompt == file == "-":
            raise UsageError("FILE and `--image-prompt` cannot both come from stdin")
        image = image_prompt.load(request.image_prompt)
        body["image_prompt"], recorded["image_prompt"] = image.encoded(), image.described()
        broken += filter(None, [image.broken_rule()])
    if broken:
        raise ViolationsError([*broken, *(violations({**body, "prompt": "…"}, flag) if kind == "text" else ())])
    return body, recorded


def check(sheet: Sheet, directory: Path, defaults: Body, *, validate: bool) -> None:
    """Check all rows, and tell of everything that is wrong with any.

    Raises:
        UsageError: Something is, or there are no rows.
    """
    if validate and sheet.kind == "text" and (broken := violations({**defaults, "prompt": "…"}, flag)):
        raise ViolationsError(broken)  # for every row the same, and the flags' alone
    checks = Checks(sheet, directory, defaults, validate=validate)
    bad, line = 0, 0
    for row in rows(sheet):
        errors = [row] if isinstance(row, BadRowError) else list(checks.errors(row))
        for error in errors:
            console.error(error.message)
            bad += error.line != line
            line = error.line
        if isinstance(row, Row):
            console.keep_secret(str(row.fields.get("webhook_secret", "")))
        line = row.line
    if bad:
        raise UsageError(f"nothing was sent: {_rows(bad)} of {sheet.name} cannot be used")
    if not line:
        raise UsageError(f"{sheet.name} has no rows")


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def print_requests(sheet: Sheet, plan: BatchPlan) -> ExitCode:
    """Print each row's request as it would be kept, without secrets, a line each."""
    for row in rows(sheet):
        if isinstance(row, Row) and plan.shard.has(row.position):
            console.out_json(bodies(row, plan)[1])
    return ExitCode.OK


@contextlib.contextmanager
def prepared(sheet: Sheet, plan: BatchPlan) -> Iterator[Batch]:
    """Yield the batch, claimed for this process and seen to be ready.

    Raises:
        LocalFileError: The directory, the history or the results cannot be used, or another process works on it.
    """
    naming.check(naming.Target(plan.directory))
    with claimed(plan.service, Path(plan.name), plan.shard):
        work = Batch(sheet, plan, History(), ResultsFile(plan.directory, plan.service))
        errors = work.survey()
        for error in errors:
            console.error(error.message)
        if errors:
            what = f"nothing was sent: {_rows(len(errors))} of {sheet.name} name files that exist"
            raise LocalFileError(what, "choose other names, or replace the files with --force")
        yield work


def way(service: str, concurrency: int, timeout: float | None) -> Plan:
    """Return how a run goes about the rows: with much patience."""
    return Plan(
        service,
        concurrency=concurrency,
        timeout=timeout,
        patience=PATIENCE_SECONDS,
        picture_patience=PATIENCE_SECONDS,
    )


def run(
    work: Batch, service: Service, saver: Saver, plan: Plan, options: ServiceOptions, *, sidecar: bool
) -> ExitCode:
    """Take the rows to their ends, sum up, and return the exit code that speaks for all of them.

    Raises as `Run.run` does, after the summing up.
    """
    began = time.monotonic()
    before = None if options.quiet else _credits(service)
    after: object = None
    flags = service.flags
    try:
        with batch_observer(work.tally, work.file_name, quiet=options.quiet, flags=flags) as inner:
            printer = RowPrinter(
                inner,
                PictureOptions(sidecar=sidecar),
                json=options.json,
                service=service.name,
                force=work.plan.force,
                quiet=options.quiet,
            )
            recorder = Recorder(printer, work.tally, work.results)
            code = Run(service.client, saver, work.history, recorder, plan).run(work.jobs())
            codes = [printer.exit_code(code), work.tally.exit_code]
        codes += _finish(work, recorder)
        after = None if options.quiet else _credits(service)
    finally:
        if not options.quiet:
            batch_summary.tell(work.tally, time.monotonic() - began, before, after)
        batch_summary.list_open(work.tally, work.file_name, quiet=options.quiet)
    return worst(codes)


def _finish(work: Batch, recorder: Recorder) -> list[ExitCode]:
    """Put the results in order; what is wrong with them is told of, and costs no picture."""
    with contextlib.suppress(LocalFileError):
        work.results.finish()
    if recorder.error is None:
        return []
    console.error(recorder.error.message)
    console.hint("the pictures are saved; a later run adds the lines that are missing")
    return [recorder.error.exit_code]


def _credits(service: Service) -> object:
    """Return the credits that the account has now, None where that cannot be told."""
    try:
        return service.client.account(CREDITS_SECONDS).credits
    except FluxError:
        return None
