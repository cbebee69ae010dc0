"""The sandbox's tasks and credits on disk: one SQLite file that several servers can use at once."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flux_cli.errors import LocalFileError
from flux_cli.sandbox.tasks import Submission
from flux_cli.storage.filesystem import make_directory

START_CREDITS = 1000
KEPT_SECONDS = 7 * 24 * 3600
"""Older tasks are deleted when a server starts, to bound the file's size."""
BUSY_SECONDS = 10.0
SCHEMA_VERSION = 1
_NOT_WRITABLE = "set XDG_STATE_HOME to a writable directory"
_DAMAGED = "remove it to start over; it contains only the tasks of the sandbox"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    submitted REAL NOT NULL,
    seconds REAL NOT NULL,
    seed TEXT NOT NULL,
    body TEXT NOT NULL,
    image_prompt TEXT,
    webhook_due REAL,
    webhook_event INTEGER NOT NULL DEFAULT 0,
    webhook_tries INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tasks_submitted ON tasks (submitted);
CREATE INDEX IF NOT EXISTS tasks_webhook_due ON tasks (webhook_due) WHERE webhook_due IS NOT NULL;
CREATE TABLE IF NOT EXISTS image_prompts (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS account (
    only INTEGER PRIMARY KEY CHECK (only = 1), credits INTEGER NOT NULL, total_images INTEGER NOT NULL
);
"""


@dataclass(frozen=True)
class DueWebhook:
    """An event to post: its number within the task (from 0), and how often posting it has failed."""

    submission: Submission
    event: int
    tries: int


class TaskStore:
    """Reads and writes the file; for one thread at a time.

    A task is stored when `accept` returns, so it survives a kill of the server. There is no fsync
    (synchronous=NORMAL): only a crash of the machine loses the newest tasks, which cost nothing.
    """

    def __init__(self, directory: Path, credits: int | None = None) -> None:  # noqa: A002 - the service's word
        """Open or create the file.

        Args:
            directory: Created with mode 0700 if it is missing.
            credits: The new balance; None keeps the stored one (1000 at first).

        Raises:
            LocalFileError: The directory or the file cannot be used.
        """
        path = directory / "tasks.sqlite3"
        try:
            make_directory(directory, 0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare(credits)
        except (OSError, sqlite3.Error) as error:
            cannot_write = isinstance(error, OSError | sqlite3.OperationalError)
            raise LocalFileError(
                f"cannot use {path}: {error}", _NOT_WRITABLE if cannot_write else _DAMAGED
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def accept(
        self, submission: Submission, image_prompt: bytes | None, webhook_due: float | None, free: bool = False
    ) -> bool:
        """Store a task and charge a credit, unless it is free; return False, storing nothing, if none is left."""
        with self._transaction() as database:
            price = 0 if free else 1
            charged = database.execute(
                "UPDATE account SET credits = credits - :cost, total_images = total_images + 1"
                " WHERE credits >= :cost",
                {"cost": price},
            )
            if not charged.rowcount:
                return False
            database.execute(
                "INSERT INTO tasks (task_id, submitted, seconds, seed, body, image_prompt, webhook_due)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    submission.task_id,
                    submission.submitted,
                    submission.seconds,
                    hex(submission.seed),  # SQLite's integers have 64 bits, a seed can have more
                    json.dumps(submission.body),
                    submission.image_prompt,
                    webhook_due,
                ),
            )
            if image_prompt is not None:
                database.execute(
                    "INSERT OR IGNORE INTO image_prompts VALUES (?, ?)", (submission.image_prompt, image_prompt)
                )
        return True

    def find(self, task_id: str) -> Submission | None:
        """Return a task, or None if no task with that ID was accepted."""
        row = self._database.execute(
            "SELECT task_id, submitted, seconds, seed, body, image_prompt FROM tasks WHERE task_id = ?", (task_id,)
        ).fetchone()
        return _submission(row) if row else None

    def image_prompt(self, submission: Submission) -> bytes | None:
        """Return the bytes of a task's image prompt, if it has one."""
        row = self._database.execute(
            "SELECT bytes FROM image_prompts WHERE digest = ?", (submission.image_prompt,)
        ).fetchone()
        return bytes(row[0]) if row else None

    def account(self) -> tuple[int, int]:
        """Return the credits left and the number of images."""
        credits_left, images = self._database.execute("SELECT credits, total_images FROM account").fetchone()
        return int(credits_left), int(images)

    def claim_webhook(self, now: float, lease: float) -> DueWebhook | None:
        """Claim one event that is due; other servers cannot claim it until `now + lease` (seconds).

        Call `settle_webhook` afterwards. If the server ends before that, another one claims the event.
        """
        row = self._database.execute(
            "UPDATE tasks SET webhook_due = ? WHERE task_id = ("
            " SELECT task_id FROM tasks WHERE webhook_due <= ? ORDER BY webhook_due LIMIT 1)"
            " RETURNING task_id, submitted, seconds, seed, body, image_prompt, webhook_event, webhook_tries",
            (now + lease, now),
        ).fetchone()
        return DueWebhook(_submission(row[:6]), *row[6:]) if row else None

    def next_webhook(self) -> float | None:
        """Return the Unix time at which the next event is due; None if there is none."""
        due = self._database.execute("SELECT min(webhook_due) FROM tasks WHERE webhook_due IS NOT NULL").fetchone()
        return due[0] if due else None

    def settle_webhook(self, task_id: str, due: float | None, event: int, tries: int) -> None:
        """Store when (None: never) and which event of a task is posted next."""
        self._database.execute(
            "UPDATE tasks SET webhook_due = ?, webhook_event = ?, webhook_tries = ? WHERE task_id = ?",
            (due, event, tries, task_id),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _prepare(self, credits_now: int | None) -> None:
        self._database.execute("PRAGMA synchronous = NORMAL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"its schema version is {version}, not {SCHEMA_VERSION}")
        if version == 0:
            self._create_tables()
        oldest = time.time() - KEPT_SECONDS
        if credits_now is not None:
            self._database.execute("UPDATE account SET credits = ?", (credits_now,))
        if self._database.execute("SELECT 1 FROM tasks WHERE submitted < ? LIMIT 1", (oldest,)).fetchone():
            self._delete_before(oldest)

    def _create_tables(self) -> None:
        self._enter_wal()
        with self._transaction() as database:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute("INSERT OR IGNORE INTO account VALUES (1, ?, 0)", (START_CREDITS,))
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _enter_wal(self) -> None:
        """Switch to WAL. SQLite ignores its busy timeout here if two servers start at once."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _delete_before(self, oldest: float) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM tasks WHERE submitted < ?", (oldest,))
            database.execute(
                "DELETE FROM image_prompts WHERE digest NOT IN"
                " (SELECT image_prompt FROM tasks WHERE image_prompt IS NOT NULL)"
            )


def _submission(row: tuple[str, float, float, str, str, str | None]) -> Submission:
    task_id, submitted, seconds, seed, body, image_prompt = row
    return Submission(task_id, submitted, seconds, int(seed, 16), json.loads(body), image_prompt)
