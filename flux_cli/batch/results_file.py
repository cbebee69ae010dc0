"""`results.jsonl` in a batch's directory: a JSON object for each row that is over, whole lines at every moment.

Several processes may write it at once. Where a row is made again its new line comes after the old one, which goes
at the start or the end of a run; so the last line of a row is the one that counts.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

from flux_cli.api.task import Status
from flux_cli.storage.files import local_errors, place, sync, temporary
from flux_cli.storage.locks import lock

NAME = "results.jsonl"


class ResultsFile:
    """The results of one service in one directory.

    Every method raises LocalFileError where the file cannot be read or written.
    """

    def __init__(self, directory: Path, service: str) -> None:
        """Read what is there."""
        self.path = directory / NAME
        self._service = service
        self._known: dict[int, Status] = {}
        self._superseded = False
        if self.path.exists():
            self.tidy()

    def status_of(self, row: str) -> Status | None:
        """Return how a row ended by the line that was there at the start, None where there was none."""
        return self._known.get(_number((self._service, row)))

    def add(self, row: str, line: int, result: Mapping[str, object]) -> dict[str, object]:
        """Append a row's result; return the object that was written."""
        whole = {"row": row, "line": line, "service": self._service, **result}
        content = json.dumps(whole, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with local_errors(self.path), _opened(self.path) as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_a_line(file, end):  # after a power cut
                content = b"\n" + content
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:  # on a full disk half a line must not stay
                file.truncate(end)
                raise
        self._superseded |= self.status_of(row) is not None
        return whole

    def finish(self) -> None:
        """Remove the lines that this run has superseded."""
        if self._superseded:
            self.tidy()

    def tidy(self) -> None:
        """Keep each row's last line, remove what a power cut left of one, and learn what is there."""
        with local_errors(self.path), _opened(self.path) as file:
            last: dict[int, int] = {}
            droppable = 0
            for index, content in enumerate(_lines(file)):
                owner, status = _read(content)
                droppable += status is _DAMAGED if owner is None else _number(owner) in last
                if owner is not None:
                    last[_number(owner)] = index
                    if owner[0] == self._service:
                        self._known[_number(owner)] = status
            if droppable:
                self._rewrite(file, set(last.values()))
        self._superseded = False

    def _rewrite(self, file: FileIO, kept: set[int]) -> None:
        """Put a file with only some of our lines in the place of this one, whose lock is held."""
        with temporary(self.path.parent) as new:
            for index, content in enumerate(_lines(file)):
                if index in kept or _read(content) == (None, _FOREIGN):
                    new.write(content.rstrip(b"\n") + b"\n")
            sync(new)
            place(new, self.path, force=True, exact=True)


Owner = tuple[str, str]
"""The service and the row that a line belongs to."""
_FOREIGN, _DAMAGED = Status.UNSENT, Status.UNKNOWN
"""What stands for the status of a line that is not ours, and of half a line."""


def _read(content: bytes) -> tuple[Owner | None, Status]:
    """Return whose line it is, and the status that it tells."""
    try:
        value = json.loads(content)
        return (str(value["service"]), str(value["row"])), Status(value["status"])
    except (ValueError, LookupError, TypeError, RecursionError):
        ours = content.startswith(b'{"row": ') and not content.endswith(b"}\n")
        return None, _DAMAGED if ours or not content.strip() else _FOREIGN


def _number(owner: Owner) -> int:
    """Return a number that stands for a row: 8 bytes a row are kept, not its name."""
    return int.from_bytes(hashlib.sha256("\0".join(owner).encode("utf-8", "surrogatepass")).digest()[:8])


def _lines(file: FileIO) -> Iterator[bytes]:
    file.seek(0)
    with open(file.fileno(), "rb", closefd=False) as buffered:
        yield from buffered


def _ends_a_line(file: FileIO, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open the file, made if need be, and lock it against other processes."""
    while True:
        with path.open("a+b", buffering=0) as file:
            lock(file, wait=True)
            if _is_at(path, file):  # not replaced meanwhile
                yield file
                return


def _is_at(path: Path, file: FileIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
