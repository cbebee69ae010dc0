"""The journals of a batch: what each run does with each row. A submission is recorded before it is sent.

Each run appends to its own journal, so no two hosts write the same file. An intent is durable before its
request is sent, and a task ID as soon as it arrives. Rows are identified by service and key, never by a path or
the number of shards. Journals contain no secrets.

Runs work on a row one after the other, see `claims`. Each numbers its journal one higher than all earlier ones, so
their order does not depend on a clock.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_cli.api.task import Status
from flux_cli.batch.plan import KnownRow, RowState, state_of
from flux_cli.errors import LocalFileError, os_reason
from flux_cli.storage.filesystem import local_errors, sync_directory

INTENT, ACCEPTED, UNSENT, FINISHED, CLOSED = "intent", "accepted", "unsent", "finished", "closed"
"""The events: about to be sent; task ID received; certainly not accepted; picture available; result known."""

O_BINARY: int = getattr(os, "O_BINARY", 0)
"""On Windows: write newlines as they are."""
_NAME = re.compile(r"journal-(\d{6,12})-.+\.jsonl")
ROW_PREFIX = re.compile(rb'\{"row": ("(?:[^"\\]|\\.)*")')
"""The start of each line, also in the results. Lines of other rows are skipped without being parsed."""


class Journal:
    """The journal of this run. Its file is created with the first entry."""

    def __init__(self, directory: Path, service: str, name: str, number: int) -> None:
        """`name` shows which process wrote the journal; `number` is higher than those of all earlier journals."""
        self.path = directory / f"journal-{number:06d}-{name}-{secrets.token_hex(4)}.jsonl"
        self._service = service
        self._file = -1
        self._size = 0
        self._incomplete = False

    def line(self, row: str, event: str, **values: object) -> bytes:
        """Return the line about an event."""
        return encoded({"row": row, "service": self._service, "event": event, **values})

    def closed_line(self, row: str, result: bytes) -> bytes:
        """Return the line about a row that has ended; `result` is already encoded."""
        return self.line(row, CLOSED)[:-1] + b', "result": ' + result + b"}"

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines; return when they are durable.

        Raises:
            LocalFileError: They could not be written; none of them counts.
        """
        content = b"".join(line + b"\n" for line in lines)
        if not content:
            return
        with local_errors(self.path):
            if self._file < 0:
                self._create()
            if self._incomplete:
                os.ftruncate(self._file, self._size)
            self._incomplete = True
            _write(self._file, content)
            self._incomplete = False
            self._size += len(content)
            if not self.path.exists():  # another run considered this one dead
                self._create()
                _write(self._file, content)
                self._size = len(content)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _create(self) -> None:
        self.close()
        self._size = 0
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | O_BINARY, 0o666)
        for directory in (self.path.parent, self.path.parent.parent):
            sync_directory(directory)


def encoded(value: Mapping[str, object] | str) -> bytes:
    """Return an object or a key as it is encoded in journals and results."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


@dataclass
class Attempt:
    """One submission of a row and its outcome, if known."""

    state: RowState = RowState.UNKNOWN
    journal: str = ""
    created: float | None = None
    task_id: str | None = None
    request: Mapping[str, object] | None = None
    result: Mapping[str, object] | None = None

    @classmethod
    def of_result(cls, result: Mapping[str, object]) -> "Attempt":
        """Return the attempt that a line of the results is about."""
        request = result.get("request")
        attempt = cls(request=request if isinstance(request, dict) else None)
        attempt.close(result)
        return attempt

    def apply(self, event: object, entry: Mapping[str, object]) -> None:
        """Apply an event. A certain state replaces an uncertain one, never the reverse."""
        if event == CLOSED and isinstance(result := entry.get("result"), dict):
            self.close(result)
        elif event in (ACCEPTED, FINISHED):
            self.task_id = _text(entry.get("task_id")) or self.task_id
            if self.state in _UNCERTAIN:
                self.state = RowState.SUBMITTED
        elif event == UNSENT and self.state is RowState.UNKNOWN:
            self.state = RowState.NEW

    def close(self, result: Mapping[str, object]) -> None:
        """Apply the result."""
        task_id, exit_code = _text(result.get("task_id")), result.get("exit_code")
        code = exit_code if isinstance(exit_code, int) else None
        try:
            state = state_of(Status(str(result.get("status"))), task_id, result.get("path"), code)
        except ValueError:
            return
        self.task_id = task_id or self.task_id
        if state is RowState.DONE or (state is RowState.FAILED and self.state is not RowState.DONE):
            self.state, self.result = state, result
        elif state is RowState.UNKNOWN and self.state is RowState.UNKNOWN:
            self.result = result
        elif self.state in _UNCERTAIN and state is not RowState.UNKNOWN:
            self.state = state

    def known(self) -> KnownRow:
        """Return what a plan needs to know about it."""
        result = self.result or {}
        exit_code = result.get("exit_code")
        return KnownRow(
            self.state,
            self.task_id,
            self.request,
            _text(result.get("path")),
            exit_code if isinstance(exit_code, int) else None,
            None if self.created is None else max(0.0, time.time() - self.created),
        )


_UNCERTAIN = (RowState.UNKNOWN, RowState.NEW)


def best(attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt that determines a row's state, so that no accepted request is resubmitted.

    A row with a picture is done, and a task that was accepted is waited for, whatever later attempts did.
    """
    for states in ((RowState.DONE,), (RowState.SUBMITTED,), (RowState.FAILED, RowState.UNKNOWN)):
        for attempt in reversed(attempts):
            if attempt.state in states:
                return attempt
    return attempts[-1]


