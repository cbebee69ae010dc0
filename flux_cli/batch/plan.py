"""What a run does with each row of a batch, and the counts of the outcomes."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from flux_cli.api.request import Body, as_recorded, random_seed
from flux_cli.api.task import Status
from flux_cli.batch.attempt import Attempt, RowState, state_after
from flux_cli.batch.rows import Row, target_for
from flux_cli.batch.shards import Shard
from flux_cli.engine.events import Ended, Event, Submitted
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode
from flux_cli.pictures import image_prompt
from flux_cli.storage.filesystem import local_errors
from flux_cli.storage.record import STDOUT


@dataclass(frozen=True)
class BatchSettings:
    """How a run treats the rows."""

    directory: Path
    file_name: str
    """What messages call the file of the rows."""
    defaults: Body
    """The fields of rows that do not set them, as they are sent."""
    image_prompt: Mapping[str, object] | None = None
    """What is recorded of the image prompt among the defaults."""
    secret: str | None = None
    """The webhook secret of rows that do not set one."""
    random_seeds: bool = False
    """Whether rows that set no seed get a random one each."""
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    retry_unknown: bool = False
    refetch: bool = False
    """Whether missing pictures are downloaded again."""
    max_tasks: int | None = None
    force: bool = False

    @cached_property
    def name(self) -> str:
        """The name of the batch in the history: the directory as an absolute path."""
        return str(self.directory.resolve())


@dataclass
class RowCounts:
    """How many rows have which state."""

    total: int = 0
    """All rows of this run's shard."""
    done_before: int = 0
    changed: int = 0
    """Rows done before for which the file or the flags now have other values."""
    missing: int = 0
    """Rows done before whose pictures no longer exist."""
    running: int = 0
    """Tasks that are charged and have not ended."""
    done: int = 0
    left: int = 0
    """Tasks that are still running when this run ends."""
    not_saved: int = 0
    """Finished tasks whose pictures could not be saved; a later run tries again."""
    failed: int = 0
    """Rows whose task failed, or whose request was rejected, in this run or before."""
    unknown_lines: list[int] = field(default_factory=list)
    """The lines in the file of rows with an unknown outcome, from this run or before."""
    codes: set[ExitCode] = field(default_factory=set)

    @property
    def unknown(self) -> int:
        """Rows whose outcome is unknown."""
        return len(self.unknown_lines)

    @property
    def ended(self) -> int:
        """Rows that need nothing more."""
        return self.done_before + self.done + self.failed + self.unknown

    @property
    def not_sent(self) -> int:
        """Rows that have no accepted submission yet."""
        return self.total - self.ended - self.left - self.not_saved - self.running

    def handle(self, event: Event) -> None:
        """Update the counts."""
        if isinstance(event, Submitted):
            self.running += 1
        elif isinstance(event, Ended):
            self.running -= event.job.task_id is not None
            self._count(event.job, event.result)

    def unsuccessful(self, state: RowState, line: int, code: ExitCode) -> None:
        """Count a row that failed or has an unknown outcome, with its line in the file and its exit code."""
        self.codes.add(code)
        if state is RowState.FAILED:
            self.failed += 1
        else:
            self.unknown_lines.append(line)

    def _count(self, job: Job, result: Result) -> None:
        state = state_after(result)
        if state is RowState.DONE:
            self.done += 1
        elif state in (RowState.FAILED, RowState.UNKNOWN):
            self.unsuccessful(state, job.line or 0, result.exit_code)
        elif state is RowState.SUBMITTED and result.status is Status.FINISHED:
            self.not_saved += 1
        elif state is RowState.SUBMITTED:
            self.left += 1


