"""Faults of this machine: full and read-only disks, taken names, closed streams, no home, broken histories."""

import os
import pwd
import re
import resource
import shlex
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from flux_cli.api.task import Status
from flux_cli.storage.history import History
from tests.conftest import FLUX_CLI, KEY, Cli, Done
from tests.faults.mounts import fill, make_read_only, tmpfs
from tests.faults.table import is_whole, records
from tests.server import Request, Server, Step, http, png, reply, submitted

RESUME = "flux-cli wait task-0"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without faults, with pictures of 300 KB."""
    with Server({"/image": http(200, png(300_000))}) as running:
        yield running


@pytest.fixture
def flux(cli: Cli, server: Server) -> Cli:
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
    return cli


@pytest.fixture
def files(flux: Cli) -> Cli:
    """Files, links and a directory in the working directory."""
    (flux.cwd / "taken.png").write_bytes(b"mine")
    (flux.cwd / "link.png").symlink_to("taken.png")
    (flux.cwd / "out").symlink_to("/proc/self/fd/2")
    return flux


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("-o taken.png", 6, r"taken.png exists[\s\S]*hint: .*--force"),
        ("-o /dev/full --force", 6, "/dev/full"),
        ("-o out --force", 6, "hint: .*-o -"),
        ("-o taken.png/{slug}.{ext}", 6, "not a directory"),
        ("-o /proc/x.png", 6, "/proc"),
        ("-o /proc/x/{seed}.{ext}", 6, "/proc/x"),
        (f"-o {'x' * 300}.png", 6, "name too long"),
        (f"-o {'x' * 300}/", 6, "name too long"),
        ("-o ' '", 2, ""),
    ],
)
def test_a_name_that_cannot_be_saved(files: Cli, server: Server, arguments: str, code: int, says: str) -> None:
    """It is detected before anything is submitted."""
    before = files.files()
    done = files("imagine", "x", *shlex.split(arguments))
    assert (done.code, server.received, files.files(), records(files)) == (code, [], before, [])
    assert re.search(f"^error: [\\s\\S]*{says}", done.stderr)


def test_force_replaces_a_link(files: Cli) -> None:
    """Its target, which may be somebody's only copy, stays."""
    assert files("imagine", "x", "-o", "link.png", "--force").code == 0
    assert (files.cwd / "taken.png").read_bytes() == b"mine"
    assert not (files.cwd / "link.png").is_symlink()
    assert is_whole(files.cwd / "link.png")


def test_a_target_that_appears_meanwhile(flux: Cli, server: Server) -> None:
    """It is not replaced, and the task can be waited for with another name."""

    def appear(_: Request) -> bytes:
        (flux.cwd / "x.png").write_bytes(b"mine")
        return http(200, png())

    server.routes = {"/image": appear}
    done = flux("imagine", "x", "-o", "x.png")
    assert (done.code, flux.files(), RESUME in done.stderr) == (6, ["x.png"], True)
    assert (flux("wait", "--last", "-o", "y.png").code, server.submissions) == (0, 1)


@pytest.mark.parametrize("name", ["picture.png", "picture-{n}.{ext}"])
def test_commands_that_write_the_same_name(flux: Cli, server: Server, name: str) -> None:
    """Every picture is a file, or its task can be waited for; no file is written twice."""
    server.routes = {"/image": lambda r: [0.3, http(200, png(len(r.path) + r.number))]}
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda _: flux("imagine", "x", "-o", name), range(4)))
    saved = [line for done in ended for line in done.lines]
    assert len(set(saved)) == len(saved) == len(flux.files())
    assert all(is_whole(flux.cwd / name) for name in flux.files())
    lost = [done for done in ended if done.code == 6 and "flux-cli wait task-" in done.stderr]
    assert len(lost) == (0 if "{" in name else 3)
    assert len(lost) + len(saved) == server.submissions == 4


