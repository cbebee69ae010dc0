"""What a run records in the batch directory, and what a later run knows from it, whatever happened in between."""

import errno
import itertools
import json
import os
import resource
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_cli.api.task import Status, Task
from flux_cli.batch import journal, state
from flux_cli.batch.attempt import Attempt, RowState
from flux_cli.batch.claims import Claim, Owner
from flux_cli.batch.plan import BatchPlan, BatchSettings, RowCounts
from flux_cli.batch.results import ResultsFile, digest
from flux_cli.batch.rows import Row
from flux_cli.batch.shards import Shard
from flux_cli.batch.store import BatchStore, HistoryQueue
from flux_cli.engine.events import Ended, Submitted
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.engine.store import Accepted, Change, Closed, Finished, HistoryStore, Intent, Postponed
from flux_cli.errors import ExitCode, LocalFileError, StoreBusyError
from flux_cli.storage.history import History
from flux_cli.storage.paths import STATE_NAME
from tests.batches import results

SERVICE = "https://api.example"
REQUEST = {"prompt": "a kite", "model": "flux-pro"}


class Batch:
    """A batch directory, and the runs on it, one after the other."""

    def __init__(self, directory: Path, service: str = SERVICE) -> None:
        self.directory = directory
        self.service = service
        (directory / STATE_NAME).mkdir(parents=True, exist_ok=True)

    def start(self, owner: Owner | None = None) -> BatchStore:
        """Begin a run: claim the rows, read the state, return the store."""
        self.claim = Claim(self.directory / STATE_NAME, self.service, Shard(), owner)
        self.claim.acquire(lambda _: None)
        return BatchStore(self.directory, self.service, self.load().next_run, self.claim, None)

    def end(self, store: BatchStore) -> None:
        """End a run in good order."""
        store.close()
        state.compact(self.directory, self.claim, store)
        self.claim.release()

    def kill(self, store: BatchStore) -> None:
        """End a run as kill -9 does, but for its claim, which `claims` is about."""
        store.journal.close()
        self.claim.release()

    def run(self, *changes: Change, end: Callable[["Batch", BatchStore], None] = kill) -> None:
        """Record changes, each in a commit of its own, and end the run."""
        store = self.start()
        for change in changes:
            store.commit([change])
        end(self, store)

    def load(self, *keys: str, history: History | None = None) -> state.BatchState:
        """Return what is known of rows."""
        return state.load(self.directory, self.service, [row(key) for key in keys], "batch", history)

    def known(self, key: str) -> Attempt:
        """Return what is known of a row."""
        return self.load(key).attempts.get(key) or Attempt(RowState.NEW)

    def state(self, key: str) -> RowState:
        """Return the state of a row."""
        return self.known(key).state

    def journals(self) -> list[Path]:
        """Return the journals."""
        return sorted((self.directory / STATE_NAME).glob("journal-*"))


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    """An empty batch directory."""
    return Batch(tmp_path / "out")


def row(key: str) -> Row:
    """Return a row."""
    return Row(1, 7, key, {"prompt": "a kite"}, None, has_id=True, column_of=lambda _: None)


def job(key: str = "a", task_id: str | None = None) -> Job:
    """Return the job of a row."""
    return Job(None, row=key, line=7, batch="batch", recorded=REQUEST, task_id=task_id)


def closed(status: Status, code: int = 0, key: str = "a", task_id: str | None = None, **result: Any) -> Closed:
    """Return the change for a row that has ended."""
    ended = Result(status, ExitCode(code), task_id=task_id, request=REQUEST, **result)
    return Closed(job(key, task_id), ended)


done = partial(closed, Status.FINISHED, task_id="T1", path=Path("/pictures/a.png"))
failed = partial(closed, Status.FAILED, 4, task_id="T1", error="moderated")
unknown = partial(closed, Status.UNKNOWN, 9, error="no response")
unsent = partial(closed, Status.UNSENT, 3, error="402")
left = partial(closed, Status.PROCESSING, 7, task_id="T1")
INTENT, ACCEPTED = Intent(job()), Accepted(job(), "T1")
POSTPONED = Postponed(job(), "connection refused")
FINISHED = Finished(job("a", "T1"), Task("T1", Status.FINISHED, response={}, image_url="https://cdn.example/1"))


