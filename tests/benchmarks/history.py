"""Measure commands with a long history: `python -m tests.benchmarks.history [RUNS]`.

Each row runs a command with 10 and with 100,000 records, in turn, so that both see the same machine, and prints
the medians of whole processes and their ratio; a target of 1.1 was set.
"""

import json
import statistics
import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path

from flux_cli.api.task import Status
from flux_cli.storage.history import History
from tests import lean
from tests.measured import environment, measure

FLUX_CLI = Path(sys.executable).with_name("flux-cli")
SIZES = (10, 100_000)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    with tempfile.TemporaryDirectory() as name, lean.running(0.0) as url:
        submission = urllib.request.Request(f"{url}/flux-imagine", b'{"prompt": "a kite"}')  # noqa: S310 - our own
        with urllib.request.urlopen(submission) as response:  # noqa: S310 - as above
            task_id = json.load(response)["task_id"]
        homes = {size: Path(name) / str(size) for size in SIZES}
        for size, home in homes.items():
            home.mkdir()
            (home / "rows.txt").write_text("a kite")
            fill(home / "state" / "flux-cli" / "history.sqlite3", size, url, task_id)
        print(f"{'command':24} {'10, ms':>8} {'100,000, ms':>12} {'ratio':>6}")
        rows: dict[str, tuple[list[str], dict[str, str]]] = {
            "fetch ID": (["fetch", task_id], {}),
            "history --limit 10": (["history", "--limit", "10"], {}),
            "batch, nothing left": (["batch", "rows.txt", "-o", "out", "-q"], {}),
            "wait <TAB>": ([], {"_FLUX_CLI_COMPLETE": "bash", "_FLUX_CLI_LINE": "flux-cli wait "}),
            "wait ab<TAB>": ([], {"_FLUX_CLI_COMPLETE": "bash", "_FLUX_CLI_LINE": "flux-cli wait ab"}),
        }
        for title, (arguments, more) in rows.items():
            times: dict[int, list[float]] = {size: [] for size in SIZES}
            for run in range(runs + 1):
                for size, home in homes.items():
                    cost = measure([FLUX_CLI, *arguments], {**environment(home, url), **more}, home)
                    if run:  # the first round warms the caches up
                        times[size].append(1000 * cost.wall)
            few, many = (statistics.median(times[size]) for size in SIZES)
            print(f"{title:24} {few:8.0f} {many:12.0f} {many / few:6.2f}")


def fill(path: Path, records: int, service: str, task_id: str) -> None:
    """Make a history of so many tasks, rows of a batch and saved, and one more that is neither."""
    history = History(path)
    requests: list[dict[str, object]] = [
        {"model": "flux-pro", "prompt": f"kite {n} " * 20} for n in range(records)
    ]
    with history.transaction():
        for number in history.begin(service, requests, "/pictures", [str(n) for n in range(records)]):
            history.accepted(number, str(uuid.uuid4()))
            history.ended(number, Status.FINISHED, path=f"/pictures/{number}.png", exit_code=0)
        (number,) = history.begin(service, requests[:1])
        history.accepted(number, task_id)
    history.close()


if __name__ == "__main__":
    main()
