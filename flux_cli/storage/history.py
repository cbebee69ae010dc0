"""The history: what was submitted from here, recorded before it costs money.

A record is committed as `unknown` before its submission is sent. It gets its task ID as soon as that arrives, and
its path once the picture is on disk. So after a crash at any moment the history says what may have been charged,
and which tasks can still be waited for.

On a file system that several hosts can share, each host writes a file of its own. Every reader sees all of them.
"""

import contextlib
import heapq
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flux_cli.api.request import shown
from flux_cli.api.task import Status
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.storage import database
from flux_cli.storage.filesystem import host_id, is_shared
from flux_cli.storage.paths import HISTORY, history_files, state_directory
from flux_cli.storage.record import COLUMNS, Record, storable, storable_values

PREFIX_LENGTH = 4
"""The shortest prefix of a task ID that is looked up."""
MAX_CANDIDATES = 5
"""How many IDs the hint about an ambiguous prefix lists."""
PAGE = 1000
"""Rows per query: a long read must not keep a lock that a writer waits for."""

_UNSAVED = "task_id IS NOT NULL AND path IS NULL AND status IN ('processing', 'finished')"


def history_path() -> Path:
    """Return the file that this host writes, whether or not it exists. Raises LocalFileError without a home."""
    directory = state_directory()
    return directory / (f"history-{host_id()}.sqlite3" if is_shared(directory) else HISTORY)


