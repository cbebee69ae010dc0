"""Files that are complete or absent: names, durability, and leftovers of killed processes."""

import errno
import io
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO
from unittest import mock

import pytest

from flux_cli.errors import LocalFileError
from flux_cli.storage import files, filesystem
from flux_cli.storage.filesystem import host_id, make_directory


@pytest.fixture(autouse=True)
def not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test sweep its directories again."""
    monkeypatch.setattr(files, "_swept", set())


def write(path: Path, content: bytes = b"new", *, force: bool = False, exact: bool = False) -> Path:
    with files.temporary(path.parent) as file:
        file.write(content)
        files.sync(file)
        return files.place(file, path, force=force, exact=exact)


def test_placing(tmp_path: Path) -> None:
    """A name that is taken gets a number; the same content under the same name is the same file."""
    path = tmp_path / "x.png"
    assert write(path, b"one") == path
    assert write(path, b"one") == path
    assert write(path, b"one", exact=True) == path
    assert write(path, b"two") == tmp_path / "x-1.png"
    assert write(path, b"two") == tmp_path / "x-1.png"
    with pytest.raises(LocalFileError, match="exists"):
        write(path, b"two", exact=True)
    assert write(path, b"two", force=True) == path
    assert sorted(os.listdir(tmp_path)) == ["x-1.png", "x.png"]
    assert path.read_bytes() == b"two"


def test_the_same_size_is_not_the_same_content(tmp_path: Path) -> None:
    with files.temporary(tmp_path) as file:
        file.write(b"two")
        files.sync(file)
        (tmp_path / "x.png").write_bytes(b"one")
        for name in (file.name, tmp_path / "x.png"):
            os.utime(name, (1, 1))
        assert files.place(file, tmp_path / "x.png", force=False, exact=False) == tmp_path / "x-1.png"


@pytest.mark.parametrize(("private", "mode"), [(False, 0o640), (True, 0o600)])
def test_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool, mode: int) -> None:
    """Only the user can read an incomplete file, or a private one; others get the umask's permissions."""
    monkeypatch.setattr(files, "_UMASK", 0o027)
    with files.temporary(tmp_path) as file:
        assert os.stat(file.name).st_mode & 0o777 == 0o600
        path = files.place(file, tmp_path / "x", force=False, exact=False, private=private)
    assert path.stat().st_mode & 0o777 == mode


def test_reading_the_umask() -> None:
    before = os.umask(0o027)
    assert files._read_umask() == 0o027
    assert os.umask(before) == 0o027


