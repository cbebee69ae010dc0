"""Claims: which run works on which rows, on one host and on several, without locks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flux_cli.batch import claims
from flux_cli.batch.claims import STALE_SECONDS, Claim, Owner, claimed
from flux_cli.batch.shards import Shard
from flux_cli.errors import LocalFileError

SERVICE = "https://api.example"
HERE = Owner.current()
ELSEWHERE = Owner("other-host", "another-boot", "", 7, "123")


class Clock:
    """Sleeps without waiting. Each pause ages the heartbeats of another host, or refreshes them if it is alive."""

    def __init__(self, directory: Path, alive: bool = False) -> None:
        self._directory = directory
        self._alive = alive
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass for the claims of other hosts."""
        self.slept += seconds
        for path in self._directory.glob("other-host-*.claim"):
            about = path.stat()
            os.utime(path, (about.st_atime, about.st_mtime + (0.001 if self._alive else -seconds)))


def claim(directory: Path, shard: str = "1/1", owner: Owner = HERE, service: str = SERVICE) -> Claim:
    """Return a claim that is not acquired yet."""
    return Claim(directory, service, Shard.parse(shard), owner)


def acquired(directory: Path, shard: str = "1/1", owner: Owner = HERE, service: str = SERVICE) -> Claim:
    """Return an acquired claim."""
    made = claim(directory, shard, owner, service)
    made.acquire(Clock(directory).sleep)
    return made


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


def owner_of(process: "subprocess.Popen[bytes]") -> Owner:
    """Return a process of this host as the owner of a claim."""
    found = claims._process(process.pid)
    return replace(HERE, pid=process.pid, start=found[1] if found else "")


def test_heartbeats_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise other hosts would see them late, and take this one for dead."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    made = acquired(tmp_path)
    synced.clear()
    made.refresh()
    assert synced == [made.path.stat().st_ino]


