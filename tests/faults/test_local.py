"""What can go wrong on this machine: full disks, names that are taken, streams that are closed."""

import os
import resource
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from flux_cli.storage.history import History
from tests.conftest import KEY, Cli, Done
from tests.faults.mounts import fill, make_read_only, tmpfs
from tests.faults.table import Row, check_all, is_whole, records
from tests.faults.warm import WarmCli
from tests.server import Reply, Request, Server, Step, http, png, reply, submitted

RESUME = "flux-cli wait task-0"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that behaves, with pictures of 300 KB."""
    with Server({"/image": http(200, png(300_000))}) as running:
        yield running


@pytest.fixture
def flux(cli: Cli, server: Server) -> Cli:
    """The command with a key, pointed at the server."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
    return WarmCli.of(cli)


def not_sent(
    fault: str, command: str, *says: str, code: int = 6, prepare: Callable[[Cli], None] | None = None
) -> Row:
    """Return the row of a fault that is found before anything is sent."""
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
    """Take the first names that would be made up."""
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
    not_sent("nobody can write the directory", "-o /proc/x.png", "/proc"),
    not_sent("nobody can make the directory", "-o /proc/x/", "/proc/x"),
    not_sent("nobody can make the template's directory", "-o /proc/x/{seed}.{ext}", "/proc/x"),
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


def test_names(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """What cannot be saved is found before it costs money."""
    check_all(NAMES, tmp_path, subtests)


def test_force_replaces_a_link_and_leaves_what_it_points_to(flux: Cli) -> None:
    """The link's target may be somebody's only copy."""
    with_file(flux)
    assert flux("imagine", "x", "-o", "link.png", "--force").code == 0
    assert (flux.cwd / "taken.png").read_bytes() == b"mine"
    assert not (flux.cwd / "link.png").is_symlink()
    assert is_whole(flux.cwd / "link.png")


def test_a_target_that_appears_while_the_task_runs_is_not_replaced(cli: Cli) -> None:
    """The picture is paid for and lives on; the file that came first is left alone."""

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
def test_two_commands_that_write_the_same_names(flux: Cli, server: Server, name: str) -> None:
    """Every picture that was paid for is a file, or its task can be waited for; no file is written twice."""
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
    """Exit 6, nothing left behind; a small picture is noticed only when it is flushed."""
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


def test_a_picture_beyond_what_the_user_may_write(flux: Cli) -> None:
    """As for a full disk; this needs no root to be tested."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = flux.process("imagine", "x", preexec_fn=limit)
    assert (done.code, flux.files()) == (6, [])
    assert RESUME in done.stderr


def test_a_read_only_file_system(flux: Cli, server: Server) -> None:
    """Refused before it costs money."""
    with tmpfs(flux.cwd / "ro") as directory:
        make_read_only(directory)
        for output in ("ro/", "ro/x.png", "ro/{seed}.{ext}", "ro/new/"):
            assert flux("imagine", "x", "-o", output).code == 6
    assert server.submissions == 0


def test_the_working_directory_is_gone(flux: Cli, server: Server, tmp_path: Path) -> None:
    """Refused before it costs money."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = flux.process("imagine", "x", cwd=gone, preexec_fn=gone.rmdir)
    assert (done.code, server.submissions) == (6, 0)
    assert "Traceback" not in done.stderr


def test_a_directory_whose_name_is_no_utf_8(flux: Cli) -> None:
    """Its pictures are saved, and in the history."""
    done = flux("imagine", "x", "-o", os.fsdecode(b"caf\xe9/"), "--json")
    assert done.code == 0, done.stderr
    assert "warning" not in done.stderr
    (record,) = records(flux)
    assert record.status is Status.FINISHED
    assert record.path


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


def test_nobody_reads_stdout(flux: Cli) -> None:
    """Exit 141, in silence, after the picture is safe."""
    done = run_in_shell(flux, 'flux-cli imagine x | head -0; echo "${PIPESTATUS[0]}"')
    assert done.lines == ["141"]
    assert "error" not in done.stderr
    assert "roken" not in done.stderr
    (name,) = flux.files()
    assert is_whole(flux.cwd / name)


def test_nobody_reads_stdout_of_several(flux: Cli, server: Server) -> None:
    """All that is paid for gets to the disk."""
    done = run_in_shell(flux, 'flux-cli imagine x -n 3 -q --json | head -0; echo "${PIPESTATUS[0]}"')
    assert (done.lines, len(flux.files()), server.submissions) == (["141"], 3, 3)


def test_nobody_reads_the_picture_on_stdout(flux: Cli) -> None:
    """The bytes are lost, so the message says how to have them again."""
    done = run_in_shell(flux, 'flux-cli imagine x -o - | head -c0; echo "${PIPESTATUS[0]}"')
    assert done.lines == ["141"]
    assert RESUME in done.stderr


def test_stdout_is_a_full_disk(flux: Cli, server: Server) -> None:
    """Exit 6, and no picture is lost for it."""
    done = run_in_shell(flux, "flux-cli imagine x -n 3 > /dev/full")
    assert (done.code, len(flux.files()), server.submissions) == (6, 3, 3)
    assert "no space left" in done.stderr
    done = run_in_shell(flux, "flux-cli imagine x -o - > /dev/full")
    assert done.code == 6
    assert "flux-cli wait task-3" in done.stderr
    assert run_in_shell(flux, "flux-cli history > /dev/full").code == 6


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0)])
def test_streams_that_are_closed(flux: Cli, closed: str, code: int) -> None:
    """The picture is saved; no file of ours takes the place of a stream."""
    done = run_in_shell(flux, f"flux-cli imagine x {closed}")
    assert done.code == code, done.stderr
    (name,) = flux.files()
    assert is_whole(flux.cwd / name)