@pytest.mark.parametrize(
    ("changes", "expected", "task_id"),
    [
        ([], RowState.NEW, None),
        ([INTENT], RowState.UNKNOWN, None),
        ([INTENT, POSTPONED], RowState.NEW, None),
        ([INTENT, unsent()], RowState.NEW, None),
        ([INTENT, POSTPONED, INTENT], RowState.UNKNOWN, None),
        ([INTENT, POSTPONED, INTENT, ACCEPTED], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, FINISHED], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, POSTPONED], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, unknown()], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, failed(), unknown()], RowState.FAILED, "T1"),
        ([INTENT, FINISHED], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, left()], RowState.SUBMITTED, "T1"),
        ([INTENT, ACCEPTED, done()], RowState.DONE, "T1"),
        ([INTENT, ACCEPTED, failed()], RowState.FAILED, "T1"),
        ([INTENT, unknown()], RowState.UNKNOWN, None),
        ([INTENT, closed(Status.FAILED, 2)], RowState.FAILED, None),
        ([INTENT, closed(Status.FAILED, 3)], RowState.NEW, None),
    ],
)
def test_state_after_a_kill(
    batch: Batch, changes: Sequence[Change], expected: RowState, task_id: str | None
) -> None:
    """Whatever a run recorded before it was killed, the next one knows."""
    batch.run(*changes)
    known = batch.known("a")
    assert (known.state, known.task_id) == (expected, task_id)
    if changes:
        assert known.request == REQUEST
        assert known.age is not None


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[INTENT], [unknown()]], RowState.UNKNOWN),
        ([[INTENT], [INTENT, POSTPONED]], RowState.UNKNOWN),  # --retry-unknown, and it was not accepted
        ([[INTENT], [INTENT, ACCEPTED]], RowState.SUBMITTED),
        ([[INTENT], [INTENT, ACCEPTED, failed()]], RowState.FAILED),
        ([[INTENT, ACCEPTED], [left()], [done()]], RowState.DONE),
        ([[INTENT, ACCEPTED], [failed()]], RowState.FAILED),
        ([[INTENT, ACCEPTED, failed()], [INTENT]], RowState.UNKNOWN),  # --retry-failed
        ([[INTENT, ACCEPTED, failed()], [INTENT, POSTPONED]], RowState.FAILED),
        ([[INTENT, ACCEPTED, failed()], [INTENT, Accepted(job(), "T2")]], RowState.SUBMITTED),
        ([[INTENT, ACCEPTED, failed()], [INTENT, Accepted(job(), "T2"), done(task_id="T2")]], RowState.DONE),
        ([[INTENT, ACCEPTED, done()], [FINISHED]], RowState.DONE),  # --refetch
        ([[INTENT, ACCEPTED], [INTENT, Accepted(job(), "T2"), failed(task_id="T2")]], RowState.SUBMITTED),
    ],
)
@pytest.mark.parametrize("end", [Batch.kill, Batch.end])
def test_state_after_several_runs(
    batch: Batch, runs: Sequence[Sequence[Change]], expected: RowState, end: Callable[[Batch, BatchStore], None]
) -> None:
    """The newest attempt counts, unless a task is still to be had, whether or not earlier journals are there."""
    for changes in runs:
        batch.run(*changes, end=end)
    assert batch.state("a") is expected


def test_counts_of_rows() -> None:
    """A row is in one of them; what is in none is not sent yet."""
    counts = RowCounts(total=30, done_before=3, running=9)
    not_saved = closed(Status.FINISHED, 6, task_id="T1")
    for change in (done(), done(), failed(), unknown(), unsent(), left(), left(), left(), not_saved, not_saved):
        counts.handle(Ended(change.job, change.result))
    counts.handle(Submitted(job("b", "T3")))
    assert (counts.done, counts.failed, counts.unknown, counts.left, counts.not_saved) == (2, 1, 1, 3, 2)
    assert (counts.ended, counts.running, counts.not_sent) == (7, 2, 16)
    assert (counts.unknown_lines, counts.codes) == ([7], {4, 9})


SETTINGS = BatchSettings(Path("out"), "rows", {"model": "flux-pro"})


