"""Claims: which run works on which rows. They need no locks, which some shared file systems keep local to a host.

Each run has a claim, a small file in the state directory of the batch, and rewrites a byte of it every few
seconds. The file system's clock gives the age of this heartbeat, so the clocks of the hosts need not agree. On the
same host, a run is also dead if its process does not exist.

A run first publishes its claim, then reads the claims of others, and only then activates its own. So if two runs
start at the same time, at least one sees the other.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flux_cli.batch.shards import Shard
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.storage.filesystem import local_errors

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 40.0
"""A run whose heartbeat is older counts as dead. It detects this itself before it submits anything more."""
POLL_SECONDS = 0.5
CLAIM = ".claim"
"""The suffix of a claim."""
_STARTING, _ACTIVE = b" ", b"\n"
"""The last byte of a claim, which each heartbeat writes, before and after it is active."""


@dataclass(frozen=True)
class Owner:
    """The process that has a claim."""

    host: str
    boot: str
    """The ID of the boot of the host, or empty if the system has none."""
    namespace: str
    """The namespace of its process ID: containers on one host have their own."""
    pid: int
    start: str
    """When it started, in the unit of the system, or empty if that is not known."""

    @classmethod
    def current(cls) -> "Owner":
        """Return this process."""
        boot = namespace = ""
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        with contextlib.suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid")
        process = _process(os.getpid())
        return cls(socket.gethostname(), boot, namespace, os.getpid(), process[1] if process else "")

    def is_alive(self, observer: "Owner") -> bool | None:
        """Return whether the process exists, as far as `observer` can tell; None if it cannot."""
        same = (self.host, self.boot, self.namespace) == (observer.host, observer.boot, observer.namespace)
        if not same or sys.platform == "win32":  # there, signal 0 is a Ctrl-C
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it belongs to another user
        process = _process(self.pid)
        if process is None or not self.start:
            return None
        state, start = process
        return start == self.start and state not in "ZX"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _process(pid: int) -> tuple[str, str] | None:
    """Return the state of a process and its start in clock ticks since the boot, or None if that is unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].decode(errors="replace").split()
    return fields[0], fields[19]


@dataclass(frozen=True)
class _Found:
    """The claim of another run, and when it was last refreshed."""

    path: Path
    service: str
    shard: Shard
    owner: Owner
    active: bool
    refreshed: float