@pytest.mark.parametrize("size", [300_000, 3_000])
def test_a_disk_that_fills_up(flux: Cli, server: Server, size: int) -> None:
    """Exit 6, and nothing is left behind, even if the fault shows only when the file is flushed."""
    with tmpfs(flux.cwd / "full", "256k") as full:

        def fill_up(_: Request) -> bytes:
            fill(full)
            return http(200, png(size))

        server.routes = {"/image": fill_up}
        done = flux("imagine", "x", "-o", f"{full}/")
        assert (done.code, flux.files(), server.submissions) == (6, ["full/filler"], 1)
        assert "no space left" in done.stderr
        assert RESUME in done.stderr
        server.routes = {}
        (full / "filler").unlink()
        assert flux("wait", "--last", "-o", f"{full}/").code == 0


def test_a_file_size_limit(flux: Cli) -> None:
    """As for a full disk, but without root."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = flux.process("imagine", "x", preexec_fn=limit)
    assert (done.code, flux.files()) == (6, [])
    assert RESUME in done.stderr


def test_a_read_only_file_system(flux: Cli, server: Server) -> None:
    with tmpfs(flux.cwd / "ro") as directory:
        make_read_only(directory)
        for output in ("ro/", "ro/x.png", "ro/{seed}.{ext}", "ro/new/"):
            assert flux("imagine", "x", "-o", output).code == 6
    assert server.submissions == 0


def test_a_deleted_working_directory(flux: Cli, server: Server, tmp_path: Path) -> None:
    """Nothing is sent; what needs no working directory works."""
    flux("imagine", "x", "-q")
    gone = tmp_path / "gone"

    def run(*arguments: str) -> Done:
        gone.mkdir()
        return flux.process(*arguments, cwd=gone, preexec_fn=gone.rmdir)

    done = run("imagine", "x")
    assert (done.code, server.submissions) == (6, 1)
    assert "Traceback" not in done.stderr
    (tmp_path / "rows.txt").write_text("a kite")
    done = run("batch", f"{tmp_path}/rows.txt")
    assert (done.code, server.submissions) == (6, 1)
    assert done.stderr == "error: cannot write .: no such file or directory\n"
    for arguments in (["history"], ["show"], ["fetch", "--last"], ["config", "list"]):
        done = run(*arguments)
        assert (done.code, "error" in done.stderr) == (0, False), done.stderr
    assert run("imagine", "x", "-o", f"{tmp_path}/x.png").lines == [f"{tmp_path}/x.png"]


@pytest.fixture
def homeless(flux: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A user without HOME and without an entry in passwd, as in many containers."""

    def no_entry(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        del flux.env[name]
    return flux


def test_no_home(homeless: Cli, server: Server) -> None:
    """Nothing is sent, and the hint names the variable; no directory called `~` is created."""
    done = homeless("imagine", "x")
    assert (done.code, server.submissions) == (6, 0)
    assert re.search("hint: set HOME or XDG_(STATE|CONFIG)_HOME", done.stderr)
    assert homeless.files() == []


def test_no_home_but_the_variables(homeless: Cli, tmp_path: Path) -> None:
    homeless.env |= {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert homeless("imagine", "x", "-o", "x.png").code == 0
    assert homeless("show").lines == [str(homeless.cwd / "x.png")]


def test_a_read_only_home(state: Path, flux: Cli, server: Server) -> None:
    """What only reads works; the rest is exit 6 with a hint naming the variable."""
    make_read_only(state)
    done = flux("imagine", "x")
    assert (done.code, server.submissions) == (6, 0)
    assert "hint: set XDG_STATE_HOME to a writable directory" in done.stderr
    assert flux("wait", "task-7", "-o", "x.png").lines == ["x.png"]
    assert [flux(*each).code for each in (["history"], ["config", "list"], ["wait", "--all"])] == [0] * 3


def test_umask_000(flux: Cli) -> None:
    mask = os.umask(0)
    try:
        assert flux("imagine", "x", "-o", "a/b/").code == 0
        flux("config", "set", "model", "flux-dev")
    finally:
        os.umask(mask)
    directories = [path for path in flux.home.rglob("*") if path.is_dir() and path != flux.cwd]
    assert {"a", "b", "state", "config", "flux-cli"} == {path.name for path in directories}
    assert [path for path in directories if path.stat().st_mode & 0o002] == []


def test_a_directory_that_is_not_utf_8(flux: Cli) -> None:
    """Its pictures are saved, and found again."""
    done = flux("imagine", "x", "-o", os.fsdecode(b"caf\xe9/"), "--json")
    assert done.code == 0, done.stderr
    assert "warning" not in done.stderr
    (record,) = records(flux)
    assert record.path
    assert Path(record.path).exists()
    assert flux("show").lines == [record.path]


# Standard streams


def run_in_shell(cli: Cli, script: str) -> Done:
    """Run a shell script in which `flux-cli` is the command; exit with the first status of its last pipe."""
    shell = f'flux-cli() {{ {FLUX_CLI} "$@"; }}; {script}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", shell], cwd=cli.cwd, env=cli.env, capture_output=True, check=False)
    return Done.of(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("command", "code", "saved", "says"),
    [
        ("imagine x | head -0", 141, 1, ""),
        ("imagine x -n 3 -q --json | head -0", 141, 3, ""),
        ("imagine x -n 3 > /dev/full", 6, 3, "no space left"),
        ("imagine x >&-", 0, 1, ""),
        ("imagine x 2>&-", 0, 1, ""),
        ("imagine x <&-", 0, 1, ""),
        ("imagine x >&- 2>&- <&-", 0, 1, ""),
    ],
)
def test_streams_that_are_closed_or_full(flux: Cli, command: str, code: int, saved: int, says: str) -> None:
    """The pictures are saved, and no file gets the number of a stream; a closed pipe is no error."""
    done = run_in_shell(flux, f"flux-cli {command}")
    assert (done.code, len(flux.files())) == (code, saved), done.stderr
    assert all(is_whole(flux.cwd / name) for name in flux.files())
    assert says in done.stderr
    assert says or not re.search("error|roken", done.stderr)


@pytest.mark.parametrize(("command", "code"), [("| head -c0", 141), ("> /dev/full", 6)])
def test_a_picture_that_stdout_does_not_take(flux: Cli, command: str, code: int) -> None:
    """The bytes are lost, so the message says how to get them again, and the task counts as not saved."""
    done = run_in_shell(flux, f"flux-cli imagine x -o - {command}")
    assert (done.code, RESUME in done.stderr) == (code, True)
    assert [record.unsaved for record in records(flux)] == [True]


def test_a_history_that_stdout_does_not_take(flux: Cli) -> None:
    flux("imagine", "x")
    assert run_in_shell(flux, "flux-cli history > /dev/full").code == 6


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("imagine x -o - >&-", 6, "stdout is closed"),
        ("imagine <&-", 2, ""),
        ("wait - <&-", 0, ""),
        # JSON cannot hold these prompts.
        (r"imagine $'caf\xe9'", 2, "UTF-8"),
        (r"imagine <<< $'caf\xe9'", 2, "UTF-8"),
        (r"imagine --no-validate $'caf\xe9'", 2, "UTF-8"),
        (r"imagine x --webhook-url $'http://\xe9'", 2, "UTF-8"),
    ],
)
def test_what_is_rejected_before_it_is_sent(flux: Cli, server: Server, command: str, code: int, says: str) -> None:
    done = run_in_shell(flux, f"flux-cli {command}")
    assert (done.code, server.submissions, says in done.stderr) == (code, 0, True), done.stderr
    assert {record.status for record in records(flux)} <= {Status.FAILED}  # of the one that is not validated


