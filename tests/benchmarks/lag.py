"""Measure the lag from the end of a task to its saved picture: `python -m tests.benchmarks.lag [RUNS]`.

For comparison: the official SDK, whose `wait_for` polls every 3 s. The server runs in a process of its own, and
so does each client; both tools take turns, so that they see the same machine. Durations vary around the nominal
one: a multiple of the polling interval would measure the interval rather than the tool. Requests are calls of
the API. Other load on the machine increases the lags, so it is printed too.
"""

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import mean

from tests.measured import FLUX_CLI, environment, sandbox

LENGTHS = (2.4, 5.7, 10.3, 20.6)
SPREAD = 0.05
"""How far the lengths vary to either side, as a share."""
STAGGER_SECONDS = 1.2
"""How long after one client the next one starts: their starting takes the processor."""
SDK = """
import json, sys, urllib.request
from apiframe import Apiframe
url, prompt, path = sys.argv[1:]
requests = 1
with Apiframe(api_key="benchmark-key", base_url=url) as client:
    get = client.tasks.get
    def counted(task_id):
        global requests
        requests += 1
        return get(task_id)
    client.tasks.get = counted
    task = client.flux.generate({"model": "flux-pro", "prompt": prompt, "width": 256, "height": 256})
    urllib.request.urlretrieve(client.tasks.wait_for(task["id"])["image_url"], path)
print(json.dumps({"task_id": task["id"], "requests": requests}))
"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = list(itertools.product((True, False), LENGTHS, ("flux-cli", "SDK, 3 s")))
    results: dict[tuple[bool, float, str], list[Future[tuple[float, int]]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name, sandbox(Path(name)) as url, ThreadPoolExecutor(99) as pool:
        for number, case in itertools.product(range(count), cases):
            percentages, length, tool = case
            seconds = length * (1 + SPREAD * (2 * (number + 0.5) / count - 1))
            prompt = f"a kite [[slow {seconds:.3f}]]" + ("" if percentages else " [[no-percentage]]")
            path = Path(name) / f"{number} {case}.png"
            results[case].append(pool.submit(measured, tool, prompt, path, environment(Path(name), url)))
            time.sleep(STAGGER_SECONDS)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} processors")
    titles = f"{'task':>5} {'lag':>5} {'most':>5} {'target':>6} {'requests':>8} {'target':>6}"
    print(f"{'':10} {'percentages':11} {titles}   (times in seconds)")
    for (percentages, length, tool), futures in results.items():
        lags, requests = zip(*(future.result() for future in futures), strict=True)
        lag = 0.3 if percentages else 0.15 + 0.05 * length
        most = 5 + 0.75 * length if percentages else 8 + length
        print(
            f"{tool:10} {'yes' if percentages else 'no':11} {length:5.1f} {mean(lags):5.2f} {max(lags):5.2f}"
            f" {lag:6.2f} {mean(requests):8.1f} {most:6.1f}"
        )


def measured(tool: str, prompt: str, path: Path, env: dict[str, str]) -> tuple[float, int]:
    """Return a run's lag, from the end of the task to the whole file, in seconds, and its requests."""
    command: list[str | Path] = [sys.executable, "-c", SDK, env["FLUX_CLI_API_URL"], prompt, path]
    if tool == "flux-cli":
        command = [FLUX_CLI, *"imagine --width 256 --height 256 --json -v -o".split(), path, prompt]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    with closing(sqlite3.connect(Path(env["XDG_STATE_HOME"]) / "flux-cli/sandbox/tasks.sqlite3")) as store:
        find = "SELECT submitted + seconds FROM tasks WHERE task_id = ?"
        (ended,) = store.execute(find, (printed["task_id"],)).fetchone()
    requests = printed.get("requests") or sum(line.startswith("> ") for line in done.stderr.splitlines())
    return path.stat().st_ctime - ended, requests


if __name__ == "__main__":
    main()
