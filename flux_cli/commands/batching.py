"""The steps of `flux-cli batch`: flags as defaults, the check of all rows, the claim, the run and the summary."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux_cli.api.request import DEFAULT_MODEL, FIELDS, Body, flag, violations
from flux_cli.batch import rows as batch_rows
from flux_cli.batch.plan import Known, Plan, Settings, State, bodies, state_of
from flux_cli.batch.reader import RowFile
from flux_cli.batch.recorder import Recorder, as_json
from flux_cli.batch.results_file import ResultsFile
from flux_cli.batch.rows import Checks, Row
from flux_cli.batch.shards import Shard, claimed
from flux_cli.commands.service import Service
from flux_cli.engine import run as engine
from flux_cli.engine.observers import handler
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import ExitCode, FluxError, LocalFileError, UsageError, ViolationsError, worst
from flux_cli.options import PictureOptions, RequestOptions, ServiceOptions
from flux_cli.pictures import image_prompt, naming
from flux_cli.pictures.saving import Saver
from flux_cli.storage.config import Config
from flux_cli.storage.history import History
from flux_cli.storage.settings import SEED_RANDOM
from flux_cli.ui import batch_summary, console
from flux_cli.ui.batch_progress import RowPrinter, batch_observer

PATIENCE_SECONDS = 3600.0
"""The longest that one row waits for a service that asks to slow down, or that cannot be reached."""
PICTURE_SECONDS = 600.0
"""How long one picture is tried for; a later run tries again."""
CREDITS_SECONDS = 5.0
"""The timeout for fetching the credits, which are only displayed."""


def directory_of(output: str | None, config: Config) -> Path:
    """Return the batch directory. Raises UsageError for an output that is no directory."""
    if output is None:
        return Path(config.output_dir or ".").expanduser()
    if not output.strip() or output == "-" or "{" in output or "\0" in output:
        raise UsageError("`-o` of a batch takes a directory", "a row names its file in its own `output`")
    return Path(output).expanduser()


def flag_defaults(
    request: RequestOptions, config: Config, file: str, format_name: str
) -> tuple[Body, dict[str, Any]]:
    """Return the fields that the flags set for all rows: as they are sent, and as they are recorded.

    In a text file the flags alone have to follow the rules.

    Raises:
        ViolationsError: The value of a flag is invalid.
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
        broken += filter(None, [image.violation()])
    if broken:
        rules = violations({**body, "prompt": "…"}, flag) if format_name == "text" else ()
        raise ViolationsError([*broken, *rules])
    return body, recorded


def checked_rows(
    file: RowFile,
    shard: Shard,
    directory: Path,
    defaults: Body,
    config: Config,
    *,
    validate: bool,
    ignore_unknown: bool,
) -> list[Row]:
    """Parse and check the rows of a shard, report everything that is wrong, and return them.

    Raises:
        UsageError: Something is wrong, or there are no rows.
    """
    if validate and file.format == "text" and (broken := violations({**defaults, "prompt": "…"}, flag)):
        raise ViolationsError(broken)  # the same for every row, and caused by the flags
    found, errors = batch_rows.parse(file, shard, directory, ignore_unknown=ignore_unknown)
    found = [_with_config_defaults(row, defaults, config) for row in found]
    checks = Checks(file, directory, defaults, validate=validate)
    for row in found:
        console.keep_secret(str(row.fields.get("webhook_secret", "")))
        errors += checks.errors(row)
    for error in sorted(errors, key=lambda error: error.line):
        console.error(error.message)
    if errors:
        bad = len({error.line for error in errors})
        raise UsageError(f"nothing was sent: {_rows(bad)} of {file.name} cannot be used")
    if not file.lines:
        raise UsageError(f"{file.name} has no rows")
    return found


def _with_config_defaults(row: Row, flags: Body, config: Config) -> Row:
    """Return a row with the config file's defaults for its model, which flags and its own fields override."""
    fields = {**flags, **row.fields}
    added = {
        name: value
        for name, value in config.defaults_for(str(fields["model"])).items()
        if name in FIELDS and name not in fields and value != SEED_RANDOM  # a later run would see another seed
    }
    if "image_prompt" not in {**fields, **added}:
        added.pop("image_prompt_strength", None)
    return replace(row, fields={**added, **row.fields}) if added else row


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def print_requests(rows: Sequence[Row], plan: Settings) -> ExitCode:
    """Print the request of each row as it would be recorded, without secrets, one per line."""
    for row in rows:
        console.out_json(bodies(row, plan)[1])
    return ExitCode.OK


