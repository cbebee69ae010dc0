"""Measure completion: `python -m tests.benchmarks.completion [RUNS [RECORDS]]`.

Each row completes a line with a history of 100,000 tasks (or RECORDS), in turn with a bare Typer app that does
nothing, so that both see the same machine. It prints the medians of whole processes, and the median of the ratios
of the pairs; the target is 1.0. What the shells' scripts add is not in it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from flux_cli.storage.history import History

FLUX_CLI = str(Path(sys.executable).with_name("flux-cli"))
BARE = """
import typer
app = typer.Typer()

@app.command()
def nothing(): pass

@app.command()
def neither(): pass

app()
"""
LINES = (
    "flux-cli ",
    "flux-cli imagine --",
    "flux-cli imagine --model ",
    "flux-cli imagine --image-prompt ",
    "flux-cli sandbox --fault ",
    "flux-cli wait ",
    "flux-cli wait a",
    "flux-cli wait abc",
    "flux-cli imagine --like ",
)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    records = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory) / "bare.py"
        bare.write_text(BARE)
        _fill(Path(directory) / "flux-cli" / "history.sqlite3", records)
        env = {**os.environ, "XDG_STATE_HOME": directory, "XDG_CONFIG_HOME": directory}
        # So that the warm-up compiles what was edited, as an installation is; else each TAB would, for 10 ms.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        print(f"{'line, then a TAB':34} {'median ms':>9} {'no-op ms':>9} {'ratio':>6}")
        for line in LINES:
            response = {**env, "_FLUX_CLI_COMPLETE": "bash", "_FLUX_CLI_LINE": line}
            times: tuple[list[float], list[float]] = ([], [])
            for run in range(runs + 1):
                tab = _milliseconds([FLUX_CLI], response)
                nothing = _milliseconds([sys.executable, str(bare), "nothing"], env)
                if run:  # the first round warms the caches up
                    times[0].append(tab)
                    times[1].append(nothing)
            ratio = statistics.median(tab / nothing for tab, nothing in zip(*times, strict=True))
            print(f"{line:34} {statistics.median(times[0]):9.0f} {statistics.median(times[1]):9.0f} {ratio:6.2f}")


def _milliseconds(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def _fill(path: Path, records: int) -> None:
    history = History(path)
    with history.transaction():
        numbers = history.begin(
            "sandbox", [{"model": "flux-pro", "prompt": f"kite {n} " * 20} for n in range(records)]
        )
        for number in numbers:
            history.accepted(number, str(uuid.uuid4()))
    history.close()


if __name__ == "__main__":
    main()
