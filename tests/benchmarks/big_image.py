"""A 100 MB picture against curl, on the same server: `python -m tests.benchmarks.big_image [RUNS]`.

For each tool, the time that the large picture takes beyond a small one, so that startup does not count; for
flux-cli the peak memory beyond that of the small one. Medians; both tools take turns.
"""

import json
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests import lean
from tests.measured import Cost, environment, measure

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
BYTES = 100_000_000


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    costs: dict[tuple[str, int], list[Cost]] = {}
    for size in (1000, BYTES):
        with lean.running(0.0, size=size) as url:
            for _ in range(runs + 1):
                for name in ("curl", "flux-cli"):
                    costs.setdefault((name, size), []).append(one(name, url))
    print(f"{'100 MB':10} {'small s':>8} {'large s':>8} {'MB/s':>6} {'MiB more':>9}")
    rates = {}
    for name in ("curl", "flux-cli"):
        # The first round warms the caches up.
        small, large = (statistics.median(cost.wall for cost in costs[name, size][1:]) for size in (1000, BYTES))
        more = max(cost.peak for cost in costs[name, BYTES]) - min(cost.peak for cost in costs[name, 1000])
        rates[name] = BYTES / 1e6 / (large - small)
        print(f"{name:10} {small:8.2f} {large:8.2f} {rates[name]:6.0f} {more:9.1f}")
    print(f"flux-cli at {rates['flux-cli'] / rates['curl']:.2f} of curl's throughput")


def one(name: str, url: str) -> Cost:
    """Submit a task and measure how a tool gets its picture."""
    submission = urllib.request.Request(f"{url}/flux-imagine", b'{"prompt": "a kite"}')  # noqa: S310 - our own
    with urllib.request.urlopen(submission) as response:  # noqa: S310 - as above
        task_id = json.load(response)["task_id"]
    with tempfile.TemporaryDirectory() as directory:
        command = {
            "curl": ["curl", "-sS", "--fail", "-o", "picture.png", f"{url}/{task_id}.png"],
            "flux-cli": [FLUX_CLI, "wait", task_id, "-o", "picture.png", "-q"],
        }[name]
        return measure(command, environment(Path(directory), url), Path(directory))


if __name__ == "__main__":
    main()
