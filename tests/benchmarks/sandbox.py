"""Measure the sandbox under load: `python -m tests.benchmarks.sandbox [--seconds 60] [--rate 500] [--tasks 1000]`.

It prints rates, waiting times and memory, and checks nothing. The server runs in a process of its own; this one
keeps idle and half-sent connections open and calls it evenly.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection as Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.measured import sandbox

CLIENTS = 16
IDLE, HALF_SENT = 200, 50
HEADERS = {"Authorization": "benchmark-key", "Content-Type": "application/json"}
MIX = {"fetch": 70, "fetch-many": 10, "submit": 14, "account": 5, "image": 1}
"""Of 100 calls so many of each."""

STARTING = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
from flux_cli.sandbox import running
with running(Path(sys.argv[1])) as service:
    up = time.perf_counter()
print(up - begin, time.perf_counter() - up)
"""
DRAWING = """
import time
from flux_cli.sandbox.render import render
body = {"model": "flux-pro", "prompt": "a sunflower field in the wind"}
begin = time.perf_counter()
render(body, 1, None, captioned=True, image_format="PNG")
print(time.perf_counter() - begin)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
        start, stop = medians(STARTING, directory)
        print(f"embedded: starts in {start:.0f} ms (imports included), stops in {stop:.0f} ms")
        print("a picture of 1024 x 768 takes {:.0f} ms".format(*medians(DRAWING)))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with sandbox(Path(directory), "--seconds", "600", "--credits", "10000000") as url:
            print_load(url, options.seconds, options.rate, options.tasks)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"the server used {used:.1f} s of CPU and at most {after.ru_maxrss / 1024:.0f} MiB of memory")


def medians(code: str, *arguments: str) -> list[float]:
    """Run code in seven new processes and return the medians of the seconds that it prints, in milliseconds."""
    command = [sys.executable, "-c", code, *arguments]
    runs = [subprocess.run(command, check=True, capture_output=True).stdout.split() for _ in range(7)]
    return [1000 * statistics.median(map(float, times)) for times in zip(*runs, strict=True)]


def calls(running: list[str], pictures: list[str]) -> dict[str, Callable[[Connection, random.Random], bool]]:
    """Return the kinds of calls; each returns whether the response is right."""

    def image(_: Connection, chance: random.Random) -> bool:
        url = urlsplit(chance.choice(pictures))
        with contextlib.closing(Connection(url.netloc, timeout=30)) as images:
            images.request("GET", url.path)
            return images.getresponse().read().startswith(b"\x89PNG")

    return {
        "fetch": lambda server, chance: "percentage" in call(server, "/fetch", task_id=chance.choice(running)),
        "fetch-many": lambda server, chance: (
            len(call(server, "/fetch-many", task_ids=chance.sample(running, 20))["tasks"]) == 20
        ),
        "submit": lambda server, chance: bool(submit(server, f"another {chance.random()}")),
        "account": lambda server, _: "credits" in call(server, "/account"),
        "image": image,
    }


def print_load(url: str, seconds: float, rate: float, tasks: int) -> None:
    origin, pause = urlsplit(url).netloc, CLIENTS / rate
    server = Connection(origin)
    running = [submit(server, f"task {number}") for number in range(tasks)]
    finished = [submit(server, f"picture {number} [[slow 0]]") for number in range(20)]
    kinds = calls(running, [call(server, "/fetch", task_id=each)["image_url"] for each in finished])
    waits: dict[str, list[float]] = {kind: [] for kind in MIX}
    errors: Counter[str] = Counter()

    def client(number: int) -> float:
        """Make calls in a mix that is the same in every run; return how late one was at most."""
        chance, server, latest = random.Random(number), Connection(origin, timeout=30), 0.0  # noqa: S311 - no secret
        begin = time.perf_counter() + pause * number / CLIENTS
        for due in (begin + turn * pause for turn in range(round(seconds / pause))):
            time.sleep(max(0.0, due - time.perf_counter()))
            kind = chance.choices(list(MIX), list(MIX.values()))[0]
            started = time.perf_counter()
            latest = max(latest, started - due)
            try:
                errors[f"{kind}: wrong response"] += not kinds[kind](server, chance)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                errors[f"{kind}: {type(error).__name__}: {error}"] += 1
                server.close()
            waits[kind].append(time.perf_counter() - started)
        return latest

    with contextlib.ExitStack() as stack:
        for number in range(IDLE + HALF_SENT):
            address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))
            idle = stack.enter_context(socket.create_connection(address))
            if number < HALF_SENT:
                idle.sendall(b"POST /fetch HTTP/1.1\r\nContent-Length: 1000\r\n")
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        late = max(pool.map(client, range(CLIENTS)))
    print(
        f"\n{rate:.0f} calls per second, {tasks} tasks running, {IDLE} idle and {HALF_SENT} half-sent connections;"
        f" a call was at most {1000 * late:.0f} ms late\n"
    )
    print(f"{'':12}{'calls':>8}{'median':>10}{'99 %':>10}{'worst':>10}   (ms)")
    every = list(itertools.chain(*waits.values()))
    for kind, times in [*waits.items(), ("all", every)]:
        figures = statistics.median(times), sorted(times)[int(0.99 * len(times))], max(times)
        print(f"{kind:12}{len(times):>8}" + "".join(f"{1000 * figure:>10.1f}" for figure in figures))
    for error_, count in (+errors).most_common(10):
        print(f"{count} errors: {error_}")


def submit(server: Connection, prompt: str) -> str:
    return str(call(server, "/flux-imagine", model="flux-pro", prompt=prompt)["task_id"])


def call(server: Connection, path: str, **body: object) -> Any:
    server.request("POST" if body else "GET", path, json.dumps(body) if body else None, HEADERS)
    response = server.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return json.loads(text)


if __name__ == "__main__":
    main()