# The history


def damaged(path: Path) -> None:
    History(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


BROKEN_HISTORIES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(b"not a database at all, " * 1000),
    "all pages damaged but the first": damaged,
    "a directory": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
}


@pytest.mark.parametrize("kind", BROKEN_HISTORIES)
def test_a_history_that_cannot_be_used(flux: Cli, server: Server, kind: str) -> None:
    """Nothing is sent, one clear error, and the file is never replaced. `wait ID` and `fetch ID` still work."""
    flux.history_file.parent.mkdir(parents=True)
    BROKEN_HISTORIES[kind](flux.history_file)
    before = flux.history_file.read_bytes() if flux.history_file.is_file() else None
    for command in (["imagine", "x"], ["history"], ["wait", "--last"], ["wait", "--all"]):
        done = flux(*command)
        assert done.code == 6, done.stderr
        assert re.match(r"error: .*history(?!.*Traceback)", done.stderr)
    assert server.submissions == 0
    assert flux("wait", "task-7").code == flux("fetch", "task-7").code == 0
    assert (flux.history_file.read_bytes() if flux.history_file.is_file() else None) == before


@pytest.fixture
def state(flux: Cli, tmp_path: Path) -> Iterator[Path]:
    """A small file system for the history."""
    with tmpfs(tmp_path / "state") as directory:
        flux.env["XDG_STATE_HOME"] = str(directory)
        yield directory


