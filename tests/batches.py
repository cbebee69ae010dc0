"""Batches in tests: their files, what the sandbox charged for, and what they left."""

import json
import os
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from flux_cli import sandbox
from tests.conftest import KEY, Cli, wait_until

SMALL = ("--width", "256", "--height", "256")


def write(cli: Cli, *lines: str, name: str = "rows.txt") -> None:
    """Write a file of lines into the working directory."""
    (cli.cwd / name).write_text("".join(f"{line}\n" for line in lines))


def results(directory: Path) -> list[dict[str, Any]]:
    """Return the objects in the results.jsonl of a batch, without a last line that is being written."""
    path = directory / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def pictures(cli: Cli) -> list[str]:
    """Return the names of all pictures, after checking that they are complete."""
    names = [name for name in cli.files() if name.endswith(".png")]
    for name in names:
        with Image.open(cli.cwd / name) as image:
            image.load()
    return names


def charged(directory: Path) -> Counter[str]:
    """Return how often the sandbox below a directory accepted each prompt, and so would have charged it."""
    with closing(sqlite3.connect(directory / "sandbox" / "tasks.sqlite3")) as database:
        bodies = database.execute("SELECT body FROM tasks").fetchall()
    return Counter(json.loads(body)["prompt"] for (body,) in bodies)


class Shared:
    """A batch directory, a service, and runs on it from one or several hosts, each with a home of its own."""

    def __init__(self, tmp_path: Path, running: "sandbox.Running", rows: int) -> None:
        self.tmp_path = tmp_path
        self.running = running
        self.directory = tmp_path / "volume" / "out"
        self.directory.parent.mkdir()
        self.rows = [f"kite {number}" for number in range(rows)]
        self.file = tmp_path / "rows.txt"
        self.file.write_text("\n".join(self.rows))

    def cli(self, home: str) -> Cli:
        """Return the command with a home of this name."""
        directory = self.tmp_path / home
        (directory / "work").mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "NO_PROXY": "127.0.0.1",
            "APIFRAME_API_KEY": KEY,
            "FLUX_CLI_API_URL": self.running.url,
        }
        return Cli(directory, env)

    def arguments(self, *more: str) -> list[str]:
        """Return the command line of a run."""
        return ["batch", str(self.file), "-o", str(self.directory), *SMALL, "--concurrency", "4", *more]

    def start(self, home: str, *more: str) -> "subprocess.Popen[bytes]":
        """Start a run."""
        return self.cli(home).start(*self.arguments(*more))

    def kill(self, processes: Sequence["subprocess.Popen[bytes]"], accepted: int) -> None:
        """Kill runs as soon as the service has accepted so many submissions."""
        wait_until(lambda: self.running.stats.accepted >= accepted)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate(timeout=20)
            assert process.returncode == -signal.SIGKILL

    def check(self) -> int:
        """Check that each row was charged once at most, and has a picture or is unknown; count pictures."""
        paid = charged(self.tmp_path)
        assert {prompt: count for prompt, count in paid.items() if count > 1} == {}
        lines = results(self.directory)
        status = {line["prompt"]: line["status"] for line in lines}
        assert len(lines) == len(status) == len(self.rows)
        finished = {prompt for prompt, each in status.items() if each == "finished"}
        assert set(self.rows) - finished == {prompt for prompt, each in status.items() if each == "unknown"}
        assert finished <= set(paid)
        assert len(list(self.directory.glob("*.png"))) == len(finished)
        return len(finished)
