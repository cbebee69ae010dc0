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
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
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
    """Measure and print."""
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
            load = Load(url, options.seconds, CLIENTS / options.rate)
            load.run(options.tasks)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        load.print_table()
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"the server used {used:.1f} s of CPU and at most {after.ru_maxrss / 1024:.0f} MiB of memory")


def medians(code: str, *arguments: str) -> list[float]:
    """Run code in seven new processes and return the medians of the seconds that it prints, in milliseconds."""
    command = [sys.executable, "-c", code, *arguments]
    runs = [subprocess.run(command, check=True, capture_output=True).stdout.split() for _ in range(7)]
    return [1000 * statistics.median(map(float, times)) for times in zip(*runs, strict=True)]


@dataclass
class Load:
    """Calls of the server for some seconds, one per client and `pause`; and what the clients saw."""

    url: str
    seconds: float
    pause: float
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    late: float = 0.0

    def run(self, tasks: int) -> None:
        """Call the server evenly for a while, with so many tasks running."""
        parts = urlsplit(self.url)
        self.host, port = str(parts.hostname), int(parts.port or 0)
        connection = http.client.HTTPConnection(parts.netloc)
        self.running = [submit(connection, f"task {number}") for number in range(tasks)]
        finished = [submit(connection, f"picture {number} [[slow 0]]") for number in range(20)]
        self.pictures = [call(connection, "/fetch", {"task_id": each})["image_url"] for each in finished]
        with contextlib.ExitStack() as stack:
            for number in range(IDLE + HALF_SENT):
                idle = stack.enter_context(socket.create_connection((self.host, port)))
                if number < HALF_SENT:
                    idle.sendall(b"POST /fetch HTTP/1.1\r\nContent-Length: 1000\r\n")
            clients = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]
            for each in clients:
                each.start()
            for each in clients:
                each.join()

    def client(self, number: int) -> None:
        """Make calls in a mix that is the same in every run."""
        chance = random.Random(number)  # noqa: S311 - no secret
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        begin = time.perf_counter() + self.pause * number / CLIENTS
        for turn in itertools.count():
            due = begin + turn * self.pause
            if due > begin + self.seconds:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            kind = chance.choices(list(MIX), list(MIX.values()))[0]
            started = time.perf_counter()
            self.late = max(self.late, started - due)
            try:
                self.one_call(connection, kind, chance)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.errors.append(f"{kind}: {type(error).__name__}: {error}")
                connection.close()
            self.waits[kind].append(time.perf_counter() - started)

    def one_call(self, connection: http.client.HTTPConnection, kind: str, chance: random.Random) -> None:
        """Make one call and check the response; raises ValueError or KeyError if it is wrong."""
        if kind == "submit":
            submit(connection, f"another {chance.random()}")
        elif kind == "account":
            call(connection, "/account")["credits"]
        elif kind == "fetch":
            call(connection, "/fetch", {"task_id": chance.choice(self.running)})["percentage"]
        elif kind == "fetch-many":
            tasks = call(connection, "/fetch-many", {"task_ids": chance.sample(self.running, 20)})["tasks"]
            if len(tasks) != 20:
                raise ValueError("tasks are missing")
        else:
            url = urlsplit(chance.choice(self.pictures))
            with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=30)) as images:
                images.request("GET", url.path)
                if not images.getresponse().read().startswith(b"\x89PNG"):
                    raise ValueError("not a picture")

    def print_table(self) -> None:
        """Print what the clients saw."""
        every = [wait for waits in self.waits.values() for wait in waits]
        print(
            f"\n{len(every) / self.seconds:.0f} calls per second, {len(self.running)} tasks running, {IDLE} idle"
            f" and {HALF_SENT} half-sent connections; {len(self.errors)} errors; a call was at most"
            f" {1000 * self.late:.0f} ms late\n\n{'':12}{'calls':>8}{'median':>10}{'99 %':>10}{'worst':>10}   (ms)"
        )
        for kind, waits in [*self.waits.items(), ("all", every)]:
            figures = statistics.median(waits), sorted(waits)[int(0.99 * len(waits))], max(waits)
            print(f"{kind:12}{len(waits):>8}" + "".join(f"{1000 * figure:>10.1f}" for figure in figures))
        for error in sorted(set(self.errors))[:10]:
            print(f"error: {error}")


def submit(connection: http.client.HTTPConnection, prompt: str) -> str:
    """Submit a task and return its id."""
    return str(call(connection, "/flux-imagine", {"model": "flux-pro", "prompt": prompt})["task_id"])


def call(connection: http.client.HTTPConnection, path: str, body: object = None) -> Any:
    """Make a call and return the JSON object of its response; raises ValueError on a status other than 200."""
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, HEADERS)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return json.loads(text)


if __name__ == "__main__":
    main()
