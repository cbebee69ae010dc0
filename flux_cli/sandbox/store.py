"""The sandbox's tasks and credits on disk: one SQLite file that several servers can use at once."""

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flux_cli.errors import LocalFileError
from flux_cli.sandbox.faults import Faults, faults_in
from flux_cli.sandbox.tasks import Task
from flux_cli.storage.filesystem import make_directory

KEPT_SECONDS = 7 * 24 * 3600
"""Older tasks are deleted when a server starts, to bound the file's size."""
BUSY_SECONDS = 10.0

_SCHEMA = """
BEGIN IMMEDIATE;
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
INSERT OR IGNORE INTO account VALUES (1, 1000, 0);
PRAGMA user_version = 1;
COMMIT;
"""


class TaskStore:
    """Reads and writes the file; for one thread at a time.

    A task is stored when `accept` returns, so it survives a kill of the server. There is no fsync
    (synchronous=NORMAL): only a crash of the machine loses the newest tasks, which cost nothing.
    """

    def __init__(self, directory: Path, credits_now: int | None, faults: Faults) -> None:
        """Open or create the file, in a directory that gets mode 0700 if it is missing.

        `credits_now` is the new balance; None keeps the stored one (1000 at first). All tasks have the server's
        faults; if a prompt has the same, its arguments win.

        Raises:
            LocalFileError: The directory or the file cannot be used.
        """
        self._faults = faults
        path = directory / "tasks.sqlite3"
        try:
            make_directory(directory, 0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE", check_same_thread=False
            )
            self._prepare(credits_now)
        except (OSError, sqlite3.Error) as error:
            hint = "remove it to start over; it contains only the tasks of the sandbox"
            if isinstance(error, OSError | sqlite3.OperationalError):
                hint = "set XDG_STATE_HOME to a writable directory"
            raise LocalFileError(f"cannot use {path}: {error}", hint) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def accept(self, task: Task, image_prompt: bytes | None, webhook_due: float | None, price: int) -> bool:
        """Store a task and charge its price in credits; return False, storing nothing, if they do not suffice."""
        with self._database as database:
            charged = database.execute(
                "UPDATE account SET credits = credits - :price, total_images = total_images + 1"
                " WHERE credits >= :price",
                {"price": price},
            )
            if not charged.rowcount:
                return False
            seed = hex(task.seed)  # SQLite's integers have 64 bits, a seed can have more
            body = json.dumps(task.body)
            database.execute(
                "INSERT INTO tasks (task_id, submitted, seconds, seed, body, image_prompt, webhook_due)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (task.task_id, task.submitted, task.seconds, seed, body, task.image_prompt, webhook_due),
            )
            if image_prompt is not None:
                database.execute(
                    "INSERT OR IGNORE INTO image_prompts VALUES (?, ?)", (task.image_prompt, image_prompt)
                )
        return True

    def find(self, task_id: str) -> Task | None:
        """Return a task that a server with this file has accepted; None for one with the fault `unknown-task`."""
        if not task_id.isascii():  # SQLite rejects half of a surrogate pair
            return None
        row = self._database.execute("SELECT * FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        task = self._task(row) if row else None
        return None if task and "unknown-task" in task.faults else task

    def image_prompt(self, task: Task) -> bytes | None:
        """Return the bytes of a task's image prompt, if it has one."""
        find = "SELECT bytes FROM image_prompts WHERE digest = ?"
        row = self._database.execute(find, (task.image_prompt,)).fetchone()
        return row[0] if row else None

    def account(self) -> tuple[int, int]:
        """Return the credits left and the number of images."""
        credits_left, images = self._database.execute("SELECT credits, total_images FROM account").fetchone()
        return credits_left, images

    def claim_webhook(self, now: float, lease: float) -> tuple[Task, int, int] | None:
        """Claim one event that is due; other servers cannot claim it until `now + lease` (seconds).

        Return its task, its number within the task (from 0), and how often posting it has failed. Call
        `settle_webhook` afterwards. If the server ends before that, another one claims the event.
        """
        if (due := self.next_webhook()) is None or due > now:  # without a lock, which others would wait for
            return None
        with self._database as database:
            rows = database.execute(
                "UPDATE tasks SET webhook_due = ? WHERE task_id = ("
                " SELECT task_id FROM tasks WHERE webhook_due <= ? ORDER BY webhook_due LIMIT 1)"
                " RETURNING *",
                (now + lease, now),
            ).fetchall()
        return next(((self._task(row), row[-2], row[-1]) for row in rows), None)

    def next_webhook(self) -> float | None:
        """Return the Unix time at which the next event is due; None if there is none."""
        find = "SELECT min(webhook_due) FROM tasks WHERE webhook_due IS NOT NULL"
        due: float | None = self._database.execute(find).fetchone()[0]
        return due

    def settle_webhook(self, task_id: str, due: float | None, event: int, tries: int) -> None:
        """Store when (None: never) and which event of a task is posted next."""
        with self._database as database:
            database.execute(
                "UPDATE tasks SET webhook_due = ?, webhook_event = ?, webhook_tries = ? WHERE task_id = ?",
                (due, event, tries, task_id),
            )

    def _prepare(self, credits_now: int | None) -> None:
        self._database.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, 1):
            raise sqlite3.DatabaseError(f"its schema version is {version}, not 1")
        if version == 0:
            self._enter_wal()
            self._database.executescript(_SCHEMA)
        with self._database as database:
            if credits_now is not None:
                database.execute("UPDATE account SET credits = ?", (credits_now,))
            if database.execute("DELETE FROM tasks WHERE submitted < ?", (time.time() - KEPT_SECONDS,)).rowcount:
                database.execute(
                    "DELETE FROM image_prompts WHERE digest NOT IN"
                    " (SELECT image_prompt FROM tasks WHERE image_prompt IS NOT NULL)"
                )

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

    def _task(self, row: Sequence[Any]) -> Task:
        task_id, submitted, seconds, seed, body, image_prompt = row[:6]
        request = json.loads(body)
        faults = {**self._faults, **faults_in(request["prompt"])}
        return Task(task_id, submitted, seconds, int(seed, 16), request, faults, image_prompt)