Entry = Mapping[str, object]
Key = tuple[str, str]
"""The service and the key of a row."""


@dataclass(frozen=True)
class Journals:
    """All journals of a batch.

    Attributes:
        files: The files, in the order of their runs.
        entries: Each entry with the name of its file, in the order of the runs.
    """

    files: Sequence[Path]
    entries: Sequence[tuple[str, Entry]]

    @property
    def keys(self) -> set[Key]:
        """The rows that the journals mention."""
        return {(str(entry["service"]), str(entry["row"])) for _, entry in self.entries}

    @property
    def next_number(self) -> int:
        """The number of the next journal."""
        return max((_number(path.name) or 0 for path in self.files), default=0) + 1

    def attempts(self, results: Mapping[Key, Entry]) -> dict[Key, list[Attempt]]:
        """Return the attempts for each row, the oldest first. Results are older than the entries of journals."""
        rows = {key: [Attempt.of_result(result)] for key, result in results.items()}
        for journal, entry in self.entries:
            attempts = rows.setdefault((str(entry["service"]), str(entry["row"])), [])
            _attempt_of(attempts, journal, entry).apply(entry.get("event"), entry)
        return rows


def _attempt_of(attempts: list[Attempt], journal: str, entry: Entry) -> Attempt:
    """Return the attempt that an entry is about, which is a new one for an intent."""
    own = [attempt for attempt in attempts if attempt.journal == journal]
    if entry.get("event") == INTENT:
        created, request = entry.get("time"), entry.get("request")
        attempts.append(
            Attempt(
                journal=journal,
                created=created if isinstance(created, int | float) else None,
                request=request if isinstance(request, dict) else None,
            )
        )
        return attempts[-1]
    task_id = _task_id_of(entry)
    same = [attempt for attempt in attempts if task_id is not None and attempt.task_id == task_id]
    found = own or same or attempts
    if not found:
        attempts.append(Attempt())
    return (found or attempts)[-1]


def _task_id_of(entry: Entry) -> str | None:
    result = entry.get("result")
    return _text(entry.get("task_id") or (result.get("task_id") if isinstance(result, dict) else None))


def files(directory: Path) -> list[Path]:
    """Return the journals in a directory, in the order of their runs. Raises LocalFileError."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalFileError(f"cannot read {directory}: {os_reason(error)}") from None
    names = [name for name in names if _number(name) is not None]
    return [directory / name for name in sorted(names, key=lambda name: (_number(name) or 0, name))]


def read(directory: Path, rows: Collection[str] | None = None) -> Journals:
    """Read the journals of all runs, but only the entries about `rows`, if given.

    An incomplete last line, which a crash left, is ignored: nothing that depends on it was done.

    Raises:
        LocalFileError: A journal cannot be read.
        FileNotFoundError: A journal was removed after the listing. All its rows are in the results.
    """
    paths = files(directory)
    wanted = None if rows is None else {encoded(row) for row in rows}
    entries = []
    for path in paths:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LocalFileError(f"cannot read {path}: {os_reason(error)}") from None
        for line in content.split(b"\n"):
            match = ROW_PREFIX.match(line)
            if match and (wanted is None or match[1] in wanted) and (entry := _entry(line)):
                entries.append((path.name, entry))
    return Journals(paths, entries)


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
        return entry if isinstance(entry["row"], str) and isinstance(entry["service"], str) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _number(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
