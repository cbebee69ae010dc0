"""Run batches with real schedulers, kill them in the middle, and resume: `python -m tests.schedulers [NAME…]`.

Each scheduler runs the shards of one batch against the sandbox, its jobs are killed with SIGKILL while tasks are
running, and then it resumes with another number of shards. Each row has to be charged once at most, and to have a
picture or to be reported as unknown.

A scheduler that is not installed is skipped visibly. On Debian: `apt-get install parallel slurm-wlm munge`.
Slurm's daemons need root. They run on loopback, with files of their own.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flux_cli import sandbox
from tests.batches import Shared
from tests.conftest import FLUX_CLI, wait_until

ROWS = 200
BEFORE, AFTER = 4, 7
"""The number of shards before the kill and after it."""
KILL_AT = 60
"""Accepted submissions at which everything is killed."""


class SkippedError(Exception):
    """The scheduler cannot be run here."""


def command(batch: Shared, shard: str) -> str:
    """Return the command line of a shard, for a shell; `shard` is inserted as it is."""
    return f"{shlex.join([str(FLUX_CLI), *batch.arguments('-q')])} --shard {shard}"


def wait_for_kill(batch: Shared) -> None:
    """Wait until it is time to kill everything."""
    wait_until(lambda: batch.running.stats.accepted >= KILL_AT, 120)


def kill_jobs(batch: Shared) -> None:
    """Kill every run of this batch, as the loss of its machine does."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(batch.directory).encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def gnu_parallel(batch: Shared) -> None:
    """Run GNU parallel, kill it with all its jobs, and run it again."""
    if not shutil.which("parallel"):
        raise SkippedError("GNU parallel is not installed")

    def start(shards: int) -> "subprocess.Popen[bytes]":
        numbers = map(str, range(1, shards + 1))
        words = ["parallel", "--jobs", str(shards), command(batch, f"{{}}/{shards}"), ":::", *numbers]
        return subprocess.Popen(words, env=batch.cli("home").env, stdout=subprocess.DEVNULL)

    first = start(BEFORE)
    wait_for_kill(batch)
    first.kill()
    first.wait()
    kill_jobs(batch)
    start(AFTER).wait()


def slurm(batch: Shared) -> None:
    """Run a job array, kill it, and run another one."""
    with _cluster(batch.tmp_path / "slurm", batch.cli("home").env) as run:
        job = _submit(run, batch, BEFORE)
        wait_for_kill(batch)
        run("scancel", "--signal=KILL", "--full", job)
        run("scancel", job)
        _wait_for(run, job)
        _wait_for(run, _submit(run, batch, AFTER))


Runner = Callable[..., str]


def _submit(run: Runner, batch: Shared, shards: int) -> str:
    """Submit a job array with one task per shard; return its ID."""
    shard = command(batch, f"$SLURM_ARRAY_TASK_ID/{shards}")
    output = f"--output={batch.tmp_path}/slurm-%A-%a.log"
    return run(
        "sbatch", "--parsable", f"--array=1-{shards}", output, "--export=ALL", f"--wrap=exec {shard}"
    ).strip()


def _wait_for(run: Runner, job: str) -> None:
    wait_until(lambda: not run("squeue", "--noheader", "--jobs", job).strip(), 180)


@contextlib.contextmanager
def _cluster(directory: Path, env: dict[str, str]) -> Iterator[Runner]:
    """Start Munge, slurmctld and slurmd; yield what runs a Slurm command.

    Raises:
        SkippedError: They are not installed, or this is not root.
    """
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        raise SkippedError(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise SkippedError("the daemons of Slurm need root")
    directory.mkdir()
    key = directory / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    config = directory / "slurm.conf"
    config.write_text(_slurm_config(directory))
    slurm_env = {**env, "SLURM_CONF": str(config)}
    files = [f"--{name}={directory}/munge.{name.split('-')[0]}" for name in ("pid-file", "seed-file", "log-file")]
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> None:
            log = stack.enter_context((directory / f"{words[0]}.out").open("wb"))
            process = subprocess.Popen(words, env=slurm_env, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        socket_file = f"--socket={directory}/munge.socket"
        start("munged", "--foreground", "--force", f"--key-file={key}", socket_file, *files)
        wait_until((directory / "munge.socket").exists)
        start("slurmctld", "-D", "-f", str(config))
        start("slurmd", "-D", "-f", str(config), "-N", "localhost")

        def run(*words: str) -> str:
            return subprocess.run(words, env=slurm_env, capture_output=True, text=True).stdout

        try:
            wait_until(lambda: "idle" in run("sinfo", "--noheader", "--format=%t"), 30)
        except AssertionError:
            logs = "".join(path.read_text(errors="replace")[-1500:] for path in directory.glob("*.out"))
            raise SkippedError(f"no node is idle: {logs}") from None
        yield run


def _slurm_config(directory: Path) -> str:
    for name in ("state", "spool"):
        (directory / name).mkdir()
    ports = _free_ports(2)
    return f"""\
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


SCHEDULERS: dict[str, Callable[[Shared], None]] = {"parallel": gnu_parallel, "slurm": slurm}


def main(names: list[str]) -> None:
    """Print a line for each scheduler. Raises AssertionError if a row was charged twice or is missing."""
    for name in names or list(SCHEDULERS):
        with tempfile.TemporaryDirectory() as directory:
            with sandbox.running(Path(directory) / "sandbox", seconds=1.0) as running:
                batch = Shared(Path(directory), running, ROWS)
                start = time.monotonic()
                try:
                    SCHEDULERS[name](batch)
                except SkippedError as error:
                    print(f"{name}: skipped: {error}")
                    continue
            pictures = batch.check()
        unknown = f"{ROWS - pictures} unknown, {time.monotonic() - start:.1f} s"
        print(f"{name}: {ROWS} rows, none charged twice, {pictures} pictures, {unknown}")


if __name__ == "__main__":
    main(sys.argv[1:])
