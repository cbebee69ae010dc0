"""What a run does with each row of a batch, and the counts of the outcomes."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from flux_cli.api.request import Body, random_seed
from flux_cli.api.task import Status
from flux_cli.batch.rows import Row, target_for
from flux_cli.batch.shards import Shard
from flux_cli.engine.events import Ended, Event, Submitted
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode, worst
from flux_cli.pictures import image_prompt
from flux_cli.storage.filesystem import local_errors
from flux_cli.storage.record import STDOUT


class RowState(Enum):
    """The state of a row, which decides what a run does with it."""

    NEW = auto()
    """None of its submissions was accepted: submit it."""
    SUBMITTED = auto()
    """It is charged and its picture is not saved: wait for it."""
    DONE = auto()
    FAILED = auto()
    """Its task failed, or the service rejected the request: resubmit it only on request."""
    UNKNOWN = auto()
    """It was sent and got no usable response: resubmit it only on request."""


def state_of(status: Status, task_id: str | None, path: object, exit_code: int | None) -> RowState:
    """Return the state of a row after its last submission.

    A submission that was rejected because of the key, the credits or the rate limit leaves the row new.
    """
    if status is Status.UNKNOWN:
        return RowState.UNKNOWN
    if status is Status.UNSENT:
        return RowState.NEW
    if status is Status.FAILED:
        return RowState.FAILED if task_id or exit_code == ExitCode.USAGE else RowState.NEW
    return RowState.DONE if status is Status.FINISHED and path else RowState.SUBMITTED


@dataclass(frozen=True)
class KnownRow:
    """What is known about a row from earlier runs.

    Attributes:
        state: Its state.
        task_id: The ID of its task, or None.
        request: The request that was sent, without secrets, or None if that is not known.
        path: Where the picture was saved, or None.
        exit_code: The exit code of a row that failed, or None.
        age: Seconds since its submission, or None.
        number: The number of its record in the history, or None.
    """

    state: RowState
    task_id: str | None = None
    request: Mapping[str, object] | None = None
    path: str | None = None
    exit_code: int | None = None
    age: float | None = None
    number: int | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How a run treats the rows.

    Attributes:
        service: The name of the service in the history.
        directory: Where the pictures go.
        name: The name of the batch in the history: the directory as an absolute path.
        defaults: The fields of rows that do not set them, as they are sent.
        recorded: These fields as they are recorded.
        secret: The webhook secret of rows that do not set one.
        random_seeds: Whether rows that set no seed get a random one each.
        shard: The rows of this run.
        retry_failed, retry_unknown: Whether such rows are resubmitted.
        refetch: Whether missing pictures are downloaded again.
        max_tasks: The most submissions, or None.
        force: Whether existing files may be replaced.
    """

    service: str
    directory: Path
    name: str
    defaults: Body
    recorded: Mapping[str, object]
    secret: str | None = None
    random_seeds: bool = False
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    retry_unknown: bool = False
    refetch: bool = False
    max_tasks: int | None = None
    force: bool = False


@dataclass(frozen=True)
class UnresolvedRow:
    """A row that failed or has an unknown outcome: its key, its line in the file, and its exit code."""

    key: str
    line: int
    exit_code: ExitCode


