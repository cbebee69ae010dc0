"""The steps of `flux-cli batch`: flags as defaults, the check of all rows, the claim, the run and the summary."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flux_cli.api.request import DEFAULT_MODEL, FIELDS, Body, flag, violations
from flux_cli.batch import state
from flux_cli.batch.attempt import Attempt, RowState
from flux_cli.batch.claims import claimed
from flux_cli.batch.plan import BatchPlan, BatchSettings, bodies
from flux_cli.batch.reader import RowFile
from flux_cli.batch.results import ResultsFile
from flux_cli.batch.rows import Row, check, parse
from flux_cli.batch.store import BatchStore
from flux_cli.commands import running
from flux_cli.commands.service import Service
from flux_cli.engine.events import Event
from flux_cli.engine.run import Run
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import ExitCode, LocalFileError, NotAllowedError, UsageError, worst
from flux_cli.options import RequestOptions
from flux_cli.pictures import image_prompt, naming
from flux_cli.pictures.saving import Saver
from flux_cli.storage.config import Config
from flux_cli.storage.filesystem import local_errors
from flux_cli.storage.history import History
from flux_cli.storage.paths import STATE_NAME, expanded
from flux_cli.storage.settings import SEED_RANDOM
from flux_cli.ui import batch_summary, console
from flux_cli.ui.batch_summary import counted
from flux_cli.ui.reporter import batch_reporting

WITHOUT_HISTORY = "the batch continues without the history"
PATIENCE_SECONDS = 3600.0
"""The longest that one row waits for a service that asks to slow down or is unreachable."""
PICTURE_SECONDS = 600.0
"""How long to keep retrying one download; a later run retries it again."""


def directory_of(output: str | None, config: Config) -> Path:
    """Return the batch directory. Raises UsageError for an output that is not a directory."""
    if output is None:
        return expanded(config.output_dir or ".")
    if not output.strip() or output == "-" or "{" in output or "\0" in output:
        raise UsageError("`-o` of a batch takes a directory", "a row names its file in its own `output`")
    return expanded(output)


def flag_defaults(
    request: RequestOptions, config: Config, file: str, format_name: str
) -> tuple[Body, Mapping[str, object] | None]:
    """Return the fields that the flags set for all rows, and what is recorded of the image prompt.

    For a text file the flags are checked against all rules, since its rows add only a prompt.

    Raises:
        UsageError: The value of a flag is invalid.
        LocalFileError, DownloadError: The image prompt cannot be read.
    """
    given, broken = request.given()
    body: Body = {"model": request.model if request.model is not None else config.model or DEFAULT_MODEL, **given}
    image = None
    if request.image_prompt is not None:
        if request.image_prompt == file == "-":
            raise UsageError("FILE and `--image-prompt` cannot both come from stdin")
        image = image_prompt.load(request.image_prompt)
        body["image_prompt"] = image.encoded()
        broken += filter(None, [image.violation()])
    if broken:
        rules = violations({**body, "prompt": "…"}, flag) if format_name == "text" else ()
        raise UsageError([*broken, *rules])
    return body, image.described() if image else None


def checked_rows(
    file: RowFile, settings: BatchSettings, config: Config, *, validate: bool, ignore_unknown: bool
) -> list[Row]:
    """Parse and check the rows of a shard, print all errors, and return the rows.

    Raises:
        UsageError: There are errors, or no rows.
    """
    defaults, directory = settings.defaults, settings.directory
    if validate and file.format == "text" and (broken := violations({**defaults, "prompt": "…"}, flag)):
        raise UsageError(broken)  # the same for every row, and caused by the flags
    rows, errors = parse(file, settings.shard, directory, ignore_unknown=ignore_unknown)
    rows = [_with_config_defaults(row, defaults, config) for row in rows]
    for row in rows:
        console.keep_secret(str(row.fields.get("webhook_secret", "")))
        messages = check(row, directory, defaults, validate=validate)
        errors += [file.error(row.line, message) for message in messages]
    for error in sorted(errors, key=lambda error: error.line):
        console.error(error.message)
    if errors:
        bad = len({error.line for error in errors})
        raise UsageError(f"nothing was sent: {counted(bad, 'row')} of {file.name} cannot be used")
    if not file.rows:
        raise UsageError(f"{file.name} has no rows")
    return rows


def _with_config_defaults(row: Row, flags: Body, config: Config) -> Row:
    """Return a row with the config file's defaults for its model, which the flags and the row override."""
    fields = {**flags, **row.fields}
    added = {
        name: value
        for name, value in config.defaults_for(str(fields["model"])).items()
        if name in FIELDS and name not in fields and value != SEED_RANDOM  # a later run would get another seed
    }
    if "image_prompt" not in {**fields, **added}:
        added.pop("image_prompt_strength", None)
    return replace(row, fields={**added, **row.fields}) if added else row