def test_a_prompt_from_a_stdin_that_is_closed(flux: Cli, server: Server) -> None:
    """There is no prompt, and nothing is sent."""
    assert run_in_shell(flux, "flux-cli imagine <&-").code == 2
    assert run_in_shell(flux, "flux-cli wait - <&-").code == 2
    assert server.submissions == 0


def test_a_prompt_that_is_no_utf_8(flux: Cli, server: Server) -> None:
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
    """Overwrite its pages, but for the first."""
    History(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def newer(path: Path) -> None:
    """Let it be of a format that is not invented yet."""
    History(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def of_another_program(path: Path) -> None:
    """Put another program's database in its place."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def no_database(path: Path) -> None:
    """Put something else in its place, long enough to be looked at."""
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
    """Nothing is sent; one clear error; the file is never replaced. A task can be waited for all the same."""
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
    """What cannot be written down is not sent."""
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
def test_a_history_whose_disk_fills_up_while_a_submission_is_under_way(
    cli: Cli, tmp_path: Path, quiet: tuple[str, ...]
) -> None:
    """The id cannot be written down, so it is printed; the picture is saved."""
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


def test_a_history_whose_disk_fills_up_in_the_middle_of_many(cli: Cli, tmp_path: Path) -> None:
    """What is under way goes on to its picture; what cannot be written down any more is not sent."""
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
    """What cannot be written down is not sent."""
    with tmpfs(tmp_path / "state", "1m") as state:
        flux.env["XDG_STATE_HOME"] = str(state)
        assert flux("imagine", "x").code == 0
        make_read_only(state)
        done = flux("imagine", "x")
        assert (done.code, server.submissions) == (6, 1)
        assert "Traceback" not in done.stderr


def test_ten_processes_that_begin_the_history_at_once(flux: Cli, server: Server) -> None:
    """None is told that it is locked, and none of their records is lost."""
    started = [flux.start("imagine", f"x {n}", "-n", "3", "-q") for n in range(10)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert ended == [(b"", 0)] * 10
    assert len(records(flux)) == server.submissions == 30
    assert {record.status for record in records(flux)} == {Status.FINISHED}
    assert len({record.task_id for record in records(flux)}) == 30


def test_a_history_that_another_process_holds_for_a_while(flux: Cli, server: Server) -> None:
    """The task goes its way, and what happened to it is written down once the history is free again."""
    released: list[threading.Timer] = []

    def hold(request: Request) -> bytes:
        holder = sqlite3.connect(flux.history_file, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        released.append(threading.Timer(11, holder.close))
        released[0].start()
        return submitted(request)

    def finish_later(request: Request) -> Reply:
        if time.monotonic() < began + 8:
            return reply({"task_id": "task-0", "status": "processing"})
        return reply({"task_id": "task-0", "status": "finished", "image_url": f"{request.origin}/image.png"})

    server.routes = {**server.routes, "/flux-imagine": hold, "/fetch": finish_later}
    began = time.monotonic()
    done = flux("imagine", "x", "-q", "-o", "x.png")
    assert (done.code, done.stdout, done.stderr) == (0, "x.png\n", "")
    (record,) = records(flux)
    assert (record.status, record.task_id) == (Status.FINISHED, "task-0")
    assert record.path == str(flux.cwd / "x.png")


def test_another_service_that_does_not_know_a_task_changes_nothing(flux: Cli, server: Server) -> None:
    """The record is of a task at its own service, where it can still be waited for."""
    server.routes = {"/fetch": reply({"task_id": "task-0", "status": "processing"})}
    assert flux("imagine", "x", "--timeout", "1").code == 7
    with Server({"/fetch": http(404)}) as other:
        assert flux("wait", "task-0", "--api-url", other.url).code == 4
        assert flux("fetch", "task-0", "--api-url", other.url).code == 4
    with Server({"/fetch": reply({"task_id": "task-0", "status": "failed"})}) as other:
        assert flux("fetch", "task-0", "--api-url", other.url).code == 0
        assert flux("wait", "task-0", "--api-url", other.url).code == 4
    server.routes = {}
    assert flux("wait", "--last").code == 0
