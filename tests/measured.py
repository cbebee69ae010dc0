"""A command's wall time and peak memory, for the tables."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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
