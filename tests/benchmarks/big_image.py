"""A 100 MB picture against curl, on the same server: `python -m tests.benchmarks.big_image [RUNS]`.

For each tool, the time that the large picture takes beyond a small one, so that startup does not count; for
flux-cli the peak memory beyond that of the small one. Medians; both tools take turns.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from tests import lean
from tests.measured import FLUX_CLI, Cost, environment, in_turn, measure, submitted

BYTES = 100_000_000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    costs: list[list[list[Cost]]] = []
    for size in (1000, BYTES):
        with lean.running(0.0, size=size) as url:
            costs.append(in_turn(runs, partial(one, "curl", url), partial(one, "flux-cli", url)))
    print(f"{'100 MB':10} {'small s':>8} {'large s':>8} {'MB/s':>6} {'MiB more':>9}")
    rates = []
    for name, small, large in zip(("curl", "flux-cli"), *costs, strict=True):
        seconds = [median(cost.wall for cost in each) for each in (small, large)]
        more = max(cost.peak for cost in large) - min(cost.peak for cost in small)
        rates.append(BYTES / 1e6 / (seconds[1] - seconds[0]))
        print(f"{name:10} {seconds[0]:8.2f} {seconds[1]:8.2f} {rates[-1]:6.0f} {more:9.1f}")
    print(f"flux-cli at {rates[1] / rates[0]:.2f} of curl's throughput")


def one(name: str, url: str) -> Cost:
    task_id = submitted(url)
    with tempfile.TemporaryDirectory() as directory:
        command: list[str | Path] = ["curl", "-sS", "--fail", "-o", "picture.png", f"{url}/{task_id}.png"]
        if name == "flux-cli":
            command = [FLUX_CLI, "wait", task_id, "-o", "picture.png", "-q"]
        return measure(command, environment(Path(directory), url), Path(directory))


if __name__ == "__main__":
    main()