@pytest.mark.parametrize(
    ("request_before", "random_seeds", "changed"),
    [
        (None, False, 0),
        (REQUEST, False, 0),
        ({**REQUEST, "prompt": "a ball"}, False, 1),
        ({**REQUEST, "width": 5}, False, 1),
        ({**REQUEST, "seed": 5}, False, 1),
        ({**REQUEST, "seed": 5}, True, 0),
        ({**REQUEST, "image_prompt": "a file", "webhook_secret": "s"}, False, 0),
    ],
)
def test_rows_whose_values_have_changed(
    request_before: dict[str, object] | None, random_seeds: bool, changed: int
) -> None:
    """A finished row is not submitted again for that, only counted."""
    known = {"a": Attempt(RowState.DONE, "T1", request_before, result={"path": "-"})}
    plan = BatchPlan([row("a")], replace(SETTINGS, random_seeds=random_seeds), known)
    assert (plan.counts.changed, plan.counts.done_before, plan.submissions, list(plan.jobs())) == (
        changed,
        1,
        0,
        [],
    )


@pytest.mark.parametrize(
    ("known", "changes", "task_ids"),
    [
        (None, {}, [None]),
        (None, {"max_tasks": 0}, []),
        (Attempt(RowState.NEW), {}, [None]),
        (Attempt(RowState.SUBMITTED, "T1"), {"retry_failed": True, "retry_unknown": True}, ["T1"]),
        (Attempt(RowState.FAILED, "T1"), {"retry_unknown": True}, []),
        (Attempt(RowState.FAILED, "T1"), {"retry_failed": True}, [None]),
        (Attempt(RowState.UNKNOWN), {"retry_failed": True}, []),
        (Attempt(RowState.UNKNOWN), {"retry_unknown": True}, [None]),
        (Attempt(RowState.DONE, "T1", result={"path": "/missing.png"}), {"retry_failed": True}, []),
        (Attempt(RowState.DONE, "T1", result={"path": "/missing.png"}), {"refetch": True}, ["T1"]),
        (Attempt(RowState.DONE, "T1", result={"path": "-"}), {"refetch": True}, []),
    ],
)
def test_what_a_run_does_with_a_row(
    known: Attempt | None, changes: dict[str, Any], task_ids: list[str | None]
) -> None:
    """It is submitted, waited for, or left as it is."""
    plan = BatchPlan([row("a")], replace(SETTINGS, **changes), {"a": known} if known else {})
    assert [each.task_id for each in plan.jobs()] == task_ids
    assert (plan.submissions, plan.counts.running) == (task_ids.count(None), task_ids.count("T1"))


def test_an_exit_code_of_a_later_version() -> None:
    """It counts as a task that failed."""
    later = Attempt(RowState.FAILED, "T1", result={"exit_code": 77})
    assert BatchPlan([row("a")], SETTINGS, {"a": later}).counts.codes == {ExitCode.TASK_FAILED}


@pytest.mark.parametrize(
    ("fields", "secret"),
    [({}, None), ({"webhook_url": "u"}, "common"), ({"webhook_url": "u", "webhook_secret": "own"}, "own")],
)
def test_secret_of_a_row(fields: dict[str, str], secret: str | None) -> None:
    """Its own one, or the common one if it has a URL; it is never recorded."""
    given = replace(row("a"), fields={"prompt": "a kite", **fields})
    (made,) = BatchPlan([given], replace(SETTINGS, secret="common"), {}).jobs()
    assert made.request is not None
    assert made.request.get("webhook_secret") == secret
    assert "webhook_secret" not in made.recorded


def test_an_end_counts_for_its_own_task(batch: Batch) -> None:
    """A row has two tasks, and a later run has waited for the first one."""
    batch.run(INTENT, ACCEPTED)
    batch.run(INTENT, Accepted(job(), "T2"))
    batch.run(failed(task_id="T1"))
    known = batch.known("a")
    assert (known.state, known.task_id) == (RowState.SUBMITTED, "T2")