def test_live_process_keeps_its_rows(tmp_path: Path) -> None:
    """Rows of another shard or service can be claimed; a claim that was released can be claimed again."""
    first = acquired(tmp_path, "1/2")
    for shard in ("1/1", "1/2", "3/4"):
        with pytest.raises(LocalFileError, match=r"is running shard 1/2 of the batch in .*: process \d+ on "):
            acquired(tmp_path, shard)
    acquired(tmp_path, "2/4").release()
    acquired(tmp_path, "1/1", service="sandbox").release()
    first.release()
    acquired(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_an_active_run_is_not_waited_for(tmp_path: Path) -> None:
    """Unlike one that has only begun to start, whose name is the higher one."""
    first, second = claim(tmp_path), claim(tmp_path)
    first.path = tmp_path / "zzz.claim"
    first.acquire(Clock(tmp_path).sleep)
    clock = Clock(tmp_path)
    with pytest.raises(LocalFileError):
        second.acquire(clock.sleep)
    assert clock.slept == 0


def test_dead_process_loses_its_rows_at_once(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    """A process of this host that was killed; as long as it exists, its heartbeat does not matter."""
    dead = acquired(tmp_path, owner=owner_of(process))
    os.utime(dead.path, (1.0, 1.0))
    with pytest.raises(LocalFileError):
        acquired(tmp_path)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LocalFileError):
        acquired(tmp_path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie counts as dead
    second = claim(tmp_path)
    clock = Clock(tmp_path)
    second.acquire(clock.sleep)
    assert clock.slept == 0
    assert (dead.held(), second.held()) == (False, True)


@pytest.mark.parametrize("change", [{"start": "1"}, {"pid": 2**22 + 1}])
def test_another_process_with_the_same_id(tmp_path: Path, change: dict[str, object]) -> None:
    """The ID was used again, or does not exist: the owner is dead."""
    acquired(tmp_path, owner=replace(HERE, **change))  # type: ignore[arg-type] # fields of different types
    clock = Clock(tmp_path)
    claim(tmp_path).acquire(clock.sleep)
    assert clock.slept == 0


def test_run_on_another_host_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    """It is refused when the heartbeat moves, and taken over when it does not, within a minute."""
    other = acquired(tmp_path, owner=ELSEWHERE)
    clock = Clock(tmp_path, alive=True)
    with pytest.raises(LocalFileError, match="process 7 on other-host"):
        claim(tmp_path).acquire(clock.sleep)
    assert clock.slept < STALE_SECONDS
    assert other.held()
    clock = Clock(tmp_path)
    claim(tmp_path).acquire(clock.sleep)
    assert 0 < clock.slept < 60
    assert not other.held()


@pytest.mark.parametrize("change", [{"boot": "older"}, {"namespace": "pid:[1]"}, {"host": "other-host"}])
def test_process_ids_of_other_machines_say_nothing(change: dict[str, str]) -> None:
    """Neither those of containers on the same host, nor those of a host with the same name."""
    owner = replace(HERE, pid=2**22 + 1, **change)
    assert owner.is_alive(HERE) is None
    assert replace(HERE, pid=2**22 + 1).is_alive(HERE) is False
    assert replace(HERE, start="").is_alive(HERE) is None
    assert HERE.is_alive(HERE) is True


def test_clocks_of_hosts_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's clock does."""
    acquired(tmp_path, owner=ELSEWHERE)
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    with pytest.raises(LocalFileError):
        claim(tmp_path).acquire(Clock(tmp_path, alive=True).sleep)


@pytest.mark.parametrize("first_name_is_lower", [True, False])
def test_two_runs_that_start_at_the_same_time(tmp_path: Path, first_name_is_lower: bool) -> None:
    """One of them gets the rows: each publishes its claim before it looks for others."""
    one, other = claim(tmp_path), claim(tmp_path)
    first, second = sorted((one, other), key=lambda each: each.path.name, reverse=not first_name_is_lower)
    second._publish()  # it has not read the claims yet
    outcomes = []

    def go_on(_seconds: float) -> None:
        """The first one waits for the second, which now reads the claims."""
        try:
            second.acquire(lambda _: None)
        except LocalFileError:
            outcomes.append("withdrew")

    second._publish = lambda: None  # type: ignore[method-assign] # it has done that
    try:
        first.acquire(go_on)
    except LocalFileError:
        second.acquire(lambda _: None)
        assert not first_name_is_lower
        assert (first.held(), second.held()) == (False, True)
    else:
        assert outcomes == ["withdrew"]
        assert (first.held(), second.held()) == (True, False)


def test_a_run_that_was_stopped_while_it_started(tmp_path: Path) -> None:
    """It is waited for, but not forever: its process exists, and its claim is not active."""
    stopped, waiting = claim(tmp_path), claim(tmp_path)
    stopped.path = tmp_path / "zzz.claim"  # after the other one: that has priority
    stopped._publish()
    clock = Clock(tmp_path)
    with pytest.raises(LocalFileError, match="another flux-cli is running the batch in "):
        waiting.acquire(clock.sleep)
    assert STALE_SECONDS <= clock.slept < 60


def test_a_run_that_died_while_it_started(tmp_path: Path) -> None:
    """It had published its claim, and not activated it."""
    dead = claim(tmp_path, owner=replace(HERE, pid=2**22 + 1))
    dead._publish()
    own = acquired(tmp_path)
    assert (dead.held(), own.held()) == (False, True)


@pytest.mark.parametrize(
    ("host", "name"), [("a/b c.d-e", "a_b_c.d-e"), ("", "host"), ("x" * 99, "x" * 60)], ids=["odd", "none", "long"]
)
def test_name_of_the_file(tmp_path: Path, host: str, name: str) -> None:
    """It begins with that of the host, for people."""
    assert claim(tmp_path, owner=replace(ELSEWHERE, host=host)).path.name.startswith(f"{name}-7-")


def test_the_first_name_of_two_that_start_wins(tmp_path: Path) -> None:
    """The other one withdraws at once; an active one wins whatever its name is."""
    first, second = sorted([claim(tmp_path), claim(tmp_path)], key=lambda made: made.path.name)
    first._publish()
    with pytest.raises(LocalFileError, match="is running"):
        second.acquire(lambda _: pytest.fail("it waits"))
    first.release()
    second.acquire(lambda _: None)
    with pytest.raises(LocalFileError, match="is running"):
        first.acquire(lambda _: pytest.fail("it waits"))


def test_many_threads_claim_the_same_rows(tmp_path: Path) -> None:
    """Exactly one gets them."""
    winners: list[Claim] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        made = claim(tmp_path)
        barrier.wait()
        try:
            made.acquire(lambda _: time.sleep(0.001))
        except LocalFileError:
            return
        winners.append(made)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(winners) == 1
    assert winners[0].held()


def test_frozen_run_lost_its_claim(tmp_path: Path) -> None:
    """Its late heartbeat changes nothing."""
    frozen = acquired(tmp_path, owner=ELSEWHERE)
    os.utime(frozen.path, (1.0, 1.0))
    taker = acquired(tmp_path)
    frozen.refresh()
    assert (frozen.held(), taker.held()) == (False, True)
    frozen.release()
    assert taker.held()


def test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if every other run is certainly dead, whatever its rows are. Then its files can be removed."""
    own = acquired(tmp_path, "1/2")
    assert own.is_alone()
    other = acquired(tmp_path, "2/2", ELSEWHERE, "sandbox")
    assert not own.is_alone()
    os.utime(other.path, (1.0, 1.0))
    assert own.is_alone()
    (tmp_path / "x.claim").touch()
    (tmp_path / "journal-000001-x.jsonl").touch()
    listdir = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: [*listdir(path), "removed-meanwhile.claim"])
        own.remove_others()
    assert own.held()
    own.release()
    assert [path.name for path in tmp_path.iterdir()] == ["journal-000001-x.jsonl"]


def test_heartbeat_runs_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refreshes the file until the claim is released."""
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    beats = threading.Semaphore(0)
    monkeypatch.setattr(Claim, "refresh", lambda _: beats.release())
    before = set(threading.enumerate())
    with claimed(tmp_path, SERVICE, Shard()):
        for _ in range(5):
            assert beats.acquire(timeout=20)
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
    thread.join(20)
    assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_heartbeat_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no more threads still keeps its claim: whoever uses it refreshes it."""

    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with claimed(tmp_path, SERVICE, Shard()) as own:
        os.utime(own.path, (1.0, 1.0))
        own.refresh_if_due()
        assert own.path.stat().st_mtime == 1.0
        monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.0)
        own.refresh_if_due()
        assert own.path.stat().st_mtime > 1.0


def test_files_that_are_no_claims(tmp_path: Path) -> None:
    """They are ignored."""
    (tmp_path / "x.claim").write_text("{")
    (tmp_path / "y.claim").write_text('{"service": "a", "shard": "9/1", "owner": {}}')
    (tmp_path / "z.txt").write_text("")
    acquired(tmp_path).release()