class BatchPlan:
    """What a run does with the rows of a batch."""

    def __init__(self, rows: Iterable[Row], settings: BatchSettings, attempts: Mapping[str, Attempt]) -> None:
        """`attempts` are what is known about the rows, by their keys."""
        self.settings = settings
        self.counts = RowCounts()
        """The counts, which include the rows that need nothing more."""
        self.submissions = 0
        """How many rows will be submitted."""
        self._steps: list[tuple[Row, Attempt | None]] = []
        for row in rows:
            self.counts.total += 1
            attempt = attempts.get(row.key)
            if attempt is None or self._is_new(attempt):
                if settings.max_tasks is None or self.submissions < settings.max_tasks:
                    self.submissions += 1
                    self._steps.append((row, None))
            elif attempt.state is RowState.SUBMITTED or self._is_refetched(attempt):
                self.counts.running += 1
                self._steps.append((row, attempt))
            else:
                self._count_before(row, attempt)

    def occupied(self) -> Iterator[tuple[Row, Path]]:
        """Yield each row to submit whose `output` names an existing file, and the path of this file.

        Raises:
            LocalFileError: A directory cannot be read.
        """
        for row, attempt in self._steps:
            if attempt is None and row.output is not None and not self.settings.force:
                target = target_for(row, self.settings.directory, force=False)
                path = target.directory / target.template
                with local_errors(path):
                    if target.explicit and os.path.lexists(path):
                        yield row, path

    def jobs(self) -> Iterator[Job]:
        """Yield a job for each row to submit or to wait for, in the order of the file."""
        recorded: Mapping[str, object]
        for row, attempt in self._steps:
            if attempt is not None and attempt.request is not None:
                recorded = attempt.request
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
            if attempt is None:
                job.request, job.image_prompt = body, source
            else:
                job.task_id, job.age = attempt.task_id, attempt.age
            yield job

    def _is_new(self, attempt: Attempt) -> bool:
        """Return whether a row is submitted, for the first time or again."""
        retried = {RowState.FAILED: self.settings.retry_failed, RowState.UNKNOWN: self.settings.retry_unknown}
        return attempt.state is RowState.NEW or retried.get(attempt.state, False)

    def _is_refetched(self, attempt: Attempt) -> bool:
        is_done = attempt.state is RowState.DONE and attempt.task_id is not None
        return is_done and self.settings.refetch and self._is_missing(attempt)

    def _count_before(self, row: Row, attempt: Attempt) -> None:
        if attempt.state is RowState.DONE:
            self.counts.done_before += 1
            self.counts.changed += self._has_changed(row, attempt)
            self.counts.missing += self._is_missing(attempt)
        else:
            self.counts.unsuccessful(attempt.state, row.line, attempt.exit_code)

    def _has_changed(self, row: Row, attempt: Attempt) -> bool:
        if attempt.request is None:
            return False
        now = {**self.settings.defaults, **row.fields}
        names = {*now, *attempt.request} - {"image_prompt", "webhook_secret"}
        if self.settings.random_seeds and "seed" not in row.fields:
            names.discard("seed")
        return any(now.get(name) != attempt.request.get(name) for name in names)

    def _is_missing(self, attempt: Attempt) -> bool:
        """Return whether a saved picture is gone. The batch directory may have been moved since it was saved."""
        if attempt.path is None or attempt.path == STDOUT or os.path.lexists(attempt.path):
            return False
        parts = Path(attempt.path).parts
        return not any(
            os.path.lexists(self.settings.directory.joinpath(*parts[start:])) for start in range(1, len(parts))
        )


def bodies(row: Row, settings: BatchSettings) -> tuple[Body, dict[str, object], str | None]:
    """Return a row's request, the request as it is recorded, and the path or URL of its own image prompt."""
    body: Body = {**settings.defaults, **row.fields}
    if settings.random_seeds and "seed" not in row.fields:
        body["seed"] = random_seed()
    if settings.secret and "webhook_url" in body:
        body.setdefault("webhook_secret", settings.secret)
    if "image_prompt" not in row.fields:
        return body, as_recorded(body, settings.image_prompt), None
    source = str(row.fields["image_prompt"])
    kept = as_recorded(body, image_prompt.description(source))
    del body["image_prompt"]
    return body, kept, source
