"""Where the program keeps its files, and which file systems several hosts can share."""

from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest

from flux_cli.errors import LocalFileError
from flux_cli.storage import filesystem, paths

MOUNT_TABLE = r"""
21 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
35 21 0:40 / /home rw - ext4 /dev/vdc1 rw
36 21 0:41 / /home rw,relatime shared:2 - nfs4 server:/home rw
37 21 0:42 / /home/me/with\040space rw - fuse.sshfs host:/ rw
38 21 0:43 / /data rw - fuseblk /dev/sdb1 rw
39 21 0:44 / - lustre x rw
40 21 0:45 / /var rw
"""


@pytest.fixture
def xdg(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("base", ["", " ", "/base", "/base/", "//base"])
@pytest.mark.parametrize("home", ["/", "/home/me", "/home/me/"])
def test_same_as_platformdirs(xdg: pytest.MonkeyPatch, home: str, base: str) -> None:
    """On Linux the library is not imported."""
    xdg.setenv("HOME", home)
    xdg.setenv("XDG_STATE_HOME", base)
    xdg.setenv("XDG_CONFIG_HOME", base)
    assert paths.state_directory() == platformdirs.user_state_path("flux-cli")
    assert paths.config_directory() == platformdirs.user_config_path("flux-cli")


def test_no_home(xdg: pytest.MonkeyPatch) -> None:
    xdg.setattr("os.path.expanduser", lambda path: path)  # as for a user without an entry in passwd
    with pytest.raises(LocalFileError) as caught:
        paths.state_directory()
    assert caught.value.hint == "set HOME or XDG_STATE_HOME"
    xdg.setenv("XDG_STATE_HOME", "/state")
    assert paths.state_directory() == Path("/state/flux-cli")


def test_other_systems(xdg: pytest.MonkeyPatch) -> None:
    """The library decides, on Android too, which calls itself Linux."""
    xdg.setattr(platformdirs, "user_state_path", lambda app: Path("/state", app))
    xdg.setattr(platformdirs, "user_config_path", lambda app: Path("/config", app))
    xdg.setenv("XDG_STATE_HOME", "/xdg")
    assert paths.state_directory() == Path("/xdg/flux-cli")
    for platform, android in (("linux", True), ("darwin", False), ("win32", False)):
        with xdg.context() as system:
            system.setattr(paths, "sys", SimpleNamespace(platform=platform))
            if android:
                system.setenv("ANDROID_ROOT", "/system")
            assert paths.state_directory() == Path("/state/flux-cli")
            assert paths.config_directory() == Path("/config/flux-cli")


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/home/me/.local/state", "nfs4", True),
        ("/home/me/with space/x", "fuse.sshfs", True),
        ("/data/x", "fuseblk", False),
        ("/var/x", "ext4", False),
    ],
)
def test_filesystem_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str, shared: bool
) -> None:
    """The innermost mount point counts if no device number matches."""
    (tmp_path / "mountinfo").write_text(MOUNT_TABLE)
    monkeypatch.setattr(filesystem, "MOUNTS", str(tmp_path / "mountinfo"))
    monkeypatch.setattr("os.path.realpath", str)
    assert filesystem.filesystem_type(Path(path)) == kind
    assert filesystem.is_shared(Path(path)) is shared


def test_filesystem_type_by_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device number identifies the mount, whatever its mount point is called here."""
    device = tmp_path.stat().st_dev
    (tmp_path / "mountinfo").write_text(
        f"1 1 {device >> 8 & 0xFFF}:{device & 0xFF} / /elsewhere rw - lustre x rw\n"
    )
    monkeypatch.setattr(filesystem, "MOUNTS", str(tmp_path / "mountinfo"))
    assert filesystem.filesystem_type(tmp_path / "not" / "yet" / "there") == "lustre"


def test_unknown_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MOUNTS", str(tmp_path / "none"))
    assert not filesystem.is_shared(tmp_path)


def test_host_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is safe in a file name, and differs between hosts."""
    names = set()
    for host in ("node1", "node2", "a/b\udcff é", ""):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        filesystem.host_id.cache_clear()
        names.add(filesystem.host_id())
    filesystem.host_id.cache_clear()
    assert len(names) == 4
    assert all(name.isascii() and "/" not in name for name in names)


def test_a_tilde(xdg: pytest.MonkeyPatch) -> None:
    """That of an unknown user is an ordinary name; `show`, `history` and `batch` once reported it as a bug."""
    xdg.setenv("HOME", "/home/me")
    assert paths.expanded("~/x") == Path("/home/me/x")
    assert paths.expanded("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
