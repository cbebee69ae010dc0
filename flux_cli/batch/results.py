"""`results.jsonl` in a batch directory: one JSON object per row that has ended.

Several runs append to it at the same time. The last line about a row counts, but a finished row stays finished,
because a run that was suspended may append an outdated line. Until the file is complete, the journals keep every
line too, because hosts that share a file system may overwrite each other's lines.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from io import FileIO
from pathlib import Path

from flux_cli.batch.attempt import Object
from flux_cli.batch.journal import Key, decoded, key_of
from flux_cli.storage.files import place, sync, temporary
from flux_cli.storage.filesystem import local_errors, lock
from flux_cli.storage.paths import RESULTS_NAME


class ResultsFile:
    """The results of a batch, for all services.

    Every method raises LocalFileError if the file cannot be read or written.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / RESULTS_NAME

    def read(self, rows: Collection[bytes] | None = None) -> dict[Key, Object]:
        """Return the object that counts for each row, without the response.

        Only for `rows`, if given, whose keys are encoded.
        """
        found: dict[Key, Object] = {}
        with (
            local_errors(self.path, "read"),
            contextlib.suppress(FileNotFoundError),
            self.path.open("rb") as file,
        ):
            for line in file:
                value = decoded(line, rows)
                if value is not None and _replaces(value, found.get(key_of(value))):
                    found[key_of(value)] = {name: each for name, each in value.items() if name != "raw"}
        return found

    def compare(self, lines: Collection[bytes]) -> tuple[bool, bool]:
        """Return whether the file has all of these lines, given by their digests, and whether it has others."""
        found: set[bytes] = set()
        with local_errors(self.path), contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            found.update(digest(line.rstrip(b"\n")) for line in file)
        return found.issuperset(lines), len(found) > len(lines)

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines."""
        content = b"".join(line + b"\n" for line in lines)
        if not content:
            return
        with local_errors(self.path), self._opened() as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_with_newline(file, end):  # after a power failure
                content = b"\n" + content
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:  # on a full disk, half a line must not stay
                file.truncate(end)
                raise

    def tidy(self) -> None:
        """Remove superseded and incomplete lines. Call it only if no other run is alive."""
        if not self.path.exists():
            return
        with local_errors(self.path), self._opened() as file:
            counting: dict[Key, tuple[int, Object]] = {}
            superseded = set()
            for index, line in enumerate(_lines(file)):
                value = decoded(line)
                if value is not None:
                    superseded.add(index)
                    _, earlier = counting.get(key_of(value), (index, None))
                    if _replaces(value, earlier):
                        counting[key_of(value)] = index, {"status": value.get("status")}
                elif not line.strip() or (line.startswith(b'{"row": ') and not line.rstrip().endswith(b"}")):
                    superseded.add(index)
            superseded.difference_update(index for index, _ in counting.values())
            if superseded:
                with temporary(self.path.parent) as new:
                    for index, line in enumerate(_lines(file)):
                        if index not in superseded:
                            new.write(line.rstrip(b"\n") + b"\n")
                    sync(new)
                    place(new, self.path, force=True, exact=True)

    def sync(self) -> None:
        """Make all lines durable."""
        with local_errors(self.path), contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _opened(self) -> Iterator[FileIO]:
        """Open the file, creating it if necessary, and lock it against other processes of this host."""
        while True:
            with self.path.open("a+b", buffering=0) as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    lock(file, wait=True)
                if _is_at(self.path, file):  # not replaced before it was locked
                    yield file
                    return


def digest(line: bytes) -> bytes:
    """Return an 8-byte digest of a line."""
    return hashlib.blake2b(line, digest_size=8).digest()


def _replaces(later: Object, earlier: Object | None) -> bool:
    return earlier is None or later.get("status") == "finished" or earlier.get("status") != "finished"


def _lines(file: FileIO) -> Iterator[bytes]:
    file.seek(0)
    with open(file.fileno(), "rb", closefd=False) as buffered:
        yield from buffered


def _ends_with_newline(file: FileIO, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


def _is_at(path: Path, file: FileIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
