"""Batches in tests: their files, what the sandbox charged for, and what they left."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from tests.cli import Cli

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
