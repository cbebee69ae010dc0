"""Run batches with real schedulers, kill them in the middle, and resume: `python -m tests.schedulers [NAME…]`.

Each scheduler runs the shards of one batch against the sandbox, its jobs are killed with SIGKILL while tasks are
running, and then it resumes with another number of shards. The table says how many rows were charged, charged
twice, saved, and reported as unknown.

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
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from flux_cli import sandbox
from tests.batches import charged, results
from tests.conftest import FLUX_CLI, KEY, wait_until

ROWS = 200
BEFORE, AFTER = 4, 7
"""The number of shards before the kill and after it."""
KILL_AT = 60
"""Accepted submissions at which everything is killed."""


class SkippedError(Exception):
    """The scheduler cannot be run here."""


class Batch:
    """A batch of `ROWS` rows on the sandbox."""

    def __init__(self, directory: Path, running: "sandbox.Running") -> None:
        self.directory = directory
        self.running = running
        self.rows = [f"kite {number}" for number in range(ROWS)]
        (directory / "rows.txt").write_text("\n".join(self.rows))
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory / "home"),
            "NO_PROXY": "127.0.0.1",
            "APIFRAME_API_KEY": KEY,
            "FLUX_CLI_API_URL": running.url,
        }
        (directory / "home").mkdir()

    def command(self, shard: str) -> str:
        """Return the command line of a shard, for a shell; `shard` is inserted as it is."""
        words = [FLUX_CLI, "batch", self.directory / "rows.txt", "-o", self.directory / "out", "--width", "256"]
        return f"{shlex.join(map(str, [*words, '--height', '256', '-q']))} --shard {shard}"

    def wait_for_kill(self) -> None:
        """Wait until it is time to kill everything."""
        wait_until(lambda: self.running.stats.accepted >= KILL_AT, 120)

    def kill_jobs(self) -> None:
        """Kill every run of this batch, as the loss of its machine does."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.directory / "out").encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def outcome(self) -> Counter[str]:
        """Return the columns of the table."""
        paid = charged(self.directory)
        lines = results(self.directory / "out")
        return Counter(
            rows=len({line["row"] for line in lines}),
            charged=len(paid),
            twice=sum(count > 1 for count in paid.values()),
            pictures=len(list((self.directory / "out").glob("*.png"))),
            unknown=sum(line["status"] == "unknown" for line in lines),
        )


def gnu_parallel(batch: Batch) -> None:
    """Run GNU parallel, kill it with all its jobs, and run it again."""
    if not shutil.which("parallel"):
        raise SkippedError("GNU parallel is not installed")

    def start(shards: int) -> "subprocess.Popen[bytes]":
        numbers = map(str, range(1, shards + 1))
        command = ["parallel", "--jobs", str(shards), batch.command(f"{{}}/{shards}"), ":::", *numbers]
        return subprocess.Popen(command, env=batch.env, stdout=subprocess.DEVNULL)

    first = start(BEFORE)
    batch.wait_for_kill()
    first.kill()
    first.wait()
    batch.kill_jobs()
    start(AFTER).wait()


def indexed_job(batch: Batch) -> None:
    """Run the command of an indexed Job in one shell per index, each with an empty home as pods have it."""

    def start(index: int, shards: int) -> "subprocess.Popen[bytes]":
        home = batch.directory / f"pod-{shards}-{index}"
        home.mkdir()
        env = {**batch.env, "HOME": str(home), "JOB_COMPLETION_INDEX": str(index)}
        command = ["sh", "-c", f"exec {batch.command(f'$((JOB_COMPLETION_INDEX + 1))/{shards}')}"]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)

    pods = [start(index, BEFORE) for index in range(BEFORE)]
    batch.wait_for_kill()
    for pod in pods:
        pod.kill()
    for pod in pods:
        pod.wait()
    for pod in [start(index, AFTER) for index in range(AFTER)]:
        pod.wait()


def slurm(batch: Batch) -> None:
    """Run a job array, kill it, and run another one."""
    with _cluster(batch.directory / "slurm", batch.env) as run:
        job = _submit(run, batch, BEFORE)
        batch.wait_for_kill()
        run("scancel", "--signal=KILL", "--full", job)
        run("scancel", job)
        _wait_for(run, job)
        _wait_for(run, _submit(run, batch, AFTER))


Runner = Callable[..., str]


def _submit(run: Runner, batch: Batch, shards: int) -> str:
    """Submit a job array with one task per shard; return its ID."""
    command = batch.command(f"$SLURM_ARRAY_TASK_ID/{shards}")
    output = f"--output={batch.directory}/slurm-%A-%a.log"
    return run(
        "sbatch", "--parsable", f"--array=1-{shards}", output, "--export=ALL", f"--wrap=exec {command}"
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

        def start(*command: str) -> None:
            log = stack.enter_context((directory / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(command, env=slurm_env, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        socket_file = f"--socket={directory}/munge.socket"
        start("munged", "--foreground", "--force", f"--key-file={key}", socket_file, *files)
        wait_until((directory / "munge.socket").exists)
        start("slurmctld", "-D", "-f", str(config))
        start("slurmd", "-D", "-f", str(config), "-N", "localhost")

        def run(*command: str) -> str:
            return subprocess.run(command, env=slurm_env, capture_output=True, text=True).stdout

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


SCHEDULERS: dict[str, Callable[[Batch], None]] = {
    "parallel": gnu_parallel,
    "indexed-job": indexed_job,
    "slurm": slurm,
}


def main(names: list[str]) -> int:
    """Print the table; return 1 if a row was charged twice or is missing."""
    columns = ("rows", "charged", "twice", "pictures", "unknown")
    print(f"{'scheduler':12} {' '.join(f'{name:>8}' for name in columns)} {'seconds':>8}")
    wrong = False
    for name in names or list(SCHEDULERS):
        with tempfile.TemporaryDirectory() as directory:
            with sandbox.running(Path(directory) / "sandbox", seconds=1.0) as running:
                batch = Batch(Path(directory), running)
                start = time.monotonic()
                try:
                    SCHEDULERS[name](batch)
                except SkippedError as error:
                    print(f"{name:12} skipped: {error}")
                    continue
            found = batch.outcome()
        wrong |= found["twice"] > 0 or found["rows"] != ROWS or found["pictures"] + found["unknown"] != ROWS
        seconds = time.monotonic() - start
        print(f"{name:12} {' '.join(f'{found[name]:8}' for name in columns)} {seconds:8.1f}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
