"""Files that are whole or not there: written beside their target, put in place in one step, never over another."""

import contextlib
import filecmp
import hashlib
import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from flux_cli.errors import LocalFileError
from flux_cli.storage.locks import lock

PREFIX, SUFFIX = ".flux-cli-", ".part"

_live: set[str] = set()
"""Temporary files of this process, so that a way out in a hurry can remove them."""
_swept: set[Path] = set()
"""Directories in which this process has looked for leftovers."""


@contextlib.contextmanager
def temporary(directory: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in `directory`; it is removed on the way out, unless it was put in place.

    It is locked while it is open, so that `sweep` can tell what a killed process left behind.

    Raises:
        LocalFileError: The directory cannot be written.
    """
    with local_errors(directory):
        sweep(directory)
        file = _created(directory)
    try:
        yield file
    finally:
        # A second way out may have removed it already.
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        _live.discard(file.name)
        with contextlib.suppress(OSError):  # a full disk may show only now, and has been reported by `sync`
            file.close()


def sync(file: BinaryIO) -> None:
    """Make what was written survive a power cut. Raises OSError, for one where the disk is full."""
    file.flush()
    os.fsync(file.fileno())


def place(file: BinaryIO, path: Path, *, force: bool, exact: bool) -> Path:
    """Give a finished temporary file its name, in one step; return the name that it got.

    Args:
        file: From `temporary`, synced, in the same file system as `path`.
        path: The name to give.
        force: Replace an existing file (or symbolic link; what it points to is left alone).
        exact: No other name will do. Else a name that is taken gets `-1`, `-2` and so on.

    A file of that name which holds the very same bytes is the result: a crash can come between placing a file
    and noting that it was placed.

    Raises:
        LocalFileError: The name is taken and `exact`, or the directory cannot be written.
    """
    with local_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # some file systems (FAT, shares) know no permissions
            os.chmod(file.name, 0o666 & ~_UMASK)
        if force:
            os.replace(file.name, path)
            return _settled(path)
        for number in range(10_000):
            candidate = path if number == 0 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            if _linked(file.name, candidate):
                return _settled(candidate)
            if candidate.is_file() and not candidate.is_symlink() and _same(file.name, candidate):
                return candidate
            if exact:
                raise LocalFileError(f"{path} exists", "choose another name, or replace it with --force")
    raise LocalFileError(f"10,000 files are named like {path}", "choose another name or directory")


def sweep(directory: Path) -> None:
    """Remove temporary files that a killed process left in a directory, once per process and directory."""
    directory = directory.absolute()
    if directory in _swept:
        return
    _swept.add(directory)
    with os.scandir(directory) as entries:
        leftovers = [
            entry.path
            for entry in entries
            if entry.name.startswith(PREFIX)
            and entry.name.endswith(SUFFIX)
            and entry.is_file(follow_symlinks=False)  # to open somebody's named pipe would wait for ever
        ]
    for leftover in leftovers:
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            if _lock(file):
                os.unlink(leftover)


def sha256_of(path: Path) -> str:
    """Return the digest of a file's content, in hexadecimal. Raises LocalFileError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def remove_live() -> None:
    """Remove this process's temporary files, for a way out that does not wait for the threads that write them."""
    for name in list(_live):
        with contextlib.suppress(OSError):
            os.unlink(name)


@contextlib.contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about a local path into a LocalFileError that names it."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error


def _created(directory: Path) -> BinaryIO:
    while True:
        name = directory / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        _live.add(str(name))
        opener = partial(os.open, mode=0o600)
        file = open(name, "x+b", opener=opener)  # noqa: SIM115 - `temporary` closes it
        # Between creation and lock another process may take it for a leftover; then a new one is made.
        if _lock(file) and os.path.exists(name):
            return file
        with contextlib.suppress(OSError):
            os.unlink(name)
        _live.discard(str(name))
        file.close()


def _lock(file: BinaryIO) -> bool:
    """Lock a file against other processes; return whether it was free."""
    try:
        return lock(file, wait=False)
    except OSError:  # a file system without locks (some Lustre and NFS mounts): nobody else has one there either
        return True


def _linked(temporary_name: str, path: Path) -> bool:
    """Give the file its final name unless that is taken; return whether it got it."""
    try:
        os.link(temporary_name, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links (FAT, some network shares): a moment remains in which two may collide.
        if os.path.lexists(path):
            return False
        os.rename(temporary_name, path)
    return True


def _same(one: str, other: Path) -> bool:
    return os.path.getsize(one) == os.path.getsize(other) and filecmp.cmp(one, other, shallow=False)


def _settled(path: Path) -> Path:
    """Make a new name survive a power cut, where the system can do that for a directory."""
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return path


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once, since reading it means setting it, for all threads