class Claim:
    """The claim of this run to the rows of a shard, for one service.

    Use `claimed`. `held` and `refresh` may be called from any thread.
    """

    def __init__(self, directory: Path, service: str, shard: Shard, owner: Owner | None = None) -> None:
        """`directory` is the state directory of the batch."""
        self._directory = directory
        self._service = service
        self._shard = shard
        self._owner = owner or Owner.current()
        host = re.sub(r"[^\w.-]", "_", self._owner.host)[:60] or "host"
        self.path = directory / f"{host}-{self._owner.pid}-{secrets.token_hex(4)}{CLAIM}"
        self._size = 0
        self._heartbeat = _STARTING
        self._refreshed = 0.0

    def acquire(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Claim the rows, after waiting until it is known whether other runs that claim them are alive.

        Raises:
            LocalFileError: One of them is alive, or the directory cannot be written.
        """
        try:
            with local_errors(self.path):
                self._publish()
            first_seen: dict[Path, float] = {}
            waited = 0.0
            while not self._is_free(first_seen, may_wait=waited <= STALE_SECONDS):
                sleep(POLL_SECONDS)
                waited += POLL_SECONDS
        except BaseException:
            self.release()
            raise
        self._heartbeat = _ACTIVE
        self.refresh()

    def held(self) -> bool:
        """Return whether the claim still exists. Another run removes it if this one seems to be dead."""
        with contextlib.suppress(OSError), self.path.open("rb"):  # this bypasses caches of network file systems
            return True
        return False

    def refresh(self) -> None:
        """Send a heartbeat. Errors are ignored: a run that cannot send heartbeats loses its claim."""
        with contextlib.suppress(OSError):
            _write_at(self.path, self._size, self._heartbeat)
        self._refreshed = time.monotonic()

    def refresh_if_due(self) -> None:
        """Send a heartbeat if the last one is old, for a process that cannot start a thread for it."""
        if time.monotonic() - self._refreshed > HEARTBEAT_SECONDS:
            self.refresh()

    def is_alone(self) -> bool:
        """Return whether it is certain that no other run works on this batch, with any shard or service."""
        now = self._now()
        return all(self._verdict(other, now) is False for other in self._others())

    def remove_others(self) -> None:
        """Remove the files of dead runs. Call it only if `is_alone`."""
        for name in os.listdir(self._directory):
            path = self._directory / name
            if path.suffix == CLAIM and path != self.path:
                with local_errors(path):
                    path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give up the claim."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _publish(self) -> None:
        values = {"service": self._service, "shard": str(self._shard), "owner": asdict(self._owner)}
        content = json.dumps(values).encode()
        self._size = len(content)
        self.path.write_bytes(content)  # others ignore it until it is complete
        _write_at(self.path, self._size, self._heartbeat)

    def _is_free(self, first_seen: dict[Path, float], *, may_wait: bool) -> bool:
        """Return whether no other run claims the rows; remove the claims of dead ones.

        `first_seen` are the first heartbeats of other runs that were seen. `may_wait` is whether to wait for a run
        that is not active yet, which usually withdraws.

        Raises:
            LocalFileError: Another run that claims them is alive.
        """
        free = True
        now = self._now()
        for other in self._others():
            if other.service != self._service or not other.shard.overlaps(self._shard):
                continue
            alive = self._verdict(other, now)
            if alive is None and other.refreshed > first_seen.setdefault(other.path, other.refreshed):
                alive = True
            if alive is False:
                with local_errors(other.path):
                    other.path.unlink(missing_ok=True)
            elif alive and (other.active or other.path.name < self.path.name or not may_wait):
                which = f"shard {other.shard} of " if other.shard.count > 1 else ""
                raise LocalFileError(
                    f"another flux-cli is running {which}the batch in {self._directory.parent}: {other.owner}",
                    "wait until it ends, or stop it; then resume with the same command",
                )
            else:  # not known yet, or the other one has to withdraw
                free = False
        return free

    def _verdict(self, other: _Found, now: float) -> bool | None:
        """Return whether another run is alive; None if its heartbeat has to be watched."""
        alive = other.owner.is_alive(self._owner)
        if alive is None and now - other.refreshed > STALE_SECONDS:
            return False
        return alive

    def _now(self) -> float:
        """Return the time by the clock of the file system."""
        self.refresh()
        with local_errors(self.path):
            return self.path.stat().st_mtime

    def _others(self) -> list[_Found]:
        with local_errors(self._directory, "read"):
            while True:
                names = sorted(os.listdir(self._directory))
                paths = [self._directory / name for name in names if name.endswith(CLAIM)]
                with contextlib.suppress(FileNotFoundError):  # one was removed after the listing
                    return [found for path in paths if path != self.path and (found := _read(path))]


def _write_at(path: Path, position: int, content: bytes) -> None:
    """Write to an existing file, so that the file system sets its time, and make that visible to other hosts."""
    with path.open("r+b", buffering=0) as file:
        file.seek(position)
        file.write(content)
        os.fsync(file.fileno())


def _read(path: Path) -> _Found | None:
    """Return a claim, or None if the file is not one. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        content, refreshed = file.read(100_000), os.fstat(file.fileno()).st_mtime
    try:
        values = json.loads(content)
        owner = Owner(**values["owner"])
        shard = Shard.parse(values["shard"])
        return _Found(path, str(values["service"]), shard, owner, content.endswith(_ACTIVE), refreshed)
    except (ValueError, LookupError, TypeError, UsageError):
        return None


@contextlib.contextmanager
def claimed(directory: Path, service: str, shard: Shard, owner: Owner | None = None) -> Iterator[Claim]:
    """Claim the rows of a shard until the block ends. Raises LocalFileError as `Claim.acquire` does."""
    claim = Claim(directory, service, shard, owner)
    claim.acquire()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            claim.refresh()

    with contextlib.suppress(RuntimeError):  # no more threads: `refresh_if_due` does it
        threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    try:
        yield claim
    finally:
        over.set()
        claim.release()
