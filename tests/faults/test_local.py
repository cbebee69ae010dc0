"""Faults of this machine: full and read-only disks, taken names, closed streams, no home, broken histories."""

import os
import pwd
import re
import resource
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from flux_cli.api.task import Status
from flux_cli.storage.database import BUSY_SECONDS
from flux_cli.storage.history import History
from tests.conftest import KEY, Cli, Done
from tests.faults.mounts import fill, make_read_only, tmpfs
from tests.faults.table import Row, check, each, is_whole, records
from tests.server import Request, Server, Step, http, png, reply, submitted

RESUME = "flux-cli wait task-0"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without faults, with pictures of 300 KB."""
    with Server({"/image": http(200, png(300_000))}) as running:
        yield running


@pytest.fixture
def flux(cli: Cli, server: Server) -> Cli:
    """The command with a key, pointed at the server."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
    return cli


def not_sent(
    fault: str, command: str, *says: str, code: int = 6, prepare: Callable[[Cli], None] | None = None
) -> Row:
    """Return the row of a fault that is detected before anything is sent."""
    return Row(
        fault, code, 0, says=says, server=Server, status=None, command=f"imagine {command}", prepare=prepare
    )


def with_file(cli: Cli) -> None:
    """Make a file, links and a directory in the working directory."""
    (cli.cwd / "taken.png").write_bytes(b"mine")
    (cli.cwd / "link.png").symlink_to("taken.png")
    (cli.cwd / "dangling.png").symlink_to("nowhere.png")
    (cli.cwd / "null").symlink_to("/dev/null")
    (cli.cwd / "out").symlink_to("/proc/self/fd/2")
    (cli.cwd / "folder.png").mkdir()


def with_files(cli: Cli) -> None:
    """Create files with the first names that would be generated."""
    for name in ("flux-pro.png", "flux-pro-1.png", "flux-pro-2.png"):
        (cli.cwd / name).write_bytes(b"mine")


NAMES = [
    not_sent("the target exists", "-o taken.png", "taken.png exists", "hint: .*--force", prepare=with_file),
    not_sent("the target is a link", "-o link.png", "link.png exists", prepare=with_file),
    not_sent("the target is a link to nowhere", "-o dangling.png", "exists", prepare=with_file),
    not_sent("the target is a device, and --force", "-o /dev/null --force", "/dev/null", prepare=with_file),
    not_sent("the target is a full device, and --force", "-o /dev/full --force", "/dev/full"),
    not_sent("the target is a link to a device, and --force", "-o null --force", "null", prepare=with_file),
    not_sent(
        "the target is a link like /dev/stdout, and --force", "-o out --force", "hint: .*-o -", prepare=with_file
    ),
    not_sent("the target's directory is a file", "-o taken.png/x.png", "not a directory", prepare=with_file),
    not_sent(
        "the template's directory is a file", "-o taken.png/{slug}.{ext}", "not a directory", prepare=with_file
    ),
    not_sent("the directory cannot be written", "-o /proc/x.png", "/proc"),
    not_sent("the directory cannot be created", "-o /proc/x/", "/proc/x"),
    not_sent("the directory of the template cannot be created", "-o /proc/x/{seed}.{ext}", "/proc/x"),
    not_sent("a name of 300 characters", f"-o {'x' * 300}.png", "name too long"),
    not_sent("a directory of 300 characters", f"-o {'x' * 300}/", "name too long"),
    not_sent("a blank name", "-o ' '", code=2),
    Row(
        "made-up names are taken",
        0,
        1,
        1,
        server=Server,
        status=Status.FINISHED,
        command="imagine -o {model}.{ext}",
        prepare=with_files,
    ),
    Row(
        "the directories are missing",
        0,
        1,
        1,
        server=Server,
        status=Status.FINISHED,
        command="imagine -o a/b/c/x.png",
    ),
]


@each(NAMES)
def test_name_that_cannot_be_saved(row: Row, cli: Cli) -> None:
    """It is detected before anything is submitted."""
    check(row, cli)


