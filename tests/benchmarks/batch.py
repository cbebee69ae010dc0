"""Measure batches: `python -m tests.benchmarks.batch [--rows 1000] [--many 20000] [--peers 48]`.

Wall time against the ideal (rounds with full concurrency and no pauses between them), status
requests a task, and peak memory; then the same rows with scripts that do without flux-cli, on the same server. A
count of 0 leaves that table out. The server is `tests/lean.py`, in a process of its own.
"""

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests import lean
from tests.measured import Cost, environment, measure

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
PEERS = Path(__file__).parent / "peers"
CONCURRENCY = 64


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--peers", type=int, default=48)
    given = parser.parse_args()
    print(f"{'batch':28} {'wall s':>7} {'/ideal':>7} {'submitted':>9} {'looks/task':>10} {'CPU s':>6} {'MiB':>5}")
    sizes = [(given.rows, 2.0)] * bool(given.rows) + [(given.many, 0.2)] * bool(given.many)
    for rows, seconds in sizes:
        batch: list[str | Path] = [FLUX_CLI, "batch", "rows.txt", "-o", "out", "--concurrency", str(CONCURRENCY)]
        cost, counts = one(batch, rows, seconds)
        ideal = math.ceil(rows / CONCURRENCY) * seconds
        print(
            f"{f'{rows} rows, tasks of {seconds} s':28} {cost.wall:7.1f} {cost.wall / ideal:7.3f} "
            f"{counts['/flux-imagine']:9} {looks(counts) / rows:10.2f} {cost.processor:6.1f} {cost.peak:5.0f}"
        )
    if given.peers:
        compare(given.peers)


def compare(rows: int) -> None:
    """Print the table with the scripts that do without flux-cli."""
    print(f"\n{f'{rows} rows, tasks of 2 s':28} {'wall s':>7} {'requests':>8} {'lines':>6} {'resumes':>8}")
    loop, threads = PEERS / "loop.sh", PEERS / "threads.py"
    contestants: list[tuple[str, Sequence[str | Path], int, str]] = [
        ("flux-cli batch", [FLUX_CLI, "batch", "rows.txt", "-o", "out"], 1, "yes"),
        ("SDK, 16 threads, 3 s poll", [sys.executable, threads], lines(threads), "no"),
        ("curl and jq, 1 s poll", ["sh", loop], lines(loop), "no"),
    ]
    for name, command, length, resumes in contestants:
        cost, counts = one(command, rows, 2.0)
        requests = looks(counts) + counts["/flux-imagine"] + counts["/account"]
        print(f"{name:28} {cost.wall:7.1f} {requests:8} {length:6} {resumes:>8}")


def one(command: Sequence[str | Path], rows: int, seconds: float) -> tuple[Cost, Counter[str]]:
    """Run a command in a directory with so many rows; return what it took and what the server saw."""
    with tempfile.TemporaryDirectory() as name, lean.running(seconds) as url:
        directory = Path(name)
        (directory / "rows.txt").write_text("".join(f"picture number {row} of a kite\n" for row in range(rows)))
        cost = measure(command, environment(directory, url), directory)
        counts = lean.counts(url)
        made = sum(1 for _ in (directory / "out").glob("*.png"))
        if (made, counts["picture"]) != (rows, rows):
            raise SystemExit(f"{made} pictures were made and {counts['picture']} asked for, not {rows}")
    return cost, counts


def looks(counts: Counter[str]) -> int:
    """Return how many status requests there were."""
    return counts["/fetch"] + counts["/fetch-many"]


def lines(script: Path) -> int:
    """Return a script's length without blank lines, comments and docstrings."""
    code = [line.strip() for line in script.read_text().splitlines()]
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in code)


if __name__ == "__main__":
    main()
