"""Locks between processes, which end with the process that holds them, however it ends."""

import sys
from typing import BinaryIO


def lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock an open file until it is closed; return False if another process has it and `wait` is false.

    Raises:
        OSError: The file system has no locks (some mounts of NFS and Lustre).
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
