"""The history's SQLite file: its schema, and opening it for writing or for reading.

On a local file system it is in WAL mode with `synchronous=FULL`: a commit that returned is on disk. On a file
system that several hosts can share, the write-ahead log's shared memory does not work across hosts, so the file
has a rollback journal there, which other hosts can read beside.
"""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from flux_cli.errors import LocalFileError, StoreBusyError, os_reason
from flux_cli.storage.filesystem import make_directory

APPLICATION_ID = 0x464C5558
"""Marks the file as ours in SQLite's header (`FLUX`)."""
VERSION = 2
WAIT_SECONDS = 5.0
"""How long opening the file waits for another process, and how long `patiently` repeats a change."""
BUSY_SECONDS = 0.2
"""How long a write waits for another process. Short, because the engine must not block; callers retry."""

_TABLES = """
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
    row TEXT,
    sha256 TEXT,
    adopted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE forgotten (file TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (file, id)) WITHOUT ROWID;
"""
"""AUTOINCREMENT: a process that still follows a deleted record must never write to another one.
`adopted` marks a copy of another host's record. `forgotten` lists records in other hosts' files."""

_INDEXES = """
CREATE INDEX by_task ON submissions (task_id);
CREATE INDEX by_status ON submissions (status, id);
CREATE INDEX unsaved ON submissions (service, id)
    WHERE task_id IS NOT NULL AND path IS NULL AND status IN ('processing', 'finished');
CREATE INDEX by_row ON submissions (batch, row) WHERE batch IS NOT NULL;
CREATE INDEX by_sha256 ON submissions (sha256) WHERE sha256 IS NOT NULL;
CREATE INDEX adopted ON submissions (task_id) WHERE adopted;
"""
_VIEWS_OF_VERSION_1 = """
CREATE TEMP VIEW submissions AS SELECT *, NULL AS sha256, 0 AS adopted FROM main.submissions;
CREATE TEMP VIEW forgotten AS SELECT '' AS file, 0 AS id WHERE FALSE;
"""
"""They let a file of version 1, which has no `sha256` and `adopted`, be read as one of version 2."""

_T = TypeVar("_T")
_WRITABLE = "set XDG_STATE_HOME to a writable directory"


def open_for_writing(path: Path, *, shared: bool) -> sqlite3.Connection:
    """Open a history file, creating it (0600, in a directory of 0700) or converting it from version 1.

    `shared` says that several hosts can see it. Raises LocalFileError if it cannot be opened or is from a newer
    version, and StoreBusyError if another process creates or converts it for longer than `WAIT_SECONDS`.
    """
    with translated(path):
        make_directory(path.parent, 0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if not os.access(path, os.W_OK):  # SQLite would say so at the first write
            raise PermissionError(errno.EACCES, "it is read-only")
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            if shared:
                connection.execute("PRAGMA journal_mode = TRUNCATE")
            if schema_version(connection) < VERSION:
                _upgrade(connection, path, shared=shared)
            connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS:.0f}")
        except BaseException:
            connection.close()
            raise
        return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a history file without writing to it or beside it. Raises LocalFileError if that cannot be done.

    SQLite would create the two files of its write-ahead log even for a reader. So if there is neither a log nor a
    journal, which means that no process has the file open, it is opened as immutable.
    """
    with translated(path):
        immutable = not any(path.with_name(f"{path.name}-{each}").exists() for each in ("wal", "journal"))
        try:
            return _opened_for_reading(path, immutable=immutable)
        except sqlite3.OperationalError:
            # A log whose index cannot be created here, or no locks: better what was there at the last checkpoint.
            return _opened_for_reading(path, immutable=True)


def _opened_for_reading(path: Path, *, immutable: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        version = schema_version(connection)
        if version == 0:  # another process is creating it
            _execute_all(connection, _TABLES.replace("CREATE TABLE", "CREATE TEMP TABLE"))
        elif version == 1:
            _execute_all(connection, _VIEWS_OF_VERSION_1)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an error of SQLite or the system about the history into one that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        kind = StoreBusyError if _code(error) == sqlite3.SQLITE_BUSY else LocalFileError
        raise kind(f"cannot use the history {path}: {error}", _hint(error)) from error
    except sqlite3.DatabaseError as error:
        raise LocalFileError(
            f"the history {path} is damaged or belongs to another program: {error}",
            "move it away to start a new one; it is never replaced automatically",
        ) from error
    except OSError as error:
        reason = os_reason(error)
        raise LocalFileError(f"cannot use the history {path}: {reason}", _WRITABLE) from error


def _hint(error: sqlite3.OperationalError) -> str | None:
    if _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return _WRITABLE
    if _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL):
        return "if its file system has no locks, set XDG_STATE_HOME to a directory on a local disk"
    return None


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code: the extended one has more bits."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the version of the file's schema, 0 for an empty file.

    Raises LocalFileError for one of a newer version, and DatabaseError for one of another program.
    """
    began = not connection.in_transaction
    if began:
        connection.execute("BEGIN")  # read all three at one moment: another process may be creating the schema
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        if began:
            connection.rollback()
    if application == APPLICATION_ID and version > VERSION:
        raise LocalFileError(
            f"the history was written by a newer flux-cli (format {version}, this one supports {VERSION})",
            "update flux-cli",
        )
    if application != APPLICATION_ID and (application or version or tables):
        raise sqlite3.DatabaseError("not a history")
    return int(version)


def _upgrade(connection: sqlite3.Connection, path: Path, *, shared: bool) -> None:
    """Create the schema or convert version 1 to it, in one transaction, unless another process was faster."""

    def write_ahead() -> None:
        with translated(path):
            connection.execute("PRAGMA journal_mode = WAL")

    if not shared:
        patiently(write_ahead)  # SQLite itself does not wait for this lock
    connection.execute("BEGIN EXCLUSIVE")  # closing the connection after an error rolls it back
    version = schema_version(connection)
    if version == 1:
        connection.execute("ALTER TABLE submissions RENAME TO version_1")
    if version < VERSION:
        _execute_all(connection, _TABLES)
    if version == 1:
        connection.execute("INSERT INTO submissions SELECT *, NULL, 0 FROM version_1")
        connection.execute("DROP TABLE version_1")
    if version < VERSION:
        _execute_all(connection, _INDEXES)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.commit()


def _execute_all(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";")[:-1]:  # executescript would commit first
        connection.execute(statement)


def patiently(change: Callable[[], _T], seconds: float = WAIT_SECONDS) -> _T:
    """Make a change, repeating it while another process has the file locked. Raises StoreBusyError at the end."""
    until = time.monotonic() + seconds
    while True:
        try:
            return change()
        except StoreBusyError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)
