"""A command's wall time and peak memory, for the tables."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FLUX_CLI = Path(sys.executable).with_name("flux-cli")


@dataclass(frozen=True)
class Cost:
    """What one run of a command took: seconds by the wall and of the processor, and MiB of memory at its peak."""

    wall: float
    processor: float
    peak: float


def measure(command: Sequence[str | Path], env: Mapping[str, str], directory: Path) -> Cost:
    """Run a command in a directory and return its cost; raise CalledProcessError if it fails."""
    with (directory / "stderr").open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(each) for each in command], env=env, cwd=directory, stdout=subprocess.DEVNULL, stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        message = (directory / "stderr").read_bytes()[-2000:]
        raise subprocess.CalledProcessError(process.returncode, command, stderr=message)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def in_turn(runs: int, *commands: Callable[[], Cost]) -> list[list[Cost]]:
    """Run commands in turn, so that all see the same machine, after a first round that warms the caches up."""
    rounds = [[command() for command in commands] for _ in range(runs + 1)]
    return [list(costs) for costs in zip(*rounds[1:], strict=True)]


def submitted(url: str) -> str:
    request = urllib.request.Request(f"{url}/flux-imagine", b'{"prompt": "a kite"}')  # noqa: S310 - our own
    with urllib.request.urlopen(request) as response:  # noqa: S310 - as above
        return str(json.load(response)["task_id"])


def environment(directory: Path, url: str) -> dict[str, str]:
    """Return an environment with a home of its own, a key, and the service's address."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_CONFIG_HOME": str(directory / "config"),
        "APIFRAME_API_KEY": "benchmark-key",
        "FLUX_CLI_API_URL": url,
    }


@contextmanager
def sandbox(directory: Path, *options: str) -> Iterator[str]:
    """Run `flux-cli sandbox` as a process, with its tasks below a directory, and yield its URL."""
    command, env = [str(FLUX_CLI), "sandbox", "--port", "0", *options], environment(directory, "")
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=null) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
