"""Batches that are killed many times and spread over several processes: every row is charged once."""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from flux_cli import sandbox
from tests.batches import SMALL, charged, pictures, results, write
from tests.conftest import KEY, Cli, Service, port_to_come_back_to, wait_until

ROWS, KILLS = 150, 10


@pytest.mark.slow
def test_ten_kills(flux: Cli, service: Service, tmp_path: Path) -> None:
    """SIGKILL at random moments, each followed by a new run.

    In the end there is one picture per row. Every further submission belongs to a row whose outcome was
    unknown; nothing is submitted again unless `--retry-unknown` asks for it.
    """
    rows = [f"kite {number} [[seconds 0.5]]" for number in range(ROWS)]  # so long that no run ends before its kill
    write(flux, *rows)
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
    paid = charged(tmp_path)
    assert set(paid.values()) == {1}
    assert len(pictures(flux)) == ROWS - len(unknown)
    assert flux(*command, "--retry-unknown", timeout=120).code == 0
    assert len(pictures(flux)) == len(list((flux.cwd / "out").iterdir())) - 2 == ROWS
    twice = {prompt for prompt, count in charged(tmp_path).items() if count > 1}
    assert twice == {rows[line - 1] for line in unknown if rows[line - 1] in paid}
    lines = results(flux.cwd / "out")
    assert Counter(each["line"] for each in lines) == dict.fromkeys(range(1, ROWS + 1), 1)
    assert {each["status"] for each in lines} == {"finished"}


@pytest.mark.slow
def test_service_that_is_gone_for_a_while(cli: Cli, tmp_path: Path) -> None:
    """The run continues when the service is back; only submissions in flight at that moment may be unknown."""
    rows = [f"kite {number}" for number in range(40)]
    write(cli, *rows)
    port = port_to_come_back_to()
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": f"http://127.0.0.1:{port}"}
    with sandbox.running(tmp_path / "sandbox", port=port, seconds=0.5) as service:
        with open(tmp_path / "stderr", "wb") as file:
            process = cli.start("batch", "rows.txt", "-o", "out", *SMALL, "--concurrency", "4", stderr=file)
        wait_until(lambda: service.stats.accepted >= 10)
    wait_until(lambda: "cannot reach" in (tmp_path / "stderr").read_text())
    assert process.poll() is None
    with sandbox.running(tmp_path / "sandbox", port=port, seconds=0.5):
        process.communicate(timeout=90)
    stderr = (tmp_path / "stderr").read_text()
    unknown = stderr.count("; it may have been charged")
    assert process.returncode == (9 if unknown else 0), stderr
    assert len(pictures(cli)) == 40 - unknown
    assert unknown <= 4
    assert set(charged(tmp_path).values()) == {1}