@dataclass
class _File:
    """An open history file; `foreign`: another host's. A `problem` with that one costs only its records."""

    path: Path
    connection: sqlite3.Connection
    read_only: bool = False
    foreign: bool = False
    problem: str | None = None

    def select(self, where: str, *values: object, limit: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that match, the newest first. SQLite's columns are Any until they have been checked."""
        statement = (
            f"SELECT {', '.join(COLUMNS)} FROM submissions WHERE {where} AND id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - no outside text in it
        )
        below, size = 2**62, min(limit or PAGE, PAGE)
        while True:
            rows = self.query(statement, *map(storable, values), below, size)
            yield from rows
            if len(rows) < size:
                return
            below = rows[-1][0]

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query. Raises LocalFileError, unless the file is another host's."""
        try:
            with database.translated(self.path):
                return self._query(statement, values)
        except LocalFileError as error:
            if not self.foreign:
                raise
            self.problem = error.message
            return []

    def _query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            if "decode" in str(error):  # text of a single row; slower than SQLite's own decoding
                self.connection.text_factory = lambda content: content.decode(errors="replace")
            elif self.read_only:  # opened as immutable just before another process began to write
                self.connection.close()
                self.connection = database.open_for_reading(self.path)
            else:
                raise
            return self.connection.execute(statement, values).fetchall()


class HistoryReader:
    """The histories of all hosts, as one, for reading. Use it from one thread.

    Every method raises LocalFileError if the main file cannot be read. What else cannot be read is left out, and
    `problems` says so.
    """

    def __init__(self, own: _File | None = None, others: Sequence[Path] = ()) -> None:
        """Read this host's file, if there is one, and those of other hosts."""
        self._files = [own] if own else []
        self._problems: list[str] = []
        self._unreadable: Counter[str] = Counter()
        for path in others:
            try:
                self._files.append(_File(path, database.open_for_reading(path), read_only=True, foreign=True))
            except LocalFileError as error:
                self._problems.append(error.message)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.connection.close()

    def problems(self) -> list[str]:
        """Return a warning for each thing that could not be read so far."""
        failed = [file.problem for file in self._files if file.problem]
        return [*self._problems, *failed] + [
            f"skipped {count} unreadable record{'' if count == 1 else 's'} of the history {path}"
            for path, count in self._unreadable.items()
        ]

    def find(self, task_id: str) -> Record | None:
        """Return the newest submission that got this task ID, or None."""
        return next(self._select("task_id = ?", task_id, limit=1), None)

    def of_task(self, task_id: str) -> list[Record]:
        """Return every submission that got this task ID: one per service, and more if records were repeated."""
        return list(self._select("task_id = ?", task_id))

    def lookup(self, prefix: str) -> Record | None:
        """Return the newest record of the task with this ID, or whose ID has this prefix; None if there is none.

        A text shorter than `PREFIX_LENGTH` matches only as a whole ID. Raises UsageError if several tasks have
        the prefix.
        """
        whole = self.find(prefix)
        if whole is not None or len(prefix) < PREFIX_LENGTH:
            return whole
        found: dict[str | None, Record] = {}
        for record in self._select("task_id BETWEEN ? AND ? || char(1114111)", prefix, prefix):
            found.setdefault(record.task_id, record)
        if len(found) > 1:
            ids = ", ".join(map(str, islice(found, MAX_CANDIDATES)))
            more = f" and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
            raise UsageError(
                f"task ID prefix {prefix} is ambiguous: {len(found)} tasks", f"give one of {ids}{more}"
            )
        return next(iter(found.values()), None)

    def records(
        self,
        limit: int | None = None,
        *,
        statuses: Collection[Status] = (),
        unsaved: bool = False,
        search: str | None = None,
        model: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Record]:
        """Yield submissions, newest first: those with one of `statuses` or, if `unsaved`, finished without a file.

        `search` is for text in the prompt, task ID or path, ignoring ASCII case. `since` and `until` are Unix
        times (seconds); one that was recorded at `until` is left out.
        """
        conditions, values = ["TRUE"], list[object]()
        if statuses or unsaved:
            places = [f"status IN ({', '.join('?' * len(statuses))})"] if statuses else []
            places += ["(status = 'finished' AND path IS NULL AND task_id IS NOT NULL)"] if unsaved else []
            conditions.append(f"({' OR '.join(places)})")
            values += statuses
        if search:
            places = [f"instr(lower({column}), lower(?))" for column in ("prompt", "task_id", "path")]
            conditions.append(f"({' OR '.join(places)})")
            values += [search] * 3
        for condition, value in (("model = ?", model), ("created >= ?", since), ("created < ?", until)):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        return self._select(" AND ".join(conditions), *values, limit=limit)

    def unsaved(self, service: str) -> Iterator[Record]:
        """Yield the tasks of a service that are running, or finished without a file, newest first."""
        return self._select(f"service = ? AND {_UNSAVED}", service)

    def named(self, text: str) -> Record:
        """Return the record of a task whose ID or prefix the user gave where a file is accepted, too.

        Raises:
            LocalFileError: There is none.
            UsageError: Several tasks have the prefix.
        """
        if record := self.lookup(text):
            return record
        raise LocalFileError(f"there is no file {shown(text)}, and no such task in the history")

    def find_picture(self, path: Path) -> Record | None:
        """Return the submission of a picture: the newest that was saved with this content, or else at this path.

        Of several with the same content, one saved at this path is preferred. Raises LocalFileError if the picture
        cannot be read.
        """
        from flux_cli.storage.files import sha256_of

        absolute = os.path.abspath(path)
        same = list(self._select("sha256 = ?", sha256_of(path)))
        for record in same:
            if record.path == absolute:
                return record
        return same[0] if same else next(self._select("path = ?", storable(absolute, path=True), limit=1), None)

    def newest_of_row(self, service: str, batch: str, row: str) -> Record | None:
        """Return the newest submission for a row of a batch, or None."""
        return next(self._select("batch = ? AND row = ? AND service = ?", batch, row, service, limit=1), None)

    def _select(self, where: str, *values: object, limit: int | None = None) -> Iterator[Record]:
        """Yield records of all files, newest first, without those that another file supersedes."""
        if len(self._files) == 1:
            return islice(self._records(self._files[0], where, *values, limit=limit), limit)
        superseded = self._superseded()
        sources: list[Iterator[Record]] = []
        for file in self._files:
            sources.append(self._records(file, f"{where} AND NOT adopted", *values))
            # Their numbers say nothing about their age.
            adopted = self._records(file, f"{where} AND adopted", *values)
            sources.append(iter(sorted(adopted, key=lambda record: -record.created)))
        merged = heapq.merge(*sources, key=lambda record: -record.created)
        return islice((each for each in merged if (each.file, each.number) not in superseded), limit)

    def _records(self, file: _File, where: str, *values: object, limit: int | None = None) -> Iterator[Record]:
        for row in file.select(where, *values, limit=limit):
            try:
                record = Record.of_row(row, file.path.name)
            except (TypeError, ValueError, RecursionError):
                self._unreadable[str(file.path)] += 1
            else:
                yield record

    def _superseded(self) -> set[tuple[str, int]]:
        """Return file and number of records to leave out: forgotten ones, and all but the best copy."""
        superseded: set[tuple[str, int]] = set()
        tasks: set[tuple[str, str]] = set()
        for file in self._files:
            superseded.update(file.query("SELECT file, id FROM forgotten"))
            tasks.update(file.query("SELECT service, task_id FROM submissions WHERE adopted"))
        for service, task_id in tasks:
            copies = self._copies(service, task_id)
            best = max(copies, key=lambda record: (record.path is not None, record.ended or 0.0, record.adopted))
            superseded.update((record.file, record.number) for record in copies if record is not best)
        return superseded

    def _copies(self, service: str, task_id: str | None) -> list[Record]:
        where = "task_id = ? AND service = ?"
        return [record for file in self._files for record in self._records(file, where, task_id, service)]


class History(HistoryReader):
    """The history, open for writing as well. Several processes may have it open at once.

    A change that another process's change delays for more than `database.BUSY_SECONDS` raises StoreBusyError.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the history, creating this host's file (0600). Raises LocalFileError if it cannot be used."""
        self.path = path or history_path()
        self._connection = database.open_for_writing(self.path, shared=is_shared(self.path.parent))
        super().__init__(_File(self.path, self._connection), _other_hosts(self.path))

    def begin(
        self,
        service: str,
        requests: Sequence[Mapping[str, object]],
        batch: str | None = None,
        rows: Sequence[str] | None = None,
    ) -> list[int]:
        """Record submissions that are about to be sent, in one commit; return their numbers.

        They count as `unknown` until something better is known.
        """
        now = time.time()
        with self.transaction():
            return [
                self._insert(
                    created=now,
                    service=service,
                    status=Status.UNKNOWN,
                    model=request.get("model"),
                    prompt=request.get("prompt"),
                    request=json.dumps(request),
                    batch=batch,
                    row=rows[index] if rows else None,
                )
                for index, request in enumerate(requests)
            ]

    def resending(self, number: int) -> None:
        """Record that a submission that had not been accepted is about to be sent once more."""
        self._update("id = ?", number, status=Status.UNKNOWN, error=None, ended=None)

    def accepted(self, number: int, task_id: str) -> None:
        """Record the task ID from the service."""
        self._update("id = ?", number, status=Status.PROCESSING, task_id=task_id)

    def ended(self, number: int, status: Status, **columns: str | int | None) -> None:
        """Record how a submission ended: failed, rejected, never sent, of unknown outcome, or finished.

        `columns` are any of image_url, original_image_url, path, original_path, sha256, error, exit_code. A record
        whose picture is saved stays as it is unless there is a new path: a later failure takes nothing back. A
        task that is `processing` after all has no time at which it ended.
        """
        where = "id = ?" if columns.get("path") else "id = ? AND path IS NULL"
        ended = None if status is Status.PROCESSING else time.time()
        self._update(where, number, status=status, ended=ended, **columns)

    def owns(self, record: Record) -> bool:
        """Return whether a record is in the file that this host writes."""
        return record.file == self.path.name

    def adopt(self, record: Record) -> int:
        """Return the number of a record in this host's file, copying it there if it is another host's."""
        if self.owns(record):
            return record.number
        for copy in self._records(self._files[0], "task_id = ? AND service = ?", record.task_id, record.service):
            return copy.number
        values = {name: getattr(record, name) for name in COLUMNS if name != "id"}
        values |= {"request": json.dumps(record.request), "adopted": 1}
        with self.transaction():
            return self._insert(**values)

    def delete(self, records: Sequence[Record]) -> None:
        """Remove records, with all copies of their tasks, in one commit; their content is overwritten."""
        with database.translated(self.path):
            self._connection.execute("PRAGMA secure_delete = ON")
        with self.transaction():
            for record in records:
                several = record.task_id and len(self._files) > 1
                copies = self._copies(record.service, record.task_id) if several else [record]
                for copy in copies:
                    if self.owns(copy):
                        self._connection.execute("DELETE FROM submissions WHERE id = ?", (copy.number,))
                    else:
                        self._connection.execute(
                            "INSERT OR IGNORE INTO forgotten VALUES (?, ?)", (copy.file, copy.number)
                        )
        with contextlib.suppress(sqlite3.OperationalError):  # another process is reading: its exit does it
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes inside the block one commit, durable at its end, or none of them.

        It excludes other writers from its beginning. Inside another transaction it is a part of that one.
        """
        with database.translated(self.path):
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.rollback()
                raise

    def _insert(self, **columns: object) -> int:
        statement = f"INSERT INTO submissions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - no outside text in it
        return self._connection.execute(statement, storable_values(columns)).lastrowid or 0

    def _update(self, where: str, value: object, /, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self.transaction():
            self._connection.execute(
                f"UPDATE submissions SET {assignments} WHERE {where}",  # noqa: S608 - no outside text in it
                [*storable_values(columns), storable(value)],
            )


def open_readonly() -> HistoryReader:
    """Open all histories without writing. Raises LocalFileError if this host's file exists and cannot be read."""
    try:
        path = history_path()
    except LocalFileError:  # no home, so there is nothing to read
        return HistoryReader()
    own = None
    if os.path.lexists(path):
        own = _File(path, database.open_for_reading(path), read_only=True)
    return HistoryReader(own, _other_hosts(path))


def _other_hosts(own: Path) -> list[Path]:
    return [path for path in history_files(own.parent) if path != own]