def test_force_replaces_a_link(flux: Cli) -> None:
    """Its target, which may be somebody's only copy, stays."""
    with_file(flux)
    assert flux("imagine", "x", "-o", "link.png", "--force").code == 0
    assert (flux.cwd / "taken.png").read_bytes() == b"mine"
    assert not (flux.cwd / "link.png").is_symlink()
    assert is_whole(flux.cwd / "link.png")


def test_a_target_that_appears_meanwhile(cli: Cli) -> None:
    """It is not replaced, and the task can be waited for with another name."""

    def appear(_: Request) -> bytes:
        (cli.cwd / "x.png").write_bytes(b"mine")
        return http(200, png())

    with Server({"/image": appear}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        done = cli("imagine", "x", "-o", "x.png")
        assert (done.code, cli.files()) == (6, ["x.png"])
        assert RESUME in done.stderr
        again = cli("wait", "--last", "-o", "y.png")
        assert (again.code, server.submissions) == (0, 1)


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
def test_a_disk_that_fills_up(cli: Cli, size: int) -> None:
    """Exit 6, and nothing is left behind, even if the fault shows only when the file is flushed."""
    with tmpfs(cli.cwd / "full", "256k") as full:

        def fill_up(_: Request) -> bytes:
            fill(full)
            return http(200, png(size))

        with Server({"/image": fill_up}) as server:
            cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
            done = cli("imagine", "x", "-o", f"{full}/")
            assert (done.code, cli.files()) == (6, ["full/filler"])
            assert "no space left" in done.stderr
            assert RESUME in done.stderr
            assert server.submissions == 1
            server.routes = {}
            (full / "filler").unlink()
            assert cli("wait", "--last", "-o", f"{full}/").code == 0


def test_a_file_size_limit(flux: Cli) -> None:
    """As for a full disk, but without root."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = flux.process("imagine", "x", preexec_fn=limit)
    assert (done.code, flux.files()) == (6, [])
    assert RESUME in done.stderr


def test_a_read_only_file_system(flux: Cli, server: Server) -> None:
    """It is detected before anything is sent."""
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
    """They are enough."""
    homeless.env |= {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert homeless("imagine", "x", "-o", "x.png").code == 0
    assert homeless("show").lines == [str(homeless.cwd / "x.png")]


def test_a_read_only_home(flux: Cli, server: Server, tmp_path: Path) -> None:
    """What only reads works; the rest is exit 6 with a hint naming the variable."""
    with tmpfs(tmp_path / "state") as state:
        make_read_only(state)
        flux.env["XDG_STATE_HOME"] = str(state)
        done = flux("imagine", "x")
        assert (done.code, server.submissions) == (6, 0)
        assert "hint: set XDG_STATE_HOME to a writable directory" in done.stderr
        assert flux("wait", "task-7", "-o", "x.png").lines == ["x.png"]
        assert (flux("history").code, flux("config", "list").code, flux("wait", "--all").code) == (0, 0, 0)


def test_umask_000(flux: Cli) -> None:
    """No directory that everybody can write."""
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
    """Run a shell script in which `flux-cli` is the command."""
    from tests.conftest import FLUX_CLI

    done = subprocess.run(
        ["bash", "-c", f'flux-cli() {{ {FLUX_CLI} "$@"; }}; {script}'],
        cwd=cli.cwd,
        env=cli.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_closed_stdout(flux: Cli) -> None:
    """Exit 141 without a message, after the picture is saved."""
    done = run_in_shell(flux, 'flux-cli imagine x | head -0; echo "${PIPESTATUS[0]}"')
    assert done.lines == ["141"]
    assert "error" not in done.stderr
    assert "roken" not in done.stderr
    (name,) = flux.files()
    assert is_whole(flux.cwd / name)


def test_closed_stdout_of_several(flux: Cli, server: Server) -> None:
    """All pictures are saved."""
    done = run_in_shell(flux, 'flux-cli imagine x -n 3 -q --json | head -0; echo "${PIPESTATUS[0]}"')
    assert (done.lines, len(flux.files()), server.submissions) == (["141"], 3, 3)


def test_closed_stdout_for_the_picture(flux: Cli) -> None:
    """The bytes are lost, so the message says how to get them again, and the task counts as not saved."""
    done = run_in_shell(flux, 'flux-cli imagine x -o - | head -c0; echo "${PIPESTATUS[0]}"')
    assert done.lines == ["141"]
    assert RESUME in done.stderr
    assert [record.unsaved for record in records(flux)] == [True]


def test_stdout_on_a_full_disk(flux: Cli, server: Server) -> None:
    """Exit 6; the pictures are saved."""
    done = run_in_shell(flux, "flux-cli imagine x -n 3 > /dev/full")
    assert (done.code, len(flux.files()), server.submissions) == (6, 3, 3)
    assert "no space left" in done.stderr
    done = run_in_shell(flux, "flux-cli imagine x -o - > /dev/full")
    assert done.code == 6
    assert "flux-cli wait task-3" in done.stderr
    assert records(flux)[0].unsaved
    assert run_in_shell(flux, "flux-cli history > /dev/full").code == 6


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0)])
def test_closed_streams(flux: Cli, closed: str, code: int) -> None:
    """The picture is saved, and no file gets the number of a stream."""
    done = run_in_shell(flux, f"flux-cli imagine x {closed}")
    assert done.code == code, done.stderr
    (name,) = flux.files()
    assert is_whole(flux.cwd / name)


def test_picture_to_a_closed_stdout(flux: Cli, server: Server) -> None:
    """It is rejected before anything is submitted."""
    done = run_in_shell(flux, "flux-cli imagine x -o - >&-")
    assert (done.code, server.submissions) == (6, 0)
    assert done.stderr.startswith("error: stdout is closed")


def test_closed_stdin(flux: Cli, server: Server) -> None:
    """It counts as empty, and nothing is sent."""
    assert run_in_shell(flux, "flux-cli imagine <&-").code == 2
    assert run_in_shell(flux, "flux-cli wait - <&-").code == 0
    assert server.submissions == 0


def test_a_prompt_that_is_not_utf_8(flux: Cli, server: Server) -> None:
    """JSON cannot hold it."""
    for command in (
        r"flux-cli imagine $'caf\xe9'",
        r"printf 'caf\xe9' | flux-cli imagine",
        r"flux-cli imagine --no-validate $'caf\xe9'",
        r"flux-cli imagine x --webhook-url $'http://\xe9'",
    ):
        done = run_in_shell(flux, command)
        assert done.code == 2, done.stderr
        assert "UTF-8" in done.stderr
    assert server.submissions == 0
    assert [record.status for record in records(flux)] == [Status.FAILED]  # the one that was not validated


# The history


def damaged(path: Path) -> None:
    """Overwrite all its pages except the first."""
    History(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def newer(path: Path) -> None:
    """Give it a format that does not exist yet."""
    History(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def of_another_program(path: Path) -> None:
    """Put another program's database in its place."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def no_database(path: Path) -> None:
    """Put something else in its place."""
    path.write_bytes(b"not a database at all, " * 1000)


BROKEN_HISTORIES: dict[str, Callable[[Path], None]] = {
    "no database": no_database,
    "damaged": damaged,
    "newer": newer,
    "another program's": of_another_program,
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
        assert done.stderr.startswith("error: ")
        assert "history" in done.stderr
        assert "Traceback" not in done.stderr
    assert server.submissions == 0
    assert flux("wait", "task-7").code == 0
    assert flux("fetch", "task-7").code == 0
    assert (flux.history_file.read_bytes() if flux.history_file.is_file() else None) == before


def test_a_history_on_a_full_disk(flux: Cli, server: Server, tmp_path: Path) -> None:
    """What cannot be recorded is not sent."""
    with tmpfs(tmp_path / "state", "1m") as state:
        flux.env["XDG_STATE_HOME"] = str(state)
        fill(state)
        done = flux("imagine", "x")
        assert (done.code, server.submissions) == (6, 0)
        (state / "filler").unlink()
        assert flux("imagine", "x").code == 0
        fill(state)
        assert flux("imagine", "x").code == 6
        assert server.submissions == 1


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_disk_of_the_history_that_fills_up(cli: Cli, tmp_path: Path, quiet: tuple[str, ...]) -> None:
    """The ID cannot be recorded, so it is printed, with `--quiet` too; the picture is saved."""
    with tmpfs(tmp_path / "state", "1m") as state:

        def fill_up(request: Request) -> bytes:
            fill(state)
            return submitted(request)

        with Server({"/flux-imagine": fill_up}) as server:
            cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url, "XDG_STATE_HOME": str(state)}
            done = cli("imagine", "x", *quiet)
            assert done.code == 0, done.stderr
            assert "task-0" in done.stderr
            assert "cannot use the history" in done.stderr
            assert "retrying" not in done.stderr
            assert len(cli.files()) == 1


def test_a_disk_of_the_history_that_fills_up_midway(cli: Cli, tmp_path: Path) -> None:
    """Submitted tasks are saved; what cannot be recorded is not sent."""
    with tmpfs(tmp_path / "state", "1m") as state:

        def fill_up(request: Request) -> list[Step]:
            fill(state)
            return [0.1 * request.number, submitted(request)]

        with Server({"/flux-imagine": fill_up}) as server:
            cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url, "XDG_STATE_HOME": str(state)}
            done = cli("imagine", "x", "-n", "20")
            assert done.code == 6, done.stderr
            assert 0 < server.submissions < 20
            assert len(cli.files()) == server.submissions
            for number in range(server.submissions):
                assert f"task-{number}" in done.stderr
            assert done.stderr.count("not sent: cannot use the history") == 1


