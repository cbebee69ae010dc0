"""File systems that fill up or cannot be written; they need root and the right to mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def tmpfs(path: Path, size: str = "1m") -> Iterator[Path]:
    """Mount an empty file system of this size in bytes at a directory. Skips the test if that is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def mount(*arguments: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a file system that is full or read-only, since only root can mount one")
    mounted = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a file system that is full or read-only: {mounted.stderr.strip()}")


def make_read_only(path: Path) -> None:
    mount("-o", "remount,ro", str(path))


def fill(path: Path) -> None:
    """Fill a file system to the last byte."""
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