@pytest.mark.parametrize(
    "odd",
    [
        '{"row": "a"',
        '{"row": "a", "service": 5, "event": "unsent"}',
        '{"row": "a", "service": "S"}',
        '{"row": "a", "service": "S", "event": "later"}',
        '{"row": "a", "service": "S", "event": "unsent"}',
        '{"row": "a", "service": "S", "event": "accepted", "task_id": 5}',
        '{"row": "a", "service": "S", "event": "closed", "result": 5}',
        '{"row": "a", "service": "S", "event": "closed", "result": {"status": "odd", "exit_code": "x"}}',
        '{"row": "a", "service": "S", "event": "closed", "result": {"status": "processing", "exit_code": "x"}}',
    ],
)
def test_odd_lines_change_nothing(batch: Batch, odd: str) -> None:
    """Neither those of a later version, nor those that a disk has damaged."""
    batch.run(INTENT, ACCEPTED)
    with batch.journals()[0].open("a") as file:
        file.write(odd.replace('"S"', json.dumps(SERVICE)) + "\n")
    known = batch.known("a")
    assert (known.state, known.task_id, known.request) == (RowState.SUBMITTED, "T1", REQUEST)


@pytest.mark.parametrize(
    ("time", "age"),
    [(980.0, 20.0), (1010.0, 0.0), (None, None), ("980", None)],
    ids=["past", "future", "none", "text"],
)
def test_age_of_a_submission(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, time: float | str | None, age: float | None
) -> None:
    """It is that of the last one, and never negative: clocks of hosts differ. Odd values are not known."""
    line = {"row": "a", "service": SERVICE, "event": "intent", "time": time, "request": [5]}
    first = [{**line, "time": 900.0}, {**line, "event": "unsent"}]
    content = "".join(json.dumps(each) + "\n" for each in (*first, line))
    (batch.directory / STATE_NAME / "journal-000001-x.jsonl").write_text(content)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    known = batch.known("a")
    assert (known.state, known.age, known.request) == (RowState.UNKNOWN, age, None)