@contextlib.contextmanager
def prepared(rows: Sequence[Row], file_name: str, wanted: Settings) -> Iterator[tuple[Plan, History, ResultsFile]]:
    """Claim the rows, and yield the plan for them.

    Raises:
        LocalFileError: The directory, the history or the results cannot be used, or another process has the rows.
    """
    naming.check(naming.Target(wanted.directory))
    with claimed(wanted.service, Path(wanted.name), wanted.shard):
        history, results = History(), ResultsFile(wanted.directory, wanted.service)
        plan = Plan(rows, wanted, _known(rows, wanted, history, results))
        errors = [f"{file_name}:{row.line}: {path} exists" for row, path in plan.occupied()]
        for error in errors:
            console.error(error)
        if errors:
            what = f"nothing was sent: {_rows(len(errors))} of {file_name} name files that exist"
            raise LocalFileError(what, "choose other names, or replace the files with --force")
        yield plan, history, results


def _known(rows: Sequence[Row], wanted: Settings, history: History, results: ResultsFile) -> Mapping[str, Known]:
    """Return what the history and the results know of the rows, and add lines that the results lack."""
    known = {}
    for row in rows:
        record = history.newest_of_row(wanted.service, wanted.name, row.key)
        told = results.status_of(row.key)
        if record is not None:
            state = state_of(record.status, record.task_id, record.path, record.exit_code)
            known[row.key] = Known(
                state,
                record.task_id,
                record.request,
                record.path,
                record.exit_code,
                record.age,
                record.number,
            )
            if state in (State.DONE, State.FAILED, State.UNKNOWN) and told is not record.status:
                results.add(row.key, row.line, as_json(record))
        if told is not None and (row.key not in known or known[row.key].state is State.NEW):
            known[row.key] = Known(state_of(told, "somewhere", "-", None))
    return known


def run_plan(concurrency: int, timeout: float | None) -> engine.Plan:
    """Return the plan of the engine's run: with much patience."""
    return engine.Plan(
        concurrency=concurrency,
        timeout=timeout,
        patience=PATIENCE_SECONDS,
        picture_patience=PICTURE_SECONDS,
    )


def run(
    plan: Plan,
    file_name: str,
    history: History,
    results: ResultsFile,
    service: Service,
    saver: Saver,
    way: engine.Plan,
    options: ServiceOptions,
    *,
    sidecar: bool,
) -> ExitCode:
    """Take the rows to their ends, print the summary, and return the exit code of all of them.

    Raises as `Run.run` does, after the summary.
    """
    started = time.monotonic()
    before = None if options.quiet else _credits(service)
    after: object = None
    counts = plan.counts
    try:
        with batch_observer(counts, file_name, quiet=options.quiet, flags=service.flags) as inner:
            printer = RowPrinter(
                inner,
                PictureOptions(sidecar=sidecar),
                json=options.json,
                service=service.name,
                force=plan.settings.force,
                quiet=options.quiet,
            )
            recorder = Recorder(printer, counts, results)
            store = HistoryStore(history, service.name)
            code = engine.Run(service.client, saver, store, handler(recorder), way).run(plan.jobs())
            codes = [printer.exit_code(code), counts.exit_code]
        codes += _finish(results, recorder)
        after = None if options.quiet else _credits(service)
    finally:
        if not options.quiet:
            batch_summary.print_counts(counts, time.monotonic() - started, before, after)
        batch_summary.list_open(counts, file_name, quiet=options.quiet)
    return worst(codes)


def _finish(results: ResultsFile, recorder: Recorder) -> list[ExitCode]:
    """Put the results in order. An error is reported, and costs no picture."""
    with contextlib.suppress(LocalFileError):
        results.finish()
    if recorder.error is None:
        return []
    console.error(recorder.error.message)
    console.hint("the pictures are saved; a later run adds the missing lines")
    return [recorder.error.exit_code]


def _credits(service: Service) -> object:
    """Return the credits of the account, or None if they cannot be fetched."""
    try:
        return service.client.account(CREDITS_SECONDS).credits
    except FluxError:
        return None
