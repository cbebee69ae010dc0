"""Measure the cost and speed of batches: `python -m tests.benchmarks.throughput [--other FLUX_CLI] [--runs 3]`.

Three tables, each in one run on one machine: CPU time per task at 256 in flight, beside another `flux-cli` if
there is one; downloads per second if each picture takes half a second; and 200 tasks of 2 s at 64 in flight,
beside the official SDK and an asyncio script that both poll every half second. The server is `tests/lean.py`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests import lean
from tests.measured import Cost, environment, measure

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
PEERS = Path(__file__).parent / "peers"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--other", type=Path, help="another flux-cli, to compare with")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    cpu(given.other, given.runs)
    downloads()
    peers(given.runs)


def cpu(other: Path | None, runs: int) -> None:
    """Print CPU time per task, the medians of runs in turn."""
    rows = 1000
    programs = {"this flux-cli": FLUX_CLI, **({"the other flux-cli": other} if other else {})}
    costs: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            cost, _ = one(_batch(program, 256), rows, 1.0)
            costs[name].append(1000 * cost.processor / rows)
    print(f"{'CPU per task, 256 in flight':32} {'ms':>6}")
    for name, values in costs.items():
        print(f"{name:32} {median(values):6.2f}")
    if other:
        ours, theirs = costs.values()
        print(f"{'ratio':32} {median(a / b for a, b in zip(ours, theirs, strict=True)):6.2f}")


def downloads() -> None:
    """Print how many pictures per second arrive, beyond the time of the first and the last task."""
    rows, seconds, picture_seconds = 2000, 1.0, 0.5
    cost, _ = one(_batch(FLUX_CLI, 256), rows, seconds, picture_seconds)
    rate = rows / (cost.wall - seconds - picture_seconds)
    print(f"\n{'pictures per second, 0.5 s each':32} {rate:6.0f}")


def peers(runs: int) -> None:
    """Print wall time and requests of the same work done by others, the medians of runs in turn."""
    rows = 200
    commands: dict[str, Sequence[str | Path]] = {
        "flux-cli batch": _batch(FLUX_CLI, 64),
        "SDK, 64 threads, 0.5 s poll": [sys.executable, PEERS / "sdk.py"],
        "aiohttp, 64 at once, 0.5 s poll": [sys.executable, PEERS / "asynchronous.py"],
    }
    results: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            cost, counts = one(command, rows, 2.0)
            requests = counts["/flux-imagine"] + counts["/fetch"] + counts["/fetch-many"] + counts["/account"]
            results[name].append((cost.wall, requests))
    print(f"\n{'200 tasks of 2 s, 64 in flight':32} {'wall s':>6} {'requests':>8}")
    for name, values in results.items():
        walls, requests_ = zip(*values, strict=True)
        print(f"{name:32} {median(walls):6.2f} {median(requests_):8.0f}")


def one(
    command: Sequence[str | Path], rows: int, seconds: float, picture_seconds: float = 0.0
) -> tuple[Cost, Counter[str]]:
    """Run a command in a directory with so many rows; return what it cost and the requests that the server saw."""
    with tempfile.TemporaryDirectory() as name, lean.running(seconds, picture_seconds=picture_seconds) as url:
        directory = Path(name)
        (directory / "rows.txt").write_text("".join(f"picture number {row} of a kite\n" for row in range(rows)))
        cost = measure(command, environment(directory, url), directory)
        counts = lean.counts(url)
        made = sum(1 for _ in (directory / "out").glob("*.png"))
        if made != rows:
            raise SystemExit(f"{made} pictures were made, not {rows}")
    return cost, counts


def _batch(program: Path, concurrency: int) -> list[str | Path]:
    return [program, "batch", "rows.txt", "-o", "out", "--concurrency", str(concurrency)]


if __name__ == "__main__":
    main()