@dataclass
class RowCounts:
    """How many rows have which state.

    Attributes:
        total: All rows of this run's shard.
        done_before: Finished by earlier runs. For `changed` of them the file or the flags now have other values;
            the pictures of `missing` of them no longer exist.
        running: Tasks that are charged and have not ended.
        done: Finished by this run.
        left: Tasks that are still running when this run ends.
        not_saved: Finished tasks whose pictures could not be saved; a later run tries again.
        failed_rows, unknown_rows: The rows with these states, from this run or before.
    """

    total: int = 0
    done_before: int = 0
    changed: int = 0
    missing: int = 0
    running: int = 0
    done: int = 0
    left: int = 0
    not_saved: int = 0
    failed_rows: list[UnresolvedRow] = field(default_factory=list)
    unknown_rows: list[UnresolvedRow] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Rows whose task failed, or whose request was rejected."""
        return len(self.failed_rows)

    @property
    def unknown(self) -> int:
        """Rows whose outcome is unknown."""
        return len(self.unknown_rows)

    @property
    def ended(self) -> int:
        """Rows that need nothing more."""
        return self.done_before + self.done + self.failed + self.unknown

    @property
    def not_sent(self) -> int:
        """Rows that have no accepted submission yet."""
        return self.total - self.ended - self.left - self.not_saved - self.running

    @property
    def exit_code(self) -> ExitCode:
        """The worst exit code of the failed and unknown rows."""
        return worst(row.exit_code for row in (*self.failed_rows, *self.unknown_rows))

    def handle(self, event: Event) -> None:
        """Update the counts."""
        if isinstance(event, Submitted):
            self.running += 1
        elif isinstance(event, Ended):
            self.running -= event.job.task_id is not None
            self._count(event.job, event.result)

    def _count(self, job: Job, result: Result) -> None:
        state = state_of(result.status, result.task_id, result.path, result.exit_code)
        row = UnresolvedRow(job.row or "", job.line or 0, result.exit_code)
        if state is RowState.DONE:
            self.done += 1
        elif state is RowState.FAILED:
            self.failed_rows.append(row)
        elif state is RowState.UNKNOWN:
            self.unknown_rows.append(row)
        elif state is RowState.SUBMITTED and result.status is Status.FINISHED:
            self.not_saved += 1
        elif state is RowState.SUBMITTED:
            self.left += 1


class BatchPlan:
    """What a run does with the rows of a batch.

    Attributes:
        settings: How the rows are treated.
        counts: The counts, which include the rows that need nothing more.
        submissions: How many rows will be submitted.
    """

    def __init__(self, rows: Iterable[Row], settings: BatchSettings, known: Mapping[str, KnownRow]) -> None:
        self.settings = settings
        self.counts = RowCounts()
        self._steps: list[tuple[Row, KnownRow | None]] = []
        new = 0
        for row in rows:
            self.counts.total += 1
            record = known.get(row.key)
            state = self._state(record)
            if state is RowState.NEW:
                new += 1
                if settings.max_tasks is None or new <= settings.max_tasks:
                    self._steps.append((row, None))
            elif state is RowState.SUBMITTED:
                self.counts.running += 1
                self._steps.append((row, record))
            elif record is not None:
                self._count_before(row, record)
        self.submissions = new if settings.max_tasks is None else min(new, settings.max_tasks)

    def occupied(self) -> Iterator[tuple[Row, Path]]:
        """Yield each row to submit whose `output` names an existing file, and the path of this file.

        Raises:
            LocalFileError: A directory cannot be read.
        """
        for row, record in self._steps:
            if record is None and row.output is not None and not self.settings.force:
                target = target_for(row, self.settings.directory, force=False)
                path = target.directory / target.template
                with local_errors(path):
                    if target.explicit and os.path.lexists(path):
                        yield row, path

    def jobs(self) -> Iterator[Job]:
        """Yield a job for each row to submit or to wait for, in the order of the file."""
        recorded: Mapping[str, object]
        for row, record in self._steps:
            if record is not None and record.request is not None:
                recorded = record.request
            else:
                body, recorded, source = bodies(row, self.settings)
            job = Job(
                target_for(row, self.settings.directory, force=self.settings.force),
                recorded=recorded,
                n=row.position,
                batch=self.settings.name,
                row=row.key,
                line=row.line,
            )
            if record is None:
                job.request, job.image_prompt = body, source
            else:
                job.task_id, job.number, job.age = record.task_id, record.number, record.age
            yield job

    def _state(self, record: KnownRow | None) -> RowState:
        """Return a row's state under the settings: a row to resubmit counts as new."""
        if record is None:
            return RowState.NEW
        again = {RowState.FAILED: self.settings.retry_failed, RowState.UNKNOWN: self.settings.retry_unknown}
        if again.get(record.state):
            return RowState.NEW
        if record.state is RowState.DONE and self.settings.refetch and record.task_id and self._is_missing(record):
            return RowState.SUBMITTED
        return record.state

    def _count_before(self, row: Row, record: KnownRow) -> None:
        counts = self.counts
        if record.state is RowState.DONE:
            counts.done_before += 1
            counts.changed += self._has_changed(row, record)
            counts.missing += self._is_missing(record)
        elif record.state is RowState.FAILED:
            failed = ExitCode(record.exit_code) if record.exit_code else ExitCode.TASK_FAILED
            counts.failed_rows.append(UnresolvedRow(row.key, row.line, failed))
        else:
            counts.unknown_rows.append(UnresolvedRow(row.key, row.line, ExitCode.OUTCOME_UNKNOWN))

    def _has_changed(self, row: Row, record: KnownRow) -> bool:
        if record.request is None:
            return False
        now = {**self.settings.recorded, **row.fields}
        names = {*now, *record.request} - {"image_prompt", "webhook_secret"}
        if self.settings.random_seeds and "seed" not in row.fields:
            names.discard("seed")
        return any(now.get(name) != record.request.get(name) for name in names)

    def _is_missing(self, record: KnownRow) -> bool:
        """Return whether a saved picture is gone. The batch directory may have been moved since it was saved."""
        if record.path is None or record.path == STDOUT or os.path.lexists(record.path):
            return False
        parts = Path(record.path).parts
        return not any(
            os.path.lexists(self.settings.directory.joinpath(*parts[start:])) for start in range(1, len(parts))
        )


def bodies(row: Row, settings: BatchSettings) -> tuple[Body, dict[str, object], str | None]:
    """Return a row's request, the request as it is recorded, and the path or URL of its own image prompt."""
    body: Body = {**settings.defaults, **row.fields}
    recorded: dict[str, object] = {**settings.recorded, **row.fields}
    recorded.pop("webhook_secret", None)
    if settings.random_seeds and "seed" not in row.fields:
        body["seed"] = recorded["seed"] = random_seed()
    if settings.secret and "webhook_url" in body:
        body.setdefault("webhook_secret", settings.secret)
    source = row.fields.get("image_prompt")
    if source is None:
        return body, recorded, None
    del body["image_prompt"]
    recorded["image_prompt"] = image_prompt.description(str(source))
    return body, recorded, str(source)
