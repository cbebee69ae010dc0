"""Measure the sandbox under load: a table of rates, waiting times and memory. It checks nothing.

Run it as `python tests/benchmarks/sandbox.py [--seconds 60] [--rate 500] [--tasks 1000]`. The server runs in a
process of its own; this one keeps idle and half-sent connections open and calls it evenly.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CLIENTS = 16
IDLE, HALF_SENT = 200, 50
HEADERS = {"Authorization": "benchmark-key", "Content-Type": "application/json"}
MIX = {"fetch": 70, "fetch-many": 10, "submit": 14, "account": 5, "image": 1}
"""Of 100 calls so many of each."""

STARTING = """
import time
begin = time.perf_counter()
from pathlib import Path
from flux_cli.sandbox import running
with running(Path({directory!r})) as service:
    up = time.perf_counter()
print(up - begin, time.perf_counter() - up)
"""
DRAWING = """
import time
from flux_cli.sandbox.render import render
body = {"model": "flux-pro", "prompt": "a sunflower field in the wind"}
times = []
for seed in range(11):
    begin = time.perf_counter()
    render(body, seed, None, captioned=True, image_format="PNG")
    times.append(time.perf_counter() - begin)
print(sorted(times)[5])
"""


@dataclass
class Seen:
    """What the clients saw: seconds by kind of call, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in MIX})
    errors: list[str] = field(default_factory=list)
    late: float = 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
        print_starts(directory)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with server(directory) as url:
            print_load(url, options.seconds, options.rate, options.tasks)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"the server used {used:.1f} s of CPU and at most {after.ru_maxrss / 1024:.0f} MiB of memory")


def print_starts(directory: str) -> None:
    """Print how long an embedded server takes to start and stop, each time in a new process."""
    runs = [python(STARTING.format(directory=directory)).split() for _ in range(7)]
    start, stop = (statistics.median(float(run[index]) for run in runs) for index in (0, 1))
    print(f"embedded: starts in {1000 * start:.0f} ms (imports included), stops in {1000 * stop:.0f} ms")
    print(f"a picture of 1024 x 768 takes {1000 * float(python(DRAWING)):.0f} ms")


def python(code: str) -> str:
    """Run code in a new process and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def server(directory: str) -> Iterator[str]:
    """Run `flux-cli sandbox` and yield its URL."""
    program = shutil.which("flux-cli", path=str(Path(sys.executable).parent)) or "flux-cli"
    process = subprocess.Popen(
        [program, "sandbox", "--port", "0", "--seconds", "600", "--credits", "10000000"],
        env={**os.environ, "XDG_STATE_HOME": directory},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def print_load(url: str, seconds: float, rate: float, tasks: int) -> None:
    """Call the server evenly for a while, and print the waiting times by kind of call."""
    host, port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
    connection = http.client.HTTPConnection(host, port)
    running = [submit(connection, f"task {number}") for number in range(tasks)]
    finished = [submit(connection, f"picture {number} [[slow 0]]") for number in range(20)]
    pictures = [call(connection, "/fetch", {"task_id": task_id})["image_url"] for task_id in finished]
    seen = Seen()
    with contextlib.ExitStack() as stack:
        for number in range(IDLE + HALF_SENT):
            idle = stack.enter_context(socket.create_connection((host, port)))
            if number < HALF_SENT:
                idle.sendall(b"POST /fetch HTTP/1.1\r\nContent-Length: 1000\r\n")
        clients = [
            threading.Thread(
                target=client, args=(host, port, seen, running, pictures, seconds, CLIENTS / rate, number)
            )
            for number in range(CLIENTS)
        ]
        begin = time.perf_counter()
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        took = time.perf_counter() - begin
    print_table(seen, took, tasks)


def client(
    host: str,
    port: int,
    seen: Seen,
    running: list[str],
    pictures: list[str],
    seconds: float,
    pause: float,
    number: int,
) -> None:
    """Make a call every `pause` seconds, in a mix that is the same in every run."""
    chance = random.Random(number)  # noqa: S311 - no secret
    connection = http.client.HTTPConnection(host, port, timeout=30)
    begin = time.perf_counter() + pause * number / CLIENTS
    for turn in itertools.count():
        due = begin + turn * pause
        if due > begin + seconds:
            return
        time.sleep(max(0.0, due - time.perf_counter()))
        kind = chance.choices(list(MIX), list(MIX.values()))[0]
        started = time.perf_counter()
        seen.late = max(seen.late, started - due)
        try:
            one_call(connection, kind, running, pictures, chance)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            seen.errors.append(f"{kind}: {type(error).__name__}: {error}")
            connection.close()
        seen.seconds[kind].append(time.perf_counter() - started)


def one_call(
    connection: http.client.HTTPConnection,
    kind: str,
    running: list[str],
    pictures: list[str],
    chance: random.Random,
) -> None:
    """Make one call and check the response; raises ValueError or KeyError if it is wrong."""
    if kind == "submit":
        submit(connection, f"another {chance.random()}")
    elif kind == "account":
        call(connection, "/account")["credits"]
    elif kind == "fetch":
        call(connection, "/fetch", {"task_id": chance.choice(running)})["percentage"]
    elif kind == "fetch-many":
        asked = chance.sample(running, 20)
        if len(call(connection, "/fetch-many", {"task_ids": asked})["tasks"]) != len(asked):
            raise ValueError("tasks are missing")
    else:
        url = urlsplit(chance.choice(pictures))
        with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=30)) as images:
            images.request("GET", url.path)
            if not images.getresponse().read().startswith(b"\x89PNG"):
                raise ValueError("not a picture")


def submit(connection: http.client.HTTPConnection, prompt: str) -> str:
    """Submit a task and return its id."""
    return str(call(connection, "/flux-imagine", {"model": "flux-pro", "prompt": prompt})["task_id"])


def call(connection: http.client.HTTPConnection, path: str, body: object = None) -> dict[str, str]:
    """Make a call and return the JSON object of its response; raises ValueError on a status other than 200."""
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, HEADERS)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    found: dict[str, str] = json.loads(text)
    return found


def print_table(seen: Seen, took: float, tasks: int) -> None:
    """Print what the clients saw."""
    every = [seconds for kind in seen.seconds.values() for seconds in kind]
    print(
        f"\n{len(every)} calls in {took:.1f} s: {len(every) / took:.0f} a second, {tasks} tasks running,"
        f" {IDLE} idle and {HALF_SENT} half-sent connections; {len(seen.errors)} errors;"
        f" a call was at most {1000 * seen.late:.0f} ms late\n"
    )
    print(f"{'':12}{'calls':>8}{'median':>10}{'95 %':>10}{'99 %':>10}{'worst':>10}   (ms)")
    for kind, seconds in [*seen.seconds.items(), ("all", every)]:
        if len(seconds) > 1:
            cuts = statistics.quantiles(seconds, n=100, method="inclusive")
            figures = (statistics.median(seconds), cuts[94], cuts[98], max(seconds))
            print(f"{kind:12}{len(seconds):>8}" + "".join(f"{1000 * figure:>10.1f}" for figure in figures))
    for error in sorted(set(seen.errors))[:10]:
        print(f"error: {error}")


if __name__ == "__main__":
    main()