def test_a_history_on_a_full_disk(state: Path, flux: Cli, server: Server) -> None:
    """What cannot be recorded is not sent."""
    fill(state)
    assert (flux("imagine", "x").code, server.submissions) == (6, 0)
    (state / "filler").unlink()
    assert flux("imagine", "x").code == 0
    fill(state)
    assert (flux("imagine", "x").code, server.submissions) == (6, 1)


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_disk_of_the_history_that_fills_up(
    state: Path, flux: Cli, server: Server, quiet: tuple[str, ...]
) -> None:
    """The ID cannot be recorded, so it is printed, with `--quiet` too; the picture is saved."""

    def fill_up(request: Request) -> bytes:
        fill(state)
        return submitted(request)

    server.routes = {"/flux-imagine": fill_up}
    done = flux("imagine", "x", *quiet)
    assert (done.code, len(flux.files())) == (0, 1), done.stderr
    assert "task-0" in done.stderr
    assert "cannot use the history" in done.stderr
    assert "retrying" not in done.stderr


def test_a_disk_of_the_history_that_fills_up_midway(state: Path, flux: Cli, server: Server) -> None:
    """Submitted tasks are saved; what cannot be recorded is not sent."""

    def fill_up(request: Request) -> list[Step]:
        fill(state)
        return [0.1 * request.number, submitted(request)]

    server.routes = {"/flux-imagine": fill_up}
    done = flux("imagine", "x", "-n", "20")
    assert done.code == 6, done.stderr
    assert 0 < server.submissions < 20
    assert len(flux.files()) == server.submissions
    for number in range(server.submissions):
        assert f"task-{number}" in done.stderr
    assert done.stderr.count("not sent: cannot use the history") == 1


def test_a_history_on_a_read_only_file_system(state: Path, flux: Cli, server: Server) -> None:
    """What cannot be recorded is not sent."""
    assert flux.process("imagine", "x").code == 0  # its end closes the history
    make_read_only(state)
    done = flux("imagine", "x")
    assert (done.code, server.submissions) == (6, 1)
    assert "Traceback" not in done.stderr


def test_another_service(flux: Cli) -> None:
    """What it says about an ID changes nothing in the history: the task belongs to its own service."""
    assert flux("imagine", "x", "--no-wait").code == 0
    for answer, code in ((http(404), 4), (reply({"task_id": "task-0", "status": "failed"}), 0)):
        with Server({"/fetch": answer}) as other:
            assert flux("fetch", "task-0", "--api-url", other.url).code == code
            assert flux("wait", "task-0", "--api-url", other.url).code == 4
    assert flux("wait", "--last").code == 0
