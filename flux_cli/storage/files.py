"""Files that are complete or absent: written beside their target, renamed in one step, never over another file."""

import contextlib
import filecmp
import hashlib
import io
import itertools
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from flux_cli.errors import LocalFileError
from flux_cli.storage.filesystem import host_id, is_shared, local_errors, lock, sync_directory

PREFIX, SUFFIX = ".flux-cli-", ".part"
_NAME = re.compile(rf"{re.escape(PREFIX)}((?P<host>.+)-\d+-)?[0-9a-f]{{16}}{re.escape(SUFFIX)}")
"""Host, process ID and a random number; version 0.1.0 had only the number."""
ABANDONED_SECONDS = 24 * 3600.0
"""The age at which a temporary file counts as abandoned if the file system has no usable locks."""

_numbers = itertools.count(secrets.randbits(63))
_live: set[str] = set()
"""Temporary files of this process, so that an exit in a hurry can remove them."""
_swept: set[Path] = set()
"""Directories in which this process has looked for abandoned files."""


@contextlib.contextmanager
def temporary(directory: Path, *, buffered: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file in `directory`; at the end it is removed, unless it was put in place.

    It is locked while it is open, so that `sweep` recognises what a killed process left behind. Unless it is
    `buffered`, its `write` may write less than all. Raises LocalFileError if the directory cannot be written.
    """
    with local_errors(directory):
        sweep(directory)
        created = _created(directory)
        file = io.BufferedRandom(created) if buffered else created
    try:
        yield file
    finally:
        if sys.platform == "win32":  # an open file cannot be removed there
            _close(file)
        with contextlib.suppress(OSError):  # `remove_live` may have removed it
            os.unlink(file.name)
        _live.discard(file.name)
        _close(file)


def sync(file: BinaryIO) -> None:
    """Make what was written survive a power cut. Raises OSError, for example if the disk is full."""
    file.flush()
    os.fsync(file.fileno())


def write_file(path: Path, content: bytes, *, force: bool, private: bool = False) -> None:
    """Write a whole file or nothing. Raises LocalFileError as `place` does, or if the disk is full."""
    with local_errors(path), temporary(path.parent) as file:
        file.write(content)
        sync(file)
        place(file, path, force=force, exact=True, private=private)


def place(file: BinaryIO, path: Path, *, force: bool, exact: bool, private: bool = False) -> Path:
    """Give a finished temporary file its name, in one step; return the name that it got.

    Args:
        file: From `temporary` in the directory of `path`, synced. It may be closed afterwards.
        path: The name to give.
        force: Replace an existing file (or symbolic link; its target is left alone).
        exact: Accept no other name. Otherwise a name that is taken gets `-1`, `-2` and so on.
        private: Only the user can read it. Otherwise it gets the permissions that the umask allows.

    An existing file of that name with the same content is the result: a crash can come between placing a file
    and recording that it was placed.

    Raises:
        LocalFileError: The name is taken and `exact`, or the directory cannot be written.
    """
    with local_errors(path):
        with contextlib.suppress(OSError):  # some file systems (FAT, network shares) have no permissions
            os.chmod(file.name, 0o600 if private else 0o666 & ~_UMASK)
        if sys.platform == "win32":  # an open file cannot be renamed there
            file.close()
        if force:
            os.replace(file.name, path)
            sync_directory(path.parent)
            return path
        for number in range(10_000):
            candidate = path if number == 0 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            if _linked(file.name, candidate):
                sync_directory(path.parent)
                return candidate
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
            (entry.path, match["host"])
            for entry in entries
            if (match := _NAME.fullmatch(entry.name))
            and entry.is_file(follow_symlinks=False)  # opening somebody's named pipe would block
        ]
    shared = bool(leftovers) and is_shared(directory)
    for path, host in leftovers:
        with contextlib.suppress(OSError):
            _remove_if_abandoned(path, foreign=host not in (None, host_id()), shared=shared)


def _remove_if_abandoned(path: str, *, foreign: bool, shared: bool) -> None:
    """Remove a temporary file unless a process may be writing it.

    On a shared file system a lock may be local to each host, so it says nothing about another host's file.
    """
    if sys.platform == "win32":
        if not foreign:
            os.unlink(path)  # fails while it is open
        return
    with open(path, "rb") as file:
        try:
            free = lock(file, wait=False) and not (foreign and shared)
        except OSError:
            free = not foreign and time.time() - os.fstat(file.fileno()).st_mtime > ABANDONED_SECONDS
        if free:
            os.unlink(path)


def sha256_of(path: Path) -> str:
    """Return the digest of a file's content, in hexadecimal. Raises LocalFileError if it cannot be read."""
    with local_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_live() -> None:
    """Remove this process's temporary files, for an exit that does not wait for the threads that write them."""
    for name in list(_live):
        with contextlib.suppress(OSError):
            os.unlink(name)


def _created(directory: Path) -> io.FileIO:
    while True:
        name = str(directory / f"{PREFIX}{host_id()}-{os.getpid()}-{next(_numbers):016x}{SUFFIX}")
        _live.add(name)
        try:
            file = io.FileIO(name, "x+", opener=partial(os.open, mode=0o600))
        except OSError:
            _live.discard(name)
            raise
        # Between creation and lock another process may take it for abandoned; then a new one is made.
        if _locked(file) and os.path.exists(name):
            return file
        file.close()
        with contextlib.suppress(OSError):
            os.unlink(name)
        _live.discard(name)


def _locked(file: BinaryIO) -> bool:
    """Lock a new temporary file; return False if another process was faster."""
    if sys.platform == "win32":  # it cannot be removed while it is open
        return True
    try:
        return lock(file, wait=False)
    except OSError:  # no locks here: then other processes go by its age
        return True


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a full disk may show only now; `sync` has reported it
        file.close()


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


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once, since reading it means setting it, for all threads
