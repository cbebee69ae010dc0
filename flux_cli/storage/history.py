"""The history: what was submitted from here, written down before it costs money.

A record is committed as `unknown` before its submission is sent, gets its task id as soon as that arrives, and
its path once the file is on disk. So after a crash at any moment it says what may have been billed and what can
still be waited for. SQLite in WAL mode with `synchronous=FULL`: a commit that returned is on disk.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_cli.api.task import Status
from flux_cli.errors import LocalFileError, StoreBusyError

if TYPE_CHECKING:
    import sqlite3

APPLICATION_ID = 0x464C5558
"""Marks the file as ours in SQLite's header (`FLUX`)."""
VERSION = 1
SANDBOX = "sandbox"
"""The embedded sandbox's name in the column `service`; its URL differs from run to run."""
BUSY_SECONDS = 5.0
"""How long another process's change is waited for; a command's own deadline waits as long at the most."""

_SCHEMA = """
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY,
    created REAL NOT NULL,
    service TEXT NOT NULL,
    status TEXT NOT NULL,
    task_id TEXT,
    model TEXT,
    prompt TEXT,
    request TEXT NOT NULL,
    image_url TEXT,
    original_image_url TEXT,
    path TEXT,
    original_path TEXT,
    error TEXT,
    exit_code INTEGER,
    ended REAL,
    batch TEXT,
    row TEXT
);
CREATE INDEX by_task ON submissions (task_id);
CREATE INDEX by_status ON submissions (status, id);
CREATE INDEX unsaved ON submissions (service, id)
    WHERE task_id IS NOT NULL AND path IS NULL AND status IN ('processing', 'finished');
CREATE INDEX by_row ON submissions (batch, row) WHERE batch IS NOT NULL;
"""


@dataclass(frozen=True)
class Record:
    """One submission.

    Attributes:
        number: Its number in the history, counting up.
        created: When it was written down, just before it was sent (Unix time, seconds).
        service: The API's URL, or `sandbox`.
        status: What is known of it.
        request: The body, without the webhook secret and with an image prompt described instead of held.
        path: The saved picture; `-` if it went to stdout.
        ended: When it was seen to have ended, saved or failed (Unix time), or None.
        batch: The batch that it belongs to, and `row`, its row there.
    """

    number: int
    created: float
    service: str
    status: Status
    task_id: str | None
    model: str | None
    prompt: str | None
    request: Mapping[str, Any]
    image_url: str | None = None
    original_image_url: str | None = None
    path: str | None = None
    original_path: str | None = None
    error: str | None = None
    exit_code: int | None = None
    ended: float | None = None
    batch: str | None = None
    row: str | None = None

    @property
    def age(self) -> float:
        """Seconds since it was written down."""
        return max(0.0, time.time() - self.created)


_COLUMNS = (
    "id, created, service, status, task_id, model, prompt, request, image_url, original_image_url, path, "
    "original_path, error, exit_code, ended, batch, row"
)


def state_path() -> Path:
    """Return the directory for what the program keeps about its own work."""
    import platformdirs  # 20 ms

    return platformdirs.user_state_path("flux-cli")


def history_path() -> Path:
    """Return where the history is, whether or not it exists."""
    return state_path() / "history.sqlite3"