def test_the_end_of_a_temporary_file(tmp_path: Path) -> None:
    """All descriptors are closed. A file that cannot be created, as its directory was removed, is forgotten."""
    write(tmp_path / "x.png")
    opened = [os.path.realpath(entry) for entry in os.scandir("/proc/self/fd")]
    assert not [path for path in opened if path.startswith(str(tmp_path))]
    for options, kind in (({}, io.BufferedRandom), ({"buffered": False}, io.FileIO)):
        with files.temporary(tmp_path, **options) as file:
            assert type(file) is kind
        assert file.closed
    (tmp_path / "gone").mkdir()
    files.sweep(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(LocalFileError, match="no such file"), files.temporary(tmp_path / "gone"):
        pass
    assert files._live == set()


@pytest.mark.parametrize("force", [False, True])
def test_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    """A file is closed before it is renamed or removed, which fails there while it is open."""

    def checked(function: Callable[..., None]) -> Callable[..., None]:
        def call(source: str, *arguments: object) -> None:
            opened = {os.path.realpath(entry) for entry in os.scandir("/proc/self/fd")}
            if os.path.realpath(source) in opened:
                raise PermissionError(errno.EACCES, "Permission denied")
            function(source, *arguments)

        return call

    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    abandoned = leftover(tmp_path, host_id())
    assert write(tmp_path / "x.png", force=force) == tmp_path / "x.png"
    assert not abandoned.exists()
    with pytest.raises(KeyError), files.temporary(tmp_path):
        raise KeyError
    assert os.listdir(tmp_path) == ["x.png"]


def test_locks_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte is locked, whatever was read before; that another process has it is no error."""
    calls: list[tuple[int, str, int]] = []

    def locking(descriptor: int, mode: str, size: int) -> None:
        calls.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, size))
        if len(calls) > 2:
            raise PermissionError(errno.EACCES, "Permission denied")

    msvcrt = SimpleNamespace(locking=locking, LK_LOCK="wait", LK_NBLCK="at once")
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(filesystem, "sys", SimpleNamespace(platform="win32"))
    with (tmp_path / "x").open("w+b", buffering=0) as file:
        file.write(b"content")
        assert [filesystem.lock(file, wait=wait) for wait in (True, False, False)] == [True, True, False]
    assert calls == [(0, "wait", 1), (0, "at once", 1), (0, "at once", 1)]


def test_locks(tmp_path: Path) -> None:
    """Of two open files only the first one gets the lock, until it is closed."""
    with (tmp_path / "x").open("wb") as first, (tmp_path / "x").open("rb") as second:
        assert filesystem.lock(first, wait=True)
        assert not filesystem.lock(second, wait=False)
        first.close()
        assert filesystem.lock(second, wait=False)


def test_placing_over_a_link(tmp_path: Path) -> None:
    """Its target is never written; only `force` replaces the link."""
    (tmp_path / "target").write_bytes(b"mine")
    link = tmp_path / "link.png"
    link.symlink_to("target")
    assert write(link, b"mine") == tmp_path / "link-1.png"
    assert write(link, b"new", force=True) == link
    assert not link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_placing_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT: renamed, and never over another file."""
    monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "no hard links")))
    assert write(tmp_path / "x.png", b"one") == tmp_path / "x.png"
    assert write(tmp_path / "x.png", b"two") == tmp_path / "x-1.png"
    assert sorted(os.listdir(tmp_path)) == ["x-1.png", "x.png"]


def test_no_name_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up after 10,000 names, and replaces no file."""
    link = mock.Mock(side_effect=FileExistsError)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(LocalFileError, match="10,000 files are named like"):
        write(tmp_path / "x.png")
    tried = [call.args[1].name for call in link.call_args_list]
    assert (len(tried), tried[:2], tried[-1]) == (10_000, ["x.png", "x-1.png"], "x-9999.png")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """An exception inside the block removes the temporary file, and so does an exit after a second signal."""
    with pytest.raises(KeyError), files.temporary(tmp_path):
        raise KeyError
    assert os.listdir(tmp_path) == []
    with files.temporary(tmp_path) as file:
        files.remove_live()
        assert not os.path.exists(file.name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
def test_content_before_name_and_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """The content is synced before the file gets its name, and the directory afterwards."""
    events: list[str] = []

    def spy(name: str, described: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> None:
            events.append(described(*arguments))
            real(*arguments)

        monkeypatch.setattr(os, name, call)

    def synced(descriptor: int) -> str:
        about = os.fstat(descriptor)
        return "directory" if stat.S_ISDIR(about.st_mode) else f"{about.st_size} bytes"

    spy("fsync", synced)
    spy("link", lambda *_: "name")
    spy("replace", lambda *_: "name")
    write(tmp_path / "x.png", b"12345", force=force)
    assert events == ["5 bytes", "name", "directory"]
    events.clear()
    files.write_file(tmp_path / "config.toml", b"123", force=force)
    assert events == ["3 bytes", "name", "directory"]


def leftover(directory: Path, host: str | None = None, age: float = 0.0) -> Path:
    """Leave a temporary file behind, as a killed process does; return its path."""
    owner = "" if host is None else f"{host}-{2**22}-"
    path = directory / f"{files.PREFIX}{owner}{'0' * 16}{files.SUFFIX}"
    path.write_bytes(b"partial")
    os.utime(path, (time.time() - age,) * 2)
    return path


OTHER_HOST = "other-01234567"
NO_LOCK = mock.Mock(side_effect=OSError(errno.ENOLCK, "no locks available"))
YOUNG, OLD = 23 * 3600.0, 25 * 3600.0


@pytest.mark.parametrize(
    ("host", "shared", "locks", "age", "removed"),
    [
        (host_id(), False, True, 0, True),
        (None, False, True, 0, True),
        (OTHER_HOST, False, True, 0, True),  # a container on this machine: the lock counts
        (host_id(), True, True, 0, True),
        (OTHER_HOST, True, True, OLD, False),
        (host_id(), True, False, YOUNG, False),
        (host_id(), True, False, OLD, True),
        (None, True, False, OLD, True),
        (OTHER_HOST, True, False, OLD, False),
        (OTHER_HOST, False, False, OLD, False),
    ],
)
def test_sweeping(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str | None,
    shared: bool,
    locks: bool,
    age: float,
    removed: bool,
) -> None:
    """Without locks the age decides; on a shared file system another host's file is never removed."""
    monkeypatch.setattr(files, "is_shared", lambda _: shared)
    if not locks:
        monkeypatch.setattr(files, "lock", NO_LOCK)
    path = leftover(tmp_path, host, age)
    with files.temporary(tmp_path):
        assert path.exists() is not removed


