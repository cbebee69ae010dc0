"""What may happen between two runs of a batch. Nothing is charged twice, and no task is lost."""

import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from flux_cli import sandbox
from flux_cli.batch import reader
from flux_cli.batch.rows import parse
from flux_cli.batch.shards import Shard
from tests.batches import Shared, charged, results
from tests.conftest import KEY, wait_until
from tests.test_history import VERSION_1


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    """A batch on a volume that several hosts share."""
    with sandbox.running(tmp_path / "sandbox", seconds=0.4) as running:
        yield Shared(tmp_path, running, rows=48)


def test_killed_shards_resumed_as_another_number_of_shards(shared: Shared) -> None:
    """Four shards with a state directory each, then seven."""
    processes = [shared.start(f"host-{number}", "--shard", f"{number}/4") for number in range(1, 5)]
    shared.kill(processes, 20)
    resumed = [shared.start(f"other-{number}", "--shard", f"{number}/7") for number in range(1, 8)]
    for process in resumed:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode in (0, 9), stderr.decode()
    shared.check()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["another path", "home is lost", "no home"])
def test_killed_run_resumed_elsewhere(shared: Shared, change: str) -> None:
    """On a volume that is mounted at another path, or in a container whose home is empty or cannot be written."""
    shared.kill([shared.start("home")], 12)
    cli = shared.cli("home")
    if change == "another path":
        moved = shared.tmp_path / "elsewhere"
        shared.directory.parent.rename(moved)
        shared.directory = moved / "out"
    else:
        shutil.rmtree(cli.home)
        cli = shared.cli("home")
        if change == "no home":
            (cli.home / ".local").write_text("not a directory")
    done = cli.process(*shared.arguments(), timeout=120)
    assert done.code in (0, 9), done.stderr
    assert ("continues without the history" in done.stderr) == (change == "no home")
    shared.check()


HOST = """
import fcntl, socket, sys
from flux_cli.batch import claims
from flux_cli.main import main

fcntl.flock = lambda *_: None  # locks that other hosts do not see
socket.gethostname = lambda: sys.argv[1]
claims.HEARTBEAT_SECONDS, claims.STALE_SECONDS, claims.POLL_SECONDS = 0.2, 3.0, 0.1
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def on_host(shared: Shared, host: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a run on a simulated host."""
    cli = shared.cli(host)
    command = [sys.executable, "-c", HOST, host, *shared.arguments()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cli.cwd, env=cli.env, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def run_on_host(shared: Shared, host: str, *codes: int) -> str:
    """Run on a simulated host to the end, with one of these exit codes; return stderr."""
    with on_host(shared, host) as process:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode in codes, stderr
        return stderr


@pytest.mark.slow
def test_one_shard_on_two_hosts(shared: Shared) -> None:
    """The second is refused while the first is alive, and takes over when it is dead."""
    with on_host(shared, "one") as one:
        wait_until(lambda: shared.running.stats.accepted >= 6)
        assert "on one" in run_on_host(shared, "two", 6)
        assert one.poll() is None
        one.send_signal(signal.SIGKILL)
        one.wait(20)
    run_on_host(shared, "two", 0, 9)
    shared.check()


@pytest.mark.slow
def test_frozen_host_was_replaced(shared: Shared) -> None:
    """It keeps the IDs that it has, and ends with exit code 6."""
    with on_host(shared, "one") as one:
        wait_until(lambda: shared.running.stats.accepted >= 6)
        one.send_signal(signal.SIGSTOP)
        run_on_host(shared, "two", 0, 9)
        one.send_signal(signal.SIGCONT)
        _, stderr = one.communicate(timeout=120)
        assert one.returncode == 6, stderr
        assert "another flux-cli has taken over the batch" in stderr
    assert max(charged(shared.tmp_path).values()) == 1


@pytest.mark.slow
def test_directory_of_version_0_1_0(shared: Shared) -> None:
    """Its rows are known from its results and from the history, whatever their state is."""
    cli = shared.cli("home")
    shared.rows = ["done", "done elsewhere", "running", "failed", "unknown", "no credits", "new"]
    shared.file.write_text("\n".join(shared.rows))
    body = json.dumps({"prompt": "running", "model": "flux-pro", "width": 256, "height": 256}).encode()
    request = urllib.request.Request(f"{shared.running.url}/flux-imagine", body, {"Authorization": KEY})  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as response:  # noqa: S310 - as above
        running = json.load(response)["task_id"]
    rows, _ = parse(reader.read(str(shared.file), io.BytesIO()), Shard(), shared.directory)
    keys = {str(row.fields["prompt"]): row.key for row in rows}
    shared.directory.mkdir()
    (shared.directory / "done.png").write_bytes(b"picture")
    line = {"service": shared.running.url, "status": "finished", "exit_code": 0, "path": "/old/out/done.png"}
    with (shared.directory / "results.jsonl").open("w") as file:
        for prompt in ("done", "done elsewhere"):
            task = {"task_id": f"T-{prompt}", "prompt": prompt}
            file.write(json.dumps({"row": keys[prompt], "line": 1, **line, **task}) + "\n")
    history = cli.home / ".local/state/flux-cli/history.sqlite3"
    history.parent.mkdir(parents=True)
    states = {
        "done": ("finished", "T-done", "/old/out/done.png", 0),
        "running": ("processing", running, None, None),
        "failed": ("failed", "T-failed", None, 4),
        "unknown": ("unknown", None, None, None),
        "no credits": ("failed", None, None, 3),
    }
    with closing(sqlite3.connect(history)) as database:
        database.executescript(f"{VERSION_1}PRAGMA application_id = 0x464C5558")
        service, batch = shared.running.url, str(shared.directory)
        for prompt, known in states.items():
            database.execute(
                "INSERT INTO submissions (created, service, batch, prompt, row, request, "
                "status, task_id, path, exit_code) VALUES (1.5, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (service, batch, prompt, keys[prompt], json.dumps({"prompt": prompt}), *known),
            )
        database.commit()
    done = cli.process(*shared.arguments())
    assert done.code == 9, done.stderr
    assert charged(shared.tmp_path) == {"running": 1, "no credits": 1, "new": 1}
    found = {each["prompt"]: each["status"] for each in results(shared.directory)}
    assert found == dict.fromkeys(shared.rows, "finished") | {"failed": "failed", "unknown": "unknown"}
    history.unlink()  # from now on the directory is enough
    assert cli.process(*shared.arguments()).code == 9
    assert charged(shared.tmp_path).total() == 3


def test_a_damaged_history_stops_a_batch_of_version_0_1_0(shared: Shared) -> None:
    """It knows tasks that are nowhere else; and the next run has to see it, too."""
    cli = shared.cli("home")
    shared.directory.mkdir()
    (shared.directory / "results.jsonl").write_text('{"row": "1", "service": "x", "status": "finished"}\n')
    history = cli.home / ".local/state/flux-cli/history.sqlite3"
    history.parent.mkdir(parents=True)
    history.write_bytes(b"no database" * 1000)
    for _ in range(2):
        done = cli(*shared.arguments())
        assert (done.code, shared.running.stats.submissions) == (6, 0)
        assert "the history" in done.stderr