class History:
    """An open history. Use it from one thread; several processes may have it open at once.

    Every method raises LocalFileError where the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the history, creating it (0600) if there is none.

        Raises:
            LocalFileError: It cannot be opened, is damaged, is not ours, or is from a newer version.
        """
        self.path = path or history_path()
        with self._translated():
            self._connection = _opened(self.path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin(
        self,
        service: str,
        requests: Sequence[Mapping[str, object]],
        batch: str | None = None,
        rows: Sequence[str] | None = None,
    ) -> list[int]:
        """Write down submissions that are about to be sent, in one commit; return their numbers.

        They count as `unknown` until something better is known.
        """
        now = time.time()
        with self._transaction() as cursor:
            return [
                cursor.execute(
                    "INSERT INTO submissions (created, service, status, model, prompt, request, batch, row) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    _storable(
                        now,
                        service,
                        Status.UNKNOWN,
                        request.get("model"),
                        request.get("prompt"),
                        json.dumps(request),
                        batch,
                        rows[index] if rows else None,
                    ),
                ).lastrowid
                or 0
                for index, request in enumerate(requests)
            ]

    def resending(self, number: int) -> None:
        """Note that a submission that had not been accepted is about to be sent once more."""
        self._update("number", number, status=Status.UNKNOWN, error=None, ended=None)

    def accepted(self, number: int, task_id: str) -> None:
        """Note the task id that the service gave."""
        self._update("number", number, status=Status.PROCESSING, task_id=task_id)

    def ended(self, number: int, status: Status, **columns: str | int | None) -> None:
        """Note how a submission ended: failed, refused, never sent, of unknown outcome, or finished.

        `columns` are any of image_url, original_image_url, path, original_path, error, exit_code. A record whose
        picture is saved is left as it is, unless there is a new path: a later look that fails takes nothing back.
        """
        by = "number" if columns.get("path") else "unsaved number"
        self._update(by, number, status=status, ended=time.time(), **columns)

    def observed(self, task_id: str, status: Status, **columns: str | int | None) -> None:
        """Note what the service said of a task, by its id; nothing happens for one that is not in the history."""
        ended = {} if status is Status.PROCESSING else {"ended": time.time()}
        self._update("task_id", task_id, status=status, **ended, **columns)

    def find(self, task_id: str) -> Record | None:
        """Return the submission that got this task id, or None."""
        return next(self._select("WHERE task_id = ? ORDER BY id DESC LIMIT 1", task_id), None)

    def records(
        self, limit: int | None = None, status: Status | None = None, search: str | None = None
    ) -> Iterator[Record]:
        """Yield submissions, newest first.

        `search` is looked for, ignoring ASCII case, in the prompt, the task id and the path.
        """
        conditions, values = ["TRUE"], list[object]()
        if status:
            conditions.append("status = ?")
            values.append(status)
        if search:
            places = [f"instr(lower({column}), lower(?))" for column in ("prompt", "task_id", "path")]
            conditions.append(f"({' OR '.join(places)})")
            values += [search] * 3
        # Without a LIMIT, -1; the primary key gives the order, so nothing is sorted.
        tail = f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
        return self._select(tail, *values, -1 if limit is None else limit)

    def unsaved(self, service: str, limit: int | None = None) -> Iterator[Record]:
        """Yield tasks of a service that still run or are finished without a file, newest first."""
        return self._select(
            "WHERE service = ? AND task_id IS NOT NULL AND path IS NULL AND status IN ('processing', 'finished') "
            "ORDER BY id DESC LIMIT ?",
            service,
            -1 if limit is None else limit,
        )

    def newest_of_row(self, service: str, batch: str, row: str) -> Record | None:
        """Return the newest submission for a row of a batch, or None."""
        tail = "WHERE batch = ? AND row = ? AND service = ? ORDER BY id DESC LIMIT 1"
        return next(self._select(tail, batch, row, service), None)

    def _select(self, tail: str, *values: object) -> Iterator[Record]:
        with self._translated():
            for row in self._connection.execute(f"SELECT {_COLUMNS} FROM submissions {tail}", _storable(*values)):  # noqa: S608 - no outside text in it
                yield _record(row)

    def _update(self, by: str, value: object, /, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        condition = {"number": "id = ?", "unsaved number": "id = ? AND path IS NULL"}.get(by, "task_id = ?")
        with self._transaction() as cursor:
            cursor.execute(
                f"UPDATE submissions SET {assignments} WHERE {condition}",  # noqa: S608 - no outside text in it
                _storable(*columns.values(), value),
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes inside the block one commit: one wait for the disk instead of one each."""
        with self._transaction():
            yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator["sqlite3.Cursor"]:
        with self._translated():
            if self._connection.in_transaction:
                yield self._connection.cursor()
                return
            cursor = self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            kind = StoreBusyError if busy else LocalFileError
            raise kind(f"cannot use the history {self.path}: {error}") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise LocalFileError(
                f"the history {self.path} is damaged or not ours: {error}",
                "move it away to start a new one; it is never replaced by itself",
            ) from error
        except OSError as error:
            raise LocalFileError(f"cannot use the history {self.path}: {error.strerror}") from error


def _storable(*values: object) -> list[object]:
    """Return values as SQLite can hold them: in a path, bytes that are no UTF-8 become escapes."""
    return [
        value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value for value in values
    ]


def _record(row: Sequence[Any]) -> Record:  # SQLite's columns are Any until they have been looked at
    named = dict(zip(_COLUMNS.split(", "), row, strict=True))
    named["status"] = Status(named["status"])
    named["request"] = json.loads(named["request"])
    return Record(number=named.pop("id"), **named)


def _opened(path: Path) -> "sqlite3.Connection":
    import sqlite3

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        version = _version(connection)
        if version == 0:
            _use_wal(connection)
            connection.execute("BEGIN EXCLUSIVE")
            if _version(connection) == 0:  # nobody else was quicker
                for statement in _SCHEMA.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: "sqlite3.Connection") -> None:
    """Switch the file to WAL mode, waiting for other processes: SQLite does not wait by itself for this."""
    import sqlite3

    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)


def _version(connection: "sqlite3.Connection") -> int:
    """Return the version of the file's schema, 0 for an empty file. Raises LocalFileError for a strange one."""
    began = not connection.in_transaction
    if began:
        connection.execute("BEGIN")  # all three of one moment: another process may be creating the schema
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if began:
        connection.commit()
    if application == APPLICATION_ID and version > VERSION:
        raise LocalFileError(
            f"the history was written by a newer flux-cli (format {version}, this one knows {VERSION})",
            "update flux-cli",
        )
    if application != APPLICATION_ID and (application or version or tables):
        raise ValueError("it holds another program's data")
    return int(version)
