"""A batch: which of its rows are to be sent, waited for or left alone, and what has become of each.

Its state is in the history, by service, directory and row; `results.jsonl` in the directory speaks for rows that
this machine's history does not know.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flux_cli.api.request import Body, is_http_url
from flux_cli.api.task import Status
from flux_cli.batch.recorder import RowJob, as_json
from flux_cli.batch.results_file import ResultsFile
from flux_cli.batch.rows import Row, rows, target_for
from flux_cli.batch.shards import Shard
from flux_cli.batch.sheet import BadRowError, Sheet
from flux_cli.batch.standing import Place, Standing, Tally, standing
from flux_cli.engine.job import Job
from flux_cli.errors import ExitCode, LocalFileError
from flux_cli.pictures import image_prompt
from flux_cli.storage.files import local_errors
from flux_cli.storage.history import History
from flux_cli.storage.record import Record


@dataclass(frozen=True)
class BatchPlan:
    """What a run of a batch does.

    Attributes:
        service: The service's name in the history.
        directory: Where the pictures go.
        name: The same in absolute form: with `service` it is what the batch is recognised by.
        defaults: The fields for rows that do not give them, as they are sent.
        recorded: The same as the history keeps them.
        secret: The webhook secret for rows that do not give one.
        shard: Which rows are this run's.
        retry_failed, retry_unknown: Whether such rows are sent again.
        max_tasks: The most submissions, or None.
        force: Whether existing files may be replaced.
    """

    service: str
    directory: Path
    name: str
    defaults: Body
    recorded: Mapping[str, object]
    secret: str | None = None
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    retry_unknown: bool = False
    max_tasks: int | None = None
    force: bool = False


class Batch:
    """A checked file's rows, with what is known of them."""

    def __init__(self, sheet: Sheet, plan: BatchPlan, history: History, results: ResultsFile) -> None:
        self.file_name = sheet.name
        self.plan = plan
        self.history = history
        self.results = results
        self.tally = Tally()
        self._sheet = sheet

    def survey(self) -> list[LocalFileError]:
        """Count the rows; return an error for each that would be sent and names a file that exists."""
        errors = []
        for row in self._rows():
            self.tally.rows += 1
            if row.output is None or self.plan.force:
                continue
            target = target_for(row, self.plan.directory, force=False)
            path = target.directory / target.template
            with local_errors(path):
                exists = target.explicit and os.path.lexists(path)
            if exists and self._standing(row)[0] is Standing.NEW:
                errors.append(LocalFileError(f"{self._sheet.name}:{row.line}: {path} exists"))
        return errors

    def jobs(self) -> Iterator[Job]:
        """Yield a job for each row that is to be sent or waited for, in the file's order.

        Rows that are over are counted on the way, and get their line in the results where it is missing.

        Raises:
            LocalFileError: The history or the results cannot be used.
        """
        submissions = 0
        for row in self._rows():
            found, record = self._standing(row)
            if found is Standing.NEW:
                if submissions != self.plan.max_tasks:
                    submissions += 1
                    yield self._new_job(row)
            elif found is Standing.SUBMITTED and record is not None:
                yield self._known_job(row, record)
            else:
                self._skip(row, found, record)

    def _rows(self) -> Iterator[Row]:
        for row in rows(self._sheet):
            if not isinstance(row, BadRowError) and self.plan.shard.has(row.position):
                yield row

    def _standing(self, row: Row) -> tuple[Standing, Record | None]:
        """Return what this run does with a row; what is to be tried again counts as new."""
        plan = self.plan
        record = self.history.newest_of_row(plan.service, plan.name, row.key)
        found = Standing.NEW
        if record is not None:
            found = _own(record)
        told = self.results.status_of(row.key)
        # Another machine may have taken up what was not accepted here.
        if told is not None and (record is None or (found is not Standing.SUBMITTED and told is Status.FINISHED)):
            found = standing(told, "somewhere", "somewhere", None)
        again = (found is Standing.FAILED and plan.retry_failed) or (
            found is Standing.UNKNOWN and plan.retry_unknown
        )
        return Standing.NEW if again else found, record

    def _new_job(self, row: Row) -> RowJob:
        body, recorded, source = bodies(row, self.plan)
        return RowJob(
            target_for(row, self.plan.directory, force=self.plan.force),
            request=body,
            recorded=recorded,
            image_prompt=source,
            n=row.position,
            batch=self.plan.name,
            row=row.key,
            line=row.line,
        )

    def _known_job(self, row: Row, record: Record) -> RowJob:
        self.tally.under_way += 1
        return RowJob(
            target_for(row, self.plan.directory, force=self.plan.force),
            task_id=record.task_id,
            recorded=record.request,
            number=record.number,
            age=record.age,
            n=row.position,
            batch=self.plan.name,
            row=row.key,
            line=row.line,
        )

    def _skip(self, row: Row, found: Standing, record: Record | None) -> None:
        code = record.exit_code if record else None
        if found is Standing.DONE:
            self.tally.before += 1
            self.tally.changed += record is not None and self._has_changed(row, record)
            path = record.path if record else None
            self.tally.gone += path is not None and path != "-" and not os.path.lexists(path)
        elif found is Standing.FAILED:
            failed = ExitCode(code) if code else ExitCode.TASK_FAILED
            self.tally.failed_before.append(Place(row.key, row.line, failed))
        else:
            self.tally.unknown_before.append(Place(row.key, row.line, ExitCode.OUTCOME_UNKNOWN))
        # Not where the results speak for another machine; else a crash came between the two.
        if record is not None and _own(record) is found and self.results.status_of(row.key) is not record.status:
            self.results.add(row.key, row.line, as_json(record))

    def _has_changed(self, row: Row, record: Record) -> bool:
        now = {**self.plan.recorded, **row.fields}
        return any(
            now.get(name) != record.request.get(name)
            for name in {*now, *record.request} - {"image_prompt", "webhook_secret"}
        )


def _own(record: Record) -> Standing:
    return standing(record.status, record.task_id, record.path, record.exit_code)


def bodies(row: Row, plan: BatchPlan) -> tuple[Body, dict[str, object], str | None]:
    """Return a row's request body, what is kept of it, and the image prompt that is still to be read, if any."""
    body: Body = {**plan.defaults, **row.fields}
    recorded: dict[str, object] = {**plan.recorded, **row.fields}
    recorded.pop("webhook_secret", None)
    if plan.secret and "webhook_url" in body:
        body.setdefault("webhook_secret", plan.secret)
    source = row.fields.get("image_prompt")
    if source is None:
        return body, recorded, None
    del body["image_prompt"]
    recorded["image_prompt"] = _described(str(source))
    return body, recorded, str(source)


@functools.lru_cache(maxsize=64)
def _described_file(source: str, _changed: int, _size: int) -> Mapping[str, object]:
    return image_prompt.load(source).described()


def _described(source: str) -> Mapping[str, object]:
    """Return what the history keeps of an image prompt; of a URL not more, since it is not fetched yet."""
    if not is_http_url(source):
        try:
            about = Path(source).expanduser().stat()
            return _described_file(source, about.st_mtime_ns, about.st_size)
        except (OSError, LocalFileError):
            pass  # it has gone since it was checked; its row will say so when it is to be sent
    return {"type": None, "bytes": None, "sha256": None, "source": source}
