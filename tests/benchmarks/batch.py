"""Measure batches: `python -m tests.benchmarks.batch [--runs 3] [--other FLUX_CLI]`.

Wall time against the ideal (rounds with full concurrency and no pauses between them), status requests per task and
peak memory; downloads per second if each picture takes half a second; CPU time per task, beside another `flux-cli`
if there is one; and the same rows with scripts that do without flux-cli. The server is `tests/lean.py`.
"""

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from tests import lean
from tests.measured import FLUX_CLI, Cost, environment, measure

PEERS = Path(__file__).parent / "peers"
Command = Sequence[str | Path]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--other", type=Path, help="another flux-cli, to compare with")
    given = parser.parse_args()
    print(f"{'64 in flight':32} {'wall s':>6} {'/ideal':>7} {'checks/task':>11} {'CPU s':>6} {'MiB':>5}")
    for rows, seconds in ((1000, 2.0), (20_000, 0.2)):
        cost, counts = run(batch(64), rows, seconds)
        ideal = math.ceil(rows / 64) * seconds
        print(
            f"{f'{rows} rows, tasks of {seconds} s':32} {cost.wall:6.1f} {cost.wall / ideal:7.3f}"
            f" {checks_in(counts) / rows:11.2f} {cost.processor:6.1f} {cost.peak:5.0f}"
        )
    cost, _ = run(batch(256), 2000, 1.0, picture_seconds=0.5)
    print(
        f"\n{'pictures per second, 0.5 s each':32} {2000 / (cost.wall - 1.5):6.0f}"
    )  # not the first and last task
    programs = {"this flux-cli": FLUX_CLI, **({"the other flux-cli": given.other} if given.other else {})}
    compare({name: batch(256, program) for name, program in programs.items()}, 1000, 1.0, given.runs)
    others: dict[str, Command] = {
        "SDK, 64 threads, 0.5 s poll": [sys.executable, PEERS / "sdk.py", "64", "0.5"],
        "aiohttp, 64 at once, 0.5 s poll": [sys.executable, PEERS / "asynchronous.py"],
    }
    compare({"flux-cli batch": batch(64), **others}, 200, 2.0, given.runs)
    others = {
        "SDK, 16 threads, 3 s poll": [sys.executable, PEERS / "sdk.py", "16", "3"],
        "curl and jq, 1 s poll": ["sh", PEERS / "loop.sh"],
    }
    compare({"flux-cli batch": batch(), **others}, 48, 2.0, 1)


def batch(concurrency: int = 0, program: Path = FLUX_CLI) -> Command:
    """Return the command of a batch; 0 is the default concurrency."""
    return [
        program,
        "batch",
        "rows.txt",
        "-o",
        "out",
        *(["--concurrency", str(concurrency)] if concurrency else []),
    ]


def compare(commands: Mapping[str, Command], rows: int, seconds: float, runs: int) -> None:
    results: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            cost, counts = run(command, rows, seconds)
            requests = checks_in(counts) + counts["/flux-imagine"] + counts["/account"]
            results[name].append((cost.wall, 1000 * cost.processor / rows, requests))
    print(f"\n{f'{rows} rows, tasks of {seconds} s':32} {'wall s':>6} {'CPU ms/task':>11} {'requests':>8}")
    for name, values in results.items():
        wall, processor, requests = map(median, zip(*values, strict=True))
        print(f"{name:32} {wall:6.2f} {processor:11.2f} {requests:8.0f}")


def run(command: Command, rows: int, seconds: float, picture_seconds: float = 0.0) -> tuple[Cost, Counter[str]]:
    """Run a command in a directory with so many rows; return what it cost and the requests that the server saw."""
    with tempfile.TemporaryDirectory() as name, lean.running(seconds, picture_seconds=picture_seconds) as url:
        directory = Path(name)
        (directory / "rows.txt").write_text("".join(f"picture number {row} of a kite\n" for row in range(rows)))
        cost = measure(command, environment(directory, url), directory)
        counts = lean.counts(url)
        made = sum(1 for _ in (directory / "out").glob("*.png"))
        if (made, counts["picture"]) != (rows, rows):
            raise SystemExit(f"{made} pictures were made and {counts['picture']} asked for, not {rows}")
    return cost, counts


def checks_in(counts: Counter[str]) -> int:
    return counts["/fetch"] + counts["/fetch-many"]


if __name__ == "__main__":
    main()
