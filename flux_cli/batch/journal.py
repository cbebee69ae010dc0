"""The journals of a batch: what each run does with each row. A submission is recorded before it is sent.

Each run appends to its own journal, so no two hosts write the same file. An intent is durable before its
request is sent, and a task ID as soon as it arrives. Rows are identified by service and key, never by a path or
the number of shards. Journals contain no secrets.

Runs work on a row one after the other, see `claims`. The number of a run is one higher than those of all earlier
ones, so the order of the journals does not depend on a clock.
"""

import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_cli.batch.attempt import Attempt, Object, text_of
from flux_cli.errors import LocalFileError, os_reason
from flux_cli.storage.filesystem import local_errors, sync_directory

_O_BINARY: int = getattr(os, "O_BINARY", 0)  # of Windows: write newlines as they are
INTENT, ACCEPTED, UNSENT, FINISHED, CLOSED = "intent", "accepted", "unsent", "finished", "closed"
"""The events: about to be sent; task ID received; certainly not accepted; picture available; result known."""

_NAME = re.compile(r"journal-(\d{6,12})-.+\.jsonl")
_ROW_PREFIX = re.compile(rb'\{"row": ("(?:[^"\\]|\\.)*")')
"""The start of each line, also in the results."""


class Journal:
    """The journal of this run. Its file is created with the first entry."""

    def __init__(self, directory: Path, service: str, process: str, run: int) -> None:
        """`process` is part of the file's name, for people; `run` is the number of the run."""
        self.path = directory / f"journal-{run:06d}-{process}-{secrets.token_hex(4)}.jsonl"
        self._service = service
        self._file = -1
        self._size = 0

    def entry(self, row: str, event: str, **values: object) -> bytes:
        """Return the entry about an event, encoded."""
        return encoded({"row": row, "service": self._service, "event": event, **values})

    def append(self, entries: Iterable[bytes]) -> None:
        """Append entries; return when they are durable.

        Raises:
            LocalFileError: They could not be written; none of them counts.
        """
        content = b"".join(entry + b"\n" for entry in entries)
        if not content:
            return
        with local_errors(self.path):
            if self._file < 0:
                self._create()
            os.ftruncate(self._file, self._size)  # half an entry may be left from a full disk
            _write(self._file, content)
            if not self.path.exists():  # another run considered this one dead
                self._create()
                _write(self._file, content)
            self._size += len(content)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _create(self) -> None:
        self.close()
        self._size = 0
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _O_BINARY, 0o666)
        for directory in (self.path.parent, self.path.parent.parent):
            sync_directory(directory)


def encoded(value: Object | str) -> bytes:
    """Return an object or the key of a row as it is encoded in journals and results."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def decoded(line: bytes, rows: Collection[bytes] | None = None) -> Object | None:
    """Return the object in a line, or None if it is not about a row, or not about one of `rows`: encoded keys."""
    if rows is not None and (match := _ROW_PREFIX.match(line)) and match[1] not in rows:
        return None  # without parsing the line
    try:
        value: Object = json.loads(line)
        if not (isinstance(value["row"], str) and isinstance(value["service"], str)):
            return None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value if rows is None or encoded(value["row"]) in rows else None


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


Key = tuple[str, str]
"""The service and the key of a row."""


@dataclass(frozen=True)
class Journals:
    """All journals of a batch: the files, and each entry with the name of its file, in the order of the runs."""

    files: Sequence[Path]
    entries: Sequence[tuple[str, Object]]

    @property
    def keys(self) -> set[Key]:
        """The rows that the journals mention."""
        return {key_of(entry) for _, entry in self.entries}

    @property
    def next_run(self) -> int:
        """The number of the next run."""
        return max((_run_of(path.name) or 0 for path in self.files), default=0) + 1

    def attempts(self, results: Mapping[Key, Object]) -> dict[Key, list[Attempt]]:
        """Return the attempts for each row, the oldest first. Results are older than the entries of journals."""
        rows = {key: [Attempt.of_result(result)] for key, result in results.items()}
        for journal, entry in self.entries:
            _apply(rows.setdefault(key_of(entry), []), journal, entry)
        return rows


def key_of(value: Object) -> Key:
    """Return which row an entry of a journal or an object of the results is about."""
    return str(value["service"]), str(value["row"])


def _apply(attempts: list[Attempt], journal: str, entry: Object) -> None:
    """Apply an entry to the attempt that it is about, which is a new one for an intent."""
    event, result = entry.get("event"), entry.get("result")
    if event == INTENT:
        created, request = entry.get("time"), entry.get("request")
        attempts.append(
            Attempt(
                request=request if isinstance(request, dict) else None,
                created=created if isinstance(created, int | float) else None,
                journal=journal,
            )
        )
        return
    result = result if isinstance(result, dict) else {}
    task_id = text_of(entry, "task_id") or text_of(result, "task_id")
    own = [attempt for attempt in attempts if attempt.journal == journal]
    same = [attempt for attempt in attempts if task_id is not None and attempt.task_id == task_id]
    if not attempts:
        attempts.append(Attempt())
    attempt = (own or same or attempts)[-1]
    if event in (ACCEPTED, FINISHED):
        attempt.accept(task_id)
    elif event == UNSENT:
        attempt.withdraw()
    elif event == CLOSED:
        attempt.close(result)


def files(directory: Path) -> list[Path]:
    """Return the journals in a directory, in the order of their runs. Raises LocalFileError."""
    with local_errors(directory, "read"):
        runs = {name: run for name in os.listdir(directory) if (run := _run_of(name)) is not None}
    return [directory / name for name in sorted(runs, key=lambda name: (runs[name], name))]


def read(directory: Path, rows: Collection[bytes] | None = None) -> Journals:
    """Read the journals of all runs, but only the entries about `rows`, if given, whose keys are encoded.

    An incomplete last line, which a crash left, is ignored: nothing that depends on it was done. All rows of a
    journal that is removed meanwhile are in the results, which have to be read afterwards.

    Raises:
        LocalFileError: A journal cannot be read.
    """
    paths = files(directory)
    entries: list[tuple[str, Object]] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                entries += [(path.name, entry) for line in file if (entry := decoded(line, rows))]
        except FileNotFoundError:
            return read(directory, rows)
        except OSError as error:
            raise LocalFileError(f"cannot read {path}: {os_reason(error)}") from None
    return Journals(paths, entries)


def _run_of(name: str) -> int | None:
    """Return the number of the run that wrote a journal, or None if a file is not a journal."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None
