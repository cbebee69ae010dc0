"""Measure startup: `python -m tests.benchmarks.startup [RUNS]`.

Each row runs a command and its yardstick in turn, so that both see the same machine, and prints the medians of
whole processes and the ratio of the medians. The yardsticks are bare Typer apps with two commands.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flux_cli import sandbox

BIN = Path(sys.executable).parent
BARE = """
import typer
app = typer.Typer()

@app.command()
def nothing(): pass

@app.command()
def post(url: str, task_id: str):
    import requests
    response = requests.post(url, json={"task_id": task_id}, headers={"Authorization": "key"})
    print(response.json()["status"])

app()
"""


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as directory, sandbox.running(Path(directory) / "sandbox") as service:
        bare = Path(directory) / "bare.py"
        bare.write_text(BARE)
        env = {**os.environ, "XDG_STATE_HOME": directory, "XDG_CONFIG_HOME": directory} | {
            "APIFRAME_API_KEY": "benchmark-key",
            "FLUX_CLI_API_URL": service.url,
        }
        flux = str(BIN / "flux-cli")
        typer_app = [sys.executable, str(bare)]
        submit = [flux, "imagine", "--no-wait", "-q", "a kite [[never]]"]
        task_id = subprocess.run(submit, env=env, capture_output=True, text=True, check=True).stdout.strip()
        post = [*typer_app, "post", f"{service.url}/fetch", task_id]
        print(f"{'command':34} {'median ms':>9}   {'yardstick':24} {'median ms':>9}   {'ratio':>5} {'target':>6}")
        row("flux-cli --version", [flux, "--version"], "Typer no-op", [*typer_app, "nothing"], 1.2, runs, env)
        row("flux-cli --help", [flux, "--help"], "Typer --help", [*typer_app, "--help"], 0.6, runs, env)
        row("flux-cli fetch ID", [flux, "fetch", task_id], "Typer + requests POST", post, 1.15, runs, env)
        for peer, argument in (("http", "--version"), ("llm", "--version"), ("together", "--help")):
            if shutil.which(peer):
                row(
                    f"{peer} {argument}", [peer, argument], "Typer no-op", [*typer_app, "nothing"], None, runs, env
                )


def row(
    name: str,
    command: Sequence[str],
    yardstick_name: str,
    yardstick: Sequence[str],
    target: float | None,
    runs: int,
    env: dict[str, str],
) -> None:
    """Time a command against its yardstick and print the row."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for which, each in enumerate((command, yardstick)):
            began = time.perf_counter()
            subprocess.run(each, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
            if run:  # the first round warms the caches up
                times[which].append((time.perf_counter() - began) * 1000)
    mine, theirs = (statistics.median(each) for each in times)
    wanted = f"{target:.2f}" if target else "-"
    print(f"{name:34} {mine:9.0f}   {yardstick_name:24} {theirs:9.0f}   {mine / theirs:5.2f} {wanted:>6}")


if __name__ == "__main__":
    main()