def test_order_does_not_depend_on_clocks(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second host's clock is an hour behind."""
    monkeypatch.setattr("time.time", lambda: 4000.0)
    batch.run(INTENT, ACCEPTED, failed())
    monkeypatch.setattr("time.time", lambda: 400.0)
    batch.run(INTENT, Accepted(job(), "T2"))
    known = batch.known("a")
    assert (known.state, known.task_id) == (RowState.SUBMITTED, "T2")


def test_a_response_after_a_take_over_is_not_lost(batch: Batch) -> None:
    """A run was frozen while its submission was on the way. Another one has reported the row as unknown."""
    owner = Owner("elsewhere", "boot", "", 7, "1")
    frozen, claim = batch.start(owner=owner), batch.claim
    frozen.commit([INTENT])
    os.utime(claim.path, (1.0, 1.0))
    taker = batch.start()
    assert batch.state("a") is RowState.UNKNOWN
    taker.commit([unknown()])
    batch.end(taker)
    assert batch.journals() == []
    frozen.commit([ACCEPTED])
    with pytest.raises(LocalFileError, match="has taken over"):
        frozen.commit([Intent(job("b"))])
    assert (batch.state("a"), batch.state("b")) == (RowState.SUBMITTED, RowState.NEW)


def test_a_run_that_lost_its_claim_submits_nothing(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has accepted is still recorded. A commit sends a heartbeat, for systems without threads."""
    monkeypatch.setattr("flux_cli.batch.claims.HEARTBEAT_SECONDS", 0.0)
    store = batch.start()
    os.utime(batch.claim.path, (1.0, 1.0))
    store.commit([])
    assert batch.claim.path.stat().st_mtime > 1.0
    batch.claim.path.unlink()
    with pytest.raises(LocalFileError, match="another flux-cli has taken over") as raised:
        store.commit([Accepted(job("b"), "T9"), INTENT])
    assert raised.value.exit_code == 6
    store.commit([unsent()])
    batch.kill(store)
    assert (batch.state("a"), batch.state("b")) == (RowState.NEW, RowState.SUBMITTED)


def test_journal_is_removed_when_everything_is_over(batch: Batch) -> None:
    """Not before: a killed run's task is still known in the next run."""
    batch.run(INTENT, Intent(job("b")), ACCEPTED, Accepted(job("b"), "T2"), done(), end=Batch.end)
    assert len(batch.journals()) == 1
    batch.run(failed(key="b", task_id="T2"), end=Batch.end)
    assert batch.journals() == []
    assert {line["row"]: line["status"] for line in results(batch.directory)} == {"a": "finished", "b": "failed"}
    assert (batch.state("a"), batch.state("b")) == (RowState.DONE, RowState.FAILED)


def test_journals_stay_while_another_run_is_alive(batch: Batch) -> None:
    """It may overwrite lines of the results, on a file system that several hosts share."""
    store = batch.start()
    store.commit([INTENT, ACCEPTED, done()])
    other = Claim(batch.directory / STATE_NAME, "sandbox", Shard(), Owner("elsewhere", "boot", "", 7, "1"))
    other.acquire(lambda _: None)
    batch.end(store)
    assert len(batch.journals()) == 1
    (batch.directory / "results.jsonl").unlink()  # the other run's host did not see it
    assert batch.state("a") is RowState.DONE
    (line,) = batch.load("a").missing
    assert (line["row"], line["status"], line["path"]) == ("a", "finished", "/pictures/a.png")
    other.release()
    batch.end(batch.start())
    assert batch.journals() == []
    assert [line["row"] for line in results(batch.directory)] == ["a"]


def test_results_are_durable_before_the_journal_is_removed(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that replace a file with superseded lines."""
    batch.run(INTENT, ACCEPTED, failed(), end=Batch.end)
    store = batch.start()
    store.commit([INTENT, Accepted(job(), "T2"), done(task_id="T2")])
    assert store.written is not None
    assert [line["status"] for line in results(batch.directory)] == ["failed", "finished"]
    calls: list[tuple[str, object]] = []
    fsync, unlink = os.fsync, os.unlink

    def logged_fsync(file: int) -> None:
        calls.append(("fsync", os.fstat(file).st_ino))
        fsync(file)

    def logged_unlink(path: Path) -> None:
        calls.append(("unlink", str(path)))
        unlink(path)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "unlink", logged_unlink)
    batch.end(store)
    assert [line["status"] for line in results(batch.directory)] == ["finished"]
    synced = ("fsync", (batch.directory / "results.jsonl").stat().st_ino)
    removed = calls.index(("unlink", str(store.journal.path)))
    assert calls[:removed].count(synced) == 2  # before it got its name, and after


def test_a_torn_line_is_ignored(batch: Batch) -> None:
    """The power failed while it was written: it was not committed, so nothing was done after it."""
    batch.run(INTENT, ACCEPTED)
    (path,) = batch.journals()
    content = path.read_bytes()
    cut = content.rindex(b"\n", 0, -1) + 1
    for length in range(cut, len(content) + 1):
        path.write_bytes(content[:length])
        assert batch.state("a") is (RowState.SUBMITTED if length >= len(content) - 1 else RowState.UNKNOWN)


def test_each_commit_is_one_write_and_one_fsync(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is synced when the file is created, so that its name is durable."""
    calls: list[str] = []
    store = batch.start()
    names = {batch.directory: "directory", batch.directory / STATE_NAME: "state directory"}
    fsync, write = os.fsync, os.write

    def name_of(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return names.get(path, path.name.split("-")[0])

    def logged(call: str, function: Callable[..., object]) -> Callable[..., object]:
        def inner(descriptor: int, *arguments: object) -> object:
            calls.append(f"{call} {name_of(descriptor)}")
            return function(descriptor, *arguments)

        return inner

    monkeypatch.setattr(os, "fsync", logged("fsync", fsync))
    monkeypatch.setattr(os, "write", logged("write", write))
    store.commit([INTENT, Intent(job("b")), Intent(job("c"))])
    assert calls == ["fsync state directory", "fsync directory", "write journal", "fsync journal"]
    calls.clear()
    store.commit([ACCEPTED, Accepted(job("b"), "T2")])
    assert calls == ["write journal", "fsync journal"]


@pytest.mark.parametrize("last", [[unsent(key="b")], []], ids=["commit", "close"])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_stops_submissions_and_loses_no_id(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, call: str, last: list[Change]
) -> None:
    """An ID that cannot be recorded now is recorded with the next commit that works, or at the end."""
    store = batch.start()
    store.commit([INTENT])
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, call, full)
        with pytest.raises(LocalFileError, match="no space left") as raised:
            store.commit([Intent(job("b"))])
        assert raised.value.exit_code == 6
        with pytest.raises(LocalFileError):
            store.commit([ACCEPTED])
    store.commit(last) if last else store.close()
    batch.kill(store)
    assert (batch.state("a"), batch.state("b")) == (RowState.SUBMITTED, RowState.NEW)


@pytest.mark.parametrize("before", [[], [INTENT], [INTENT, POSTPONED]])
def test_a_partial_write_leaves_whole_lines(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, before: list[Change]
) -> None:
    """What was written before the disk was full is removed with the next commit."""
    store = batch.start()
    for change in before:
        store.commit([change])
    write = os.write
    with monkeypatch.context() as patch:
        attempts = itertools.count()

        def partial(descriptor: int, content: bytes) -> int:
            if next(attempts):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, content[:20])

        patch.setattr(os, "write", partial)
        with pytest.raises(LocalFileError):
            store.commit([ACCEPTED])
    store.commit([])
    batch.kill(store)
    (path,) = batch.journals()
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == [*["intent", "unsent"][: len(before)], "accepted"]
    (usual := batch.directory / "usual").touch()
    assert path.stat().st_mode == usual.stat().st_mode


class BrokenHistory:
    """A history that fails so often, then works."""

    def __init__(self, failures: int, error: LocalFileError) -> None:
        self.failures, self.error = failures, error
        self.recorded: list[Change] = []

    def commit(self, changes: Sequence[Change]) -> None:
        """Record changes, or fail."""
        if self.failures:
            self.failures -= 1
            raise self.error
        self.recorded += changes


@pytest.mark.parametrize("error", [StoreBusyError("locked"), LocalFileError("read-only")])
def test_the_history_never_stops_a_batch(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, error: LocalFileError
) -> None:
    """What it cannot take now it gets later, in order, after a pause: each attempt takes long."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    history = BrokenHistory(2, error)
    queue = HistoryQueue(history)
    found = []
    for seconds in (0.0, 4.9, 5.0, 9.9, 10.0):
        now[0] = 100.0 + seconds
        queue.commit([Accepted(job(), f"T{seconds}")])
        found.append((history.failures, len(history.recorded), queue.error))
    assert found == [(1, 0, error), (1, 0, error), (0, 0, error), (0, 0, error), (0, 5, None)]
    history.failures = 1
    queue.commit([INTENT])
    assert queue.error is error
    store = batch.start()
    store.history = queue
    store.close()  # at once
    assert history.recorded[5:] == [INTENT]


def test_results_that_cannot_be_written_are_added_later(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has them, and is kept for that; the run continues."""

    def full(*_: object) -> None:
        raise LocalFileError("disk full")

    store = batch.start()
    store.commit([INTENT, ACCEPTED])
    with monkeypatch.context() as patch:
        patch.setattr(ResultsFile, "append", full)
        store.commit([done()])
        assert store.results_error is not None
        with pytest.raises(LocalFileError):
            state.compact(batch.directory, batch.claim, store)
    assert results(batch.directory) == []
    assert batch.state("a") is RowState.DONE
    store.commit([Intent(job("b"))])
    assert [line["row"] for line in results(batch.directory)] == ["a"]
    assert store.results_error is None


def line(row: str, status: str = "finished", **more: object) -> bytes:
    """Return a line of the results."""
    return journal.encoded({"row": row, "service": SERVICE, "status": status, **more}) + b"\n"


A_DONE, A_FAILED, B_DONE, B_FAILED = line("a"), line("a", "failed"), line("b"), line("b", "failed")
OLD = json.dumps({"status": "failed", "service": SERVICE, "row": "a", "raw": {}}).encode() + b"\n"  # another order


@pytest.mark.parametrize(
    ("content", "status", "left"),
    [
        (A_DONE + B_FAILED, "finished", A_DONE + B_FAILED),
        (A_DONE + A_FAILED + B_DONE, "finished", A_DONE + B_DONE),
        (B_DONE + A_DONE + A_FAILED, "finished", B_DONE + A_DONE),
        (A_FAILED + A_DONE, "finished", A_DONE),
        (A_DONE + OLD, "finished", A_DONE),
        (OLD + B_DONE, "failed", OLD + B_DONE),
        (A_FAILED + line("a", "failed", n=2), "failed", line("a", "failed", n=2)),
        (B_DONE + A_DONE[:-9] + b"\n\n" + A_FAILED, "failed", B_DONE + A_FAILED),
        (b"a remark\n" + A_FAILED.rstrip(), "failed", b"a remark\n" + A_FAILED.rstrip()),
        (A_DONE + A_FAILED + b"a remark", "finished", A_DONE + b"a remark\n"),
    ],
)
def test_lines_that_count(tmp_path: Path, content: bytes, status: str, left: bytes) -> None:
    """The last about a row does, but a picture stays; the others are removed, and nothing else is."""
    results = ResultsFile(tmp_path)
    results.path.write_bytes(content)
    found = results.read({b'"a"'})
    assert list(found) == [(SERVICE, "a")]
    assert found[SERVICE, "a"]["status"] == status
    assert "raw" not in found[SERVICE, "a"]
    assert list(results.read({b'"c"'})) == []
    before = results.path.stat().st_ino
    results.tidy()
    assert results.path.read_bytes() == left
    assert (results.path.stat().st_ino == before) == (content == left)


def test_comparing_results(tmp_path: Path) -> None:
    """Whether the file has these lines, and whether it has others."""
    results = ResultsFile(tmp_path)
    a, b = (digest(each.rstrip()) for each in (A_DONE, B_DONE))
    assert [results.compare(each) for each in ({a}, set())] == [(False, False), (True, False)]
    results.append([])
    results.tidy()
    results.sync()
    assert not results.path.exists()
    results.append([A_DONE.rstrip()])
    results.append([B_DONE.rstrip()])
    assert results.path.read_bytes() == A_DONE + B_DONE
    assert [results.compare(each) for each in ({a}, {a, b}, {b"x"})] == [
        (True, True),
        (True, False),
        (False, True),
    ]


def test_appending_to_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a line, after another process has replaced the file, and on a full disk."""
    results = ResultsFile(tmp_path)
    results.path.write_bytes(A_DONE[:-9])

    def replaced(file: BinaryIO, *, wait: bool) -> bool:
        assert wait
        monkeypatch.undo()
        results.path.unlink()
        results.path.write_bytes(B_DONE[:-9])
        return True

    monkeypatch.setattr("flux_cli.batch.results.lock", replaced)
    results.append([A_DONE.rstrip()])
    assert results.path.read_bytes() == B_DONE[:-9] + b"\n" + A_DONE
    before, limits = results.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, limits[1]))
    try:
        with pytest.raises(LocalFileError, match="file too large"):
            results.append([B_DONE.rstrip()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert results.path.read_bytes() == before


NOTHING: list[Change] = []
T1, T2 = [INTENT, ACCEPTED], [INTENT, Accepted(job(), "T2")]


UNSURE = {"exit_code": 9, "error": "no response is known"}
REJECTED = closed(Status.FAILED, 2, error="400")
FAILED_AGAIN = (RowState.FAILED, "T2")


@pytest.mark.parametrize(
    ("content", "own", "recorded", "expected", "missing"),
    [
        (b"", NOTHING, [INTENT], (RowState.UNKNOWN, None), UNSURE),
        (b"", NOTHING, [INTENT, unsent()], (RowState.NEW, None), None),
        (b"", NOTHING, T1, (RowState.SUBMITTED, "T1"), None),
        (b"", NOTHING, [*T1, done()], (RowState.DONE, "T1"), {"exit_code": 0, "percentage": 100.0}),
        (b"", NOTHING, [*T1, failed()], (RowState.FAILED, "T1"), {"exit_code": 4, "error": "moderated"}),
        (b"", T1, T1, (RowState.SUBMITTED, "T1"), None),
        (b"", T2, [*T1, done()], (RowState.SUBMITTED, "T2"), None),
        (b"", [INTENT], [*T1, done()], (RowState.UNKNOWN, None), UNSURE),
        (A_FAILED, NOTHING, [*T1, done()], (RowState.DONE, "T1"), {"exit_code": 0}),
        (A_FAILED, NOTHING, [INTENT, unsent()], (RowState.NEW, None), None),
        (line("a", "failed", task_id="T1"), [*T2, failed(task_id="T2")], NOTHING, FAILED_AGAIN, {"task_id": "T2"}),
        (b"", NOTHING, [INTENT, REJECTED], (RowState.FAILED, None), {"exit_code": 2, "error": "400"}),
        (line("a", task_id="T0", path="x"), NOTHING, T1, (RowState.DONE, "T0"), None),
        (line("a", "failed", task_id="T1"), NOTHING, T1, (RowState.FAILED, "T1"), None),
        (line("a", "failed", task_id="T0"), NOTHING, [INTENT, unsent()], (RowState.FAILED, "T0"), None),
    ],
)
def test_what_the_history_adds(
    batch: Batch,
    tmp_path: Path,
    content: bytes,
    own: list[Change],
    recorded: list[Change],
    expected: tuple[RowState, str | None],
    missing: dict[str, object] | None,
) -> None:
    """Rows of version 0.1.0. What the directory has from a journal comes first."""
    batch.run(*own)
    (batch.directory / "results.jsonl").write_bytes(content)
    with closing(History(tmp_path / "history.sqlite3")) as history:
        made = job()
        for change in recorded:
            HistoryStore(history, SERVICE).commit([replace(change, job=made)])
        found = batch.load("a", "b", history=history)
    known = found.attempts["a"]
    assert (known.state, known.task_id) == expected
    assert list(found.attempts) == ["a"]
    if missing is None:
        assert found.missing == []
    else:
        (added,) = found.missing
        assert float(str(added["elapsed"] or 0)) < 1000
        assert dict(added) | missing | {"row": "a", "line": 7, "service": SERVICE} == added


def test_a_history_that_cannot_be_read_is_asked_once(batch: Batch) -> None:
    history = mock.Mock()
    history.newest_of_row.side_effect = error = LocalFileError("damaged")
    assert batch.load("a", "b", history=history).history_error is error
    history.newest_of_row.assert_called_once()


def test_rows_of_another_service_are_other_rows(batch: Batch) -> None:
    """A rehearsal in the sandbox says nothing about the service."""
    rehearsal = Batch(batch.directory, "sandbox")
    rehearsal.run(INTENT, ACCEPTED, done())
    assert (rehearsal.state("a"), batch.state("a")) == (RowState.DONE, RowState.NEW)


def test_no_secret_is_recorded(batch: Batch) -> None:
    """Jobs hold the request with the secret; the journal has what is recorded of it."""
    batch.run(Intent(replace(job(), request={"prompt": "a", "webhook_secret": "hush-hush"})))
    assert "hush" not in batch.journals()[0].read_text()


KEYS = ["a", 'quote"', "back\\slash", "söme", "\ud800", "#0123-1", "line\nbreak", "x" * 300]


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_any_kind(batch: Batch, key: str) -> None:
    """Lines are found by the key without being parsed."""
    batch.run(Intent(job(key)), Accepted(job(key), "T1"))
    assert batch.state(key) is RowState.SUBMITTED
    assert all(batch.state(other) is RowState.NEW for other in KEYS if other != key)


def test_a_journal_that_vanishes_while_it_is_read(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has just compacted it: its rows are in the results, which are read again."""
    batch.run(INTENT, ACCEPTED, done())
    (path,) = batch.journals()
    listdir = os.listdir

    def vanishing(directory: Path) -> list[str]:
        names = listdir(directory)
        path.unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", vanishing)
    assert batch.state("a") is RowState.DONE


@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from("ipautdf"), max_size=6), max_size=4))
def test_what_was_accepted_is_never_new(tmp_path_factory: pytest.TempPathFactory, runs: list[list[str]]) -> None:
    """Whatever the runs recorded, in whatever order."""
    batch = Batch(tmp_path_factory.mktemp("batch"))
    numbers = itertools.count(1)
    makers: dict[str, Callable[[str], Change]] = {
        "i": lambda _: INTENT,
        "p": lambda _: POSTPONED,
        "a": lambda task_id: Accepted(job(), task_id),
        "u": lambda _: unknown(),
        "t": lambda task_id: left(task_id=task_id),
        "d": lambda task_id: done(task_id=task_id),
        "f": lambda task_id: failed(task_id=task_id),
    }
    for changes in runs:
        batch.run(*(makers[change](f"T{next(numbers)}") for change in changes), end=Batch.end)
    states = {change for changes in runs for change in changes}
    found = batch.state("a")
    if "d" in states:
        assert found is RowState.DONE
    elif {"a", "t", "f"} & states:
        assert found in (RowState.SUBMITTED, RowState.FAILED, RowState.UNKNOWN)
    assert journal.read(batch.directory / STATE_NAME).next_run <= len(runs) + 1
