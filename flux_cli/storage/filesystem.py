"""Locks, directories and durable names; which file systems several hosts can share, and this host's name there.

On a shared file system a lock may be local to the host, and SQLite's write-ahead log loses commits as soon as two
hosts write. So each host writes files of its own there.
"""

import contextlib
import errno
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flux_cli.errors import LocalFileError, os_reason

MOUNTS = "/proc/self/mountinfo"

_SHARED = (
    r"9p|acfs|afs|beegfs|ceph|cifs|coda|cvfs|fakeowner|fhgfs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|mfs|ncpfs|nfs4?|"
    r"ocfs2|orangefs|panfs|prl_fs|pvfs2|smb[23]|smbfs|vboxsf|virtiofs|vmhgfs|wekafs"
)
"""Types of network, cluster and hypervisor file systems, as Linux names them. (`fuseblk` is a local disk.)"""


@contextlib.contextmanager
def local_errors(path: Path, action: str = "write", hint: str | None = None) -> Iterator[None]:
    """Turn an OSError about a local path into a LocalFileError: `cannot write PATH: reason`."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"cannot {action} {path}: {os_reason(error)}", hint) from error


def lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock an open file until it is closed or the process ends; return False if another process has it locked.

    Raises OSError if the file system has no locks (some mounts of NFS and Lustre).
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def make_directory(path: Path, mode: int = 0o775) -> None:
    """Create a directory with all its parents, unless it exists. No umask makes them writable by everybody.

    Raises OSError if it cannot be created, or is not a directory.
    """
    if path.is_dir():
        return
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        with contextlib.suppress(FileExistsError):  # another process was faster
            missing.mkdir(mode)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut, if the system can do that."""
    with contextlib.suppress(OSError):  # Windows cannot open a directory
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_shared(path: Path) -> bool:
    """Return whether several hosts may have the file system of `path` mounted. False if unknown.

    Reads the mount table of Linux; on other systems the result is False.
    """
    return re.fullmatch(_SHARED, filesystem_type(path) or "") is not None


def filesystem_type(path: Path) -> str | None:
    """Return the type of the file system of `path`, or of its nearest parent that exists. None if unknown."""
    path = existing = Path(os.path.realpath(path))
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        device = existing.stat().st_dev
        table = Path(MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    numbers = f"{os.major(device)}:{os.minor(device)}"
    nearest: tuple[int, str] | None = None
    for line in table.splitlines():
        mounted, _, source = line.partition(" - ")
        fields = mounted.split()
        if len(fields) < 5 or not source:
            continue
        kind = source.split(" ", 1)[0]
        if fields[2] == numbers:
            return kind
        # Btrfs reports other device numbers than the mount table: then the innermost mount point counts.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if path.is_relative_to(point) and (nearest is None or len(point) >= nearest[0]):
            nearest = len(point), kind
    return nearest[1] if nearest else None


@functools.cache
def host_id() -> str:
    """Return a name for this host that no other one has: its host name, and a digest that includes the machine ID.

    Images of cluster nodes may share the machine ID, and virtual machines the host name.
    """
    import hashlib  # 5 ms together, and only needed here
    import socket

    name = socket.gethostname()
    machine = b""
    with contextlib.suppress(OSError):  # there is none without systemd, and in containers
        machine = Path("/etc/machine-id").read_bytes()
    digest = hashlib.sha256(name.encode(errors="surrogateescape") + b"\0" + machine).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:40] or 'host'}-{digest[:8]}"
