"""Journal of final webhook events that got a 200 and have not been handled: the service never resends them.

Each process has its own file, locked while it runs. The next process takes over the files of those that ended.
There is no fsync: the file survives a killed process, and after a power failure the history has the tasks.
"""

import contextlib
import json
import secrets
from pathlib import Path
from typing import BinaryIO

from flux_cli.storage.filesystem import local_errors, lock
from flux_cli.storage.paths import state_directory
from flux_cli.webhooks.event import WebhookEvent, read_event

SUFFIX = ".jsonl"


class EventJournal:
    """The events of one process, and those that earlier processes left."""

    def __init__(self, directory: Path | None = None) -> None:
        """Open a new file, and take over the events of processes that ended.

        Raises:
            LocalFileError: The directory cannot be read or written.
        """
        self._directory = directory or state_directory() / "webhooks"
        with local_errors(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            left = [path for path in sorted(self._directory.glob(f"*{SUFFIX}")) if path.is_file()]
            self._path = self._directory / f"{secrets.token_hex(8)}{SUFFIX}"
            self._file: BinaryIO = self._path.open("xb", buffering=0)
            lock(self._file, wait=False)
            self.unprocessed = [event for path in left for event in self._take_over(path)]
        self._open = {event.task.task_id for event in self.unprocessed}

    def add(self, event: WebhookEvent) -> None:
        """Append an event. Errors are ignored, since the event can still be handled."""
        self._open.add(event.task.task_id)
        with contextlib.suppress(OSError):
            self._write({"event": event.body.decode("utf-8", "surrogateescape")})

    def remove(self, event: WebhookEvent) -> None:
        """Record that an event was handled."""
        self._open.discard(event.task.task_id)
        with contextlib.suppress(OSError):
            self._write({"handled": event.task.task_id})

    def close(self) -> None:
        """Close the file, and delete it if every event in it was handled."""
        self._file.close()
        if not self._open:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, entry: dict[str, str]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")

    def _take_over(self, path: Path) -> list[WebhookEvent]:
        """Copy the open events of a process that ended into this process's file, and delete the other file."""
        with path.open("rb") as file:
            if not lock(file, wait=False):
                return []
            events = _open_events(file.read())
            for event in events:
                self._write({"event": event.body.decode("utf-8", "surrogateescape")})
        path.unlink(missing_ok=True)
        return events


def _open_events(content: bytes) -> list[WebhookEvent]:
    """Return the events of a file that were not handled; an incomplete last line is ignored."""
    found: dict[str, WebhookEvent] = {}
    for line in content.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = json.loads(line)
            if "handled" in entry:
                found.pop(entry["handled"], None)
            else:
                event = read_event(entry["event"].encode("utf-8", "surrogateescape"))
                found[event.task.task_id] = event
    return list(found.values())
