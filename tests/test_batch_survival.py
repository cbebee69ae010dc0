"""Batches that are killed many times and spread over several processes: every row is charged once."""

import json
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from flux_cli import sandbox
from tests.conftest import FLUX_CLI, KEY, Cli, Service, port_to_come_back_to, tool, wait_until

ROWS, KILLS = 150, 10
SMALL = ("--width", "256", "--height", "256")


def accepted(tmp_path: Path) -> Counter[str]:
    """Return how often the sandbox accepted each prompt, and so would have charged it."""
    with sqlite3.connect(tmp_path / "sandbox" / "tasks.sqlite3") as database:
        bodies = database.execute("SELECT body FROM tasks").fetchall()
    return Counter(json.loads(body)["prompt"] for (body,) in bodies)


def whole_pictures(directory: Path) -> int:
    """Return how many pictures there are, after seeing that each is whole, and that nothing else is left there."""
    names = {path.name for path in directory.iterdir()} - {"results.jsonl", ".flux-cli"}
    assert all(name.endswith(".png") for name in names)
    for name in names:
        with Image.open(directory / name) as image:
            image.load()
    return len(names)


@pytest.mark.slow
def test_ten_kills(flux: Cli, service: Service, tmp_path: Path) -> None:
    """SIGKILL at random moments, each followed by a new run.

    In the end there is one picture per row. Every further submission belongs to a row whose outcome was
    unknown; nothing is submitted again unless `--retry-unknown` asks for it.
    """
    rows = [f"kite {number} [[seconds 0.5]]" for number in range(ROWS)]  # so long that no run ends before its kill
    (flux.cwd / "rows.txt").write_text("\n".join(rows))
    command = ("batch", "rows.txt", "-o", "out", *SMALL, "-q")
    dice = random.Random(1)  # noqa: S311 - no secret
    for _ in range(KILLS):
        until = service.submissions + dice.randrange(8)
        process = flux.start(*command)
        wait_until(lambda: service.submissions >= until or process.poll() is not None)  # noqa: B023
        time.sleep(dice.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        assert process.returncode == -signal.SIGKILL, stderr
    last = flux(*command, timeout=120)
    unknown = [
        int(line.split(":")[2]) for line in last.stderr.splitlines() if "; it may have been charged" in line
    ]
    print(f"{len(unknown)} rows of unknown outcome")
    assert last.code == (9 if unknown else 0), last.stderr
    got = accepted(tmp_path)
    assert set(got.values()) == {1}
    assert whole_pictures(flux.cwd / "out") == ROWS - len(unknown)
    assert flux(*command, "--retry-unknown", timeout=120).code == 0
    assert whole_pictures(flux.cwd / "out") == ROWS
    twice = {prompt for prompt, count in accepted(tmp_path).items() if count > 1}
    assert twice == {rows[line - 1] for line in unknown if rows[line - 1] in got}
    lines = [json.loads(line) for line in (flux.cwd / "out" / "results.jsonl").read_text().splitlines()]
    assert Counter(each["line"] for each in lines) == dict.fromkeys(range(1, ROWS + 1), 1)
    assert {each["status"] for each in lines} == {"finished"}


@pytest.mark.slow
def test_four_shards_with_gnu_parallel(flux: Cli, tmp_path: Path) -> None:
    """Each row is made once, by one of them, and has one line in the results."""
    parallel = tool("parallel")
    rows = [f"kite {number}" for number in range(41)]
    (flux.cwd / "rows.txt").write_text("\n".join(rows))
    shard = [str(FLUX_CLI), "batch", "rows.txt", "-o", "out", *SMALL, "--shard", "{}/4"]
    done = subprocess.run(
        [parallel, "--jobs", "4", "--halt", "never", *shard, ":::", "1", "2", "3", "4"],
        cwd=flux.cwd,
        env=flux.env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert accepted(tmp_path) == dict.fromkeys(rows, 1)
    assert whole_pictures(flux.cwd / "out") == len(done.stdout.splitlines()) == 41
    lines = [json.loads(line) for line in (flux.cwd / "out" / "results.jsonl").read_text().splitlines()]
    assert Counter(each["line"] for each in lines) == dict.fromkeys(range(1, 42), 1)
    summed_up = re.findall(r"^(\d+) of \1 rows finished$", done.stderr, re.M)
    assert sorted(summed_up) == ["10", "10", "10", "11"]
    again = flux("batch", "rows.txt", "-o", "out", *SMALL)  # the whole: the shards' rows are its own
    assert "41 of 41 rows finished (41 by earlier runs)" in again.stderr
    assert accepted(tmp_path) == dict.fromkeys(rows, 1)


@pytest.mark.slow
def test_service_that_is_gone_for_a_while(cli: Cli, tmp_path: Path) -> None:
    """The run continues when the service is back; only submissions in flight at that moment may be unknown."""
    rows = [f"kite {number}" for number in range(40)]
    (cli.cwd / "rows.txt").write_text("\n".join(rows))
    cli.env["APIFRAME_API_KEY"] = KEY
    port = port_to_come_back_to()
    with sandbox.running(tmp_path / "sandbox", port=port, seconds=0.5) as service:
        with open(tmp_path / "stderr", "wb") as file:
            process = cli.start(
                "batch",
                "rows.txt",
                "-o",
                "out",
                *SMALL,
                "--concurrency",
                "4",
                "--api-url",
                service.url,
                stderr=file,
            )
        wait_until(lambda: service.stats.accepted >= 10)
    wait_until(lambda: "cannot reach" in (tmp_path / "stderr").read_text())
    assert process.poll() is None
    with sandbox.running(tmp_path / "sandbox", port=port, seconds=0.5):
        process.communicate(timeout=90)
    stderr = (tmp_path / "stderr").read_text()
    unknown = stderr.count("; it may have been charged")
    assert process.returncode == (9 if unknown else 0), stderr
    assert whole_pictures(cli.cwd / "out") == 40 - unknown
    assert unknown <= 4
    assert set(accepted(tmp_path).values()) == {1}
