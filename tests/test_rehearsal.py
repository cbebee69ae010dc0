"""`imagine`, `sandbox` and `listen` as separate processes, from the submission to the file."""

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import KEY, Cli, wait_until

Start = Callable[..., tuple["subprocess.Popen[bytes]", str]]


@pytest.fixture
def start(cli: Cli, tmp_path: Path) -> Iterator[Start]:
    """Start a server and return it with its first URL; it is killed at the end of the test."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_WEBHOOK_SECRET": "a-secret-for-tests"}
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, *arguments: str) -> tuple["subprocess.Popen[bytes]", str]:
        # Output goes to a file: a pipe that nobody reads would fill up.
        log = tmp_path / f"{len(started)}-{name}.txt"
        with open(log, "wb") as file:
            process = cli.start(name, "--port", "0", *arguments, stdout=file, stderr=file)
        started.append(process)
        wait_until(lambda: process.poll() is not None or "http://" in log.read_text())
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+(/\w+)?", log.read_text())
        assert found
        return process, found[0]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("embedded", [False, True], ids=["by its URL", "--sandbox"])
def test_submit_receive_download(cli: Cli, start: Start, embedded: bool) -> None:
    """Three processes. With `--sandbox`, `flux-cli sandbox` posts the webhooks after the command has ended."""
    sandbox, url = start("sandbox", "--seconds", "1")
    cli.env["FLUX_CLI_API_URL"] = url
    listen, webhook_url = start("listen", "--until", "1", "-o", "pictures/")
    flags = ["--sandbox"] if embedded else []
    submitted = cli("imagine", "a kite", "--width", "320", "--webhook-url", webhook_url, "--no-wait", *flags)
    assert submitted.code == 0, submitted.stderr
    task_id = submitted.stdout.strip()
    assert listen.wait(timeout=30) == 0
    assert cli.files() == [f"pictures/a-kite-{task_id[:8]}.png"]
    with Image.open(cli.cwd / cli.files()[0]) as image:
        image.load()
        assert image.width == 320
    (record,) = cli.history()
    assert (record["task_id"], record["status"], record["path"]) == (
        task_id,
        "finished",
        str(cli.cwd / cli.files()[0]),
    )
    sandbox.send_signal(signal.SIGINT)
    assert sandbox.wait(timeout=20) == 130


def test_listen_with_its_own_sandbox(cli: Cli, start: Start) -> None:
    """With `--sandbox` on both sides, no third process is needed."""
    listen, webhook_url = start("listen", "--sandbox", "--until", "1")
    submitted = cli("imagine", "a kite", "--webhook-url", webhook_url, "--no-wait", "--sandbox")
    assert submitted.code == 0, submitted.stderr
    assert listen.wait(timeout=40) == 0
    assert len(cli.files()) == 1