def print_requests(rows: Sequence[Row], settings: BatchSettings) -> ExitCode:
    """Print the request of each row as it would be recorded, without secrets, one per line."""
    for row in rows:
        console.out_json(bodies(row, settings)[1])
    return ExitCode.OK


@contextlib.contextmanager
def prepared(rows: Sequence[Row], settings: BatchSettings, service: str) -> Iterator[tuple[BatchPlan, BatchStore]]:
    """Claim the rows; yield what the run does with them, and where it records its changes.

    Raises:
        LocalFileError: The directory cannot be used, or another run has claimed the rows.
    """
    naming.check(naming.Target(settings.directory))
    directory = settings.directory / STATE_NAME
    is_old = ResultsFile(settings.directory).path.exists() and not directory.exists()
    history = _history(required=is_old)
    with local_errors(directory):
        directory.mkdir(exist_ok=True)
    with claimed(directory, service, settings.shard) as claim:
        known = state.load(settings.directory, service, rows, settings.name, history)
        if known.history_error is not None:
            console.warning(f"{WITHOUT_HISTORY}: {known.history_error.message}")
        if history is not None:
            _record(known.attempts, history, service, settings.name)
        plan = BatchPlan(rows, settings, known.attempts)
        _check_names(plan)
        recorder = None if history is None else HistoryStore(history, service)
        store = BatchStore(settings.directory, service, known.next_run, claim, recorder)
        store.add_results(known.missing)
        try:
            yield plan, store
        finally:
            store.close()
            if store.results_error is not None:
                console.error(store.results_error.message)
                console.hint("the pictures are saved; a later run adds the missing lines")
            if store.history.error is not None:
                console.warning(f"the history lacks rows of this batch: {store.history.error.message}")
            if plan.counts.ended == plan.counts.total:
                with contextlib.suppress(LocalFileError):
                    state.compact(settings.directory, claim, store)
            if history is not None:
                history.close()


def _history(*, required: bool) -> History | None:
    """Open the history. It is required to resume a batch of version 0.1.0, which has no journals."""
    try:
        return History()
    except LocalFileError as error:
        if required:
            raise
        console.warning(f"{WITHOUT_HISTORY}: {error.message}")
        return None


def _record(attempts: Mapping[str, Attempt], history: History, service: str, batch: str) -> None:
    """Record submitted tasks that this history does not have: those of other hosts."""
    with contextlib.suppress(LocalFileError):  # the rows are in the batch directory
        running = {row: attempt for row, attempt in attempts.items() if attempt.state is RowState.SUBMITTED}
        for row, attempt in running.copy().items():
            if any(record.service == service for record in history.of_task(attempt.task_id or "")):
                del running[row]
        if running:
            with history.transaction():
                for row, attempt in running.items():
                    (number,) = history.begin(service, [attempt.request or {}], batch, [row])
                    history.accepted(number, attempt.task_id or "")


def _check_names(plan: BatchPlan) -> None:
    """Raise LocalFileError if the `output` of a row to submit is an existing file."""
    file_name = plan.settings.file_name
    errors = [f"{file_name}:{row.line}: {path} exists" for row, path in plan.occupied()]
    for error in errors:
        console.error(error)
    if errors:
        what = f"nothing was sent: {counted(len(errors), 'row')} of {file_name} name files that exist"
        raise LocalFileError(what, "choose other names, or replace the files with --force")


def run(
    plan: BatchPlan,
    store: BatchStore,
    service: Service,
    saver: Saver,
    *,
    json: bool,
    concurrency: int,
    timeout: float | None,
    sidecar: bool,
) -> ExitCode:
    """Run the batch, print the summary, and return the worst exit code.

    Raises as `Run.run` does, after the summary.
    """
    started = time.monotonic()
    counts, settings = plan.counts, plan.settings
    running.mention_sandbox(service)
    before = after = rejection = None
    if not console.quiet:  # which saves two requests
        try:
            before = running.credits_left(service)
            running.announce_cost(plan.submissions, service, lambda _: before)
        except NotAllowedError as error:
            rejection = error
    failed_before = counts.failed
    try:
        with batch_reporting(
            counts, settings.file_name, service=service.name, json=json, force=settings.force, sidecar=sidecar
        ) as reporter:

            def handle(event: Event) -> None:
                counts.handle(event)
                reporter.handle(event)

            run_settings = RunSettings(
                timeout=timeout,
                concurrency=concurrency,
                patience=PATIENCE_SECONDS,
                picture_patience=PICTURE_SECONDS,
                stop_reason=rejection,
            )
            code = Run(service.client, saver, store, handle, run_settings).run(plan.jobs())
        if not console.quiet and rejection is None:
            with contextlib.suppress(NotAllowedError):
                after = running.credits_left(service)
    finally:
        batch_summary.print_counts(counts, time.monotonic() - started, before, after)
        batch_summary.print_unresolved(counts, settings.file_name, failed_before)
    failed = store.results_error
    return worst([reporter.exit_code(code), *counts.codes, failed.exit_code if failed else ExitCode.OK])