@pytest.mark.parametrize(
    ("first", "second"), [(filesystem.lock, filesystem.lock), (filesystem.lock, NO_LOCK), (NO_LOCK, NO_LOCK)]
)
def test_a_running_download_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: object, second: object
) -> None:
    """By another process: it looks at the lock or, without locks, at the age."""
    monkeypatch.setattr(files, "lock", first)
    with files.temporary(tmp_path) as file:
        monkeypatch.setattr(files, "lock", second)
        monkeypatch.setattr(files, "_swept", set())
        files.sweep(tmp_path)
        assert os.path.exists(file.name)


def test_new_file_is_swept_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its creation and its lock it may; then another one is created."""
    outcomes = ["locked by the other", "removed by the other", "ours"]

    def lock(file: BinaryIO, *, wait: bool) -> bool:
        assert not wait
        outcome = outcomes.pop(0)
        if outcome == "removed by the other":
            os.unlink(file.name)
        return outcome != "locked by the other"

    monkeypatch.setattr(files, "lock", lock)
    with files.temporary(tmp_path) as file:
        assert outcomes == []
        assert os.listdir(tmp_path) == [os.path.basename(file.name)]
        assert files._live == {file.name}
    assert os.listdir(tmp_path) == []
    assert files._live == set()


def test_a_directory_is_swept_once(tmp_path: Path) -> None:
    """A process looks for abandoned files when it first writes to a directory."""
    with files.temporary(tmp_path):
        pass
    path = leftover(tmp_path)
    with files.temporary(tmp_path):
        assert path.exists()


def test_names_like_temporary_ones(tmp_path: Path) -> None:
    """Other files, directories and pipes are left alone, whatever they are called."""
    os.mkfifo(tmp_path / f".flux-cli-{'0' * 16}.part")
    (tmp_path / f".flux-cli-{'1' * 16}.part").mkdir()
    (tmp_path / ".flux-cli-mine.part").write_bytes(b"")
    (tmp_path / f".flux-cli-{'2' * 16}.part").symlink_to(".flux-cli-mine.part")
    before = set(os.listdir(tmp_path))
    with files.temporary(tmp_path):
        pass
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("mode", [0o775, 0o700])
def test_no_umask_makes_a_directory_writable_by_everybody(tmp_path: Path, mode: int) -> None:
    """Nor any of its parents."""
    mask = os.umask(0)
    try:
        make_directory(tmp_path / "a" / "b", mode)
    finally:
        os.umask(mask)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b")] == [mode] * 2


def test_making_directories(tmp_path: Path) -> None:
    make_directory(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("file", "file/below", "link"):
        with pytest.raises(OSError, match="Not a directory"):
            make_directory(tmp_path / path)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one")
    assert files.sha256_of(tmp_path / "x").startswith("7692c3ad")
    with pytest.raises(LocalFileError) as caught:
        files.sha256_of(tmp_path / "none")
    assert caught.value.message == f"cannot read {tmp_path}/none: no such file or directory"