def test_a_history_on_a_read_only_file_system(flux: Cli, server: Server, tmp_path: Path) -> None:
    """What cannot be recorded is not sent."""
    with tmpfs(tmp_path / "state", "1m") as state:
        flux.env["XDG_STATE_HOME"] = str(state)
        assert flux.process("imagine", "x").code == 0  # its end closes the history
        make_read_only(state)
        done = flux("imagine", "x")
        assert (done.code, server.submissions) == (6, 1)
        assert "Traceback" not in done.stderr


def test_a_history_that_another_process_holds(flux: Cli, server: Server) -> None:
    """The run waits for it, and then records what happened."""

    def hold(request: Request) -> bytes:
        holder = sqlite3.connect(flux.history_file, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(5 * BUSY_SECONDS, holder.close).start()
        return submitted(request)

    server.routes = {**server.routes, "/flux-imagine": hold}
    done = flux("imagine", "x", "-q", "-o", "x.png")
    assert (done.code, done.stdout, done.stderr) == (0, "x.png\n", "")
    (record,) = records(flux)
    assert (record.status, record.task_id) == (Status.FINISHED, "task-0")
    assert record.path == str(flux.cwd / "x.png")


def test_another_service(flux: Cli, server: Server) -> None:
    """What it says about an ID changes nothing in the history: the task belongs to its own service."""
    server.routes = {"/fetch": reply({"task_id": "task-0", "status": "processing"})}
    assert flux("imagine", "x", "--no-wait").code == 0
    with Server({"/fetch": http(404)}) as other:
        assert flux("wait", "task-0", "--api-url", other.url).code == 4
        assert flux("fetch", "task-0", "--api-url", other.url).code == 4
    with Server({"/fetch": reply({"task_id": "task-0", "status": "failed"})}) as other:
        assert flux("fetch", "task-0", "--api-url", other.url).code == 0
        assert flux("wait", "task-0", "--api-url", other.url).code == 4
    server.routes = {}
    assert flux("wait", "--last").code == 0
