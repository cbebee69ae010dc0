"""The history: recorded before money is spent, by many processes and hosts, fast at any length."""

import base64
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.task import Status
from flux_cli.errors import LocalFileError, StoreBusyError, UsageError
from flux_cli.storage import database
from flux_cli.storage.database import APPLICATION_ID, VERSION, patiently, translated
from flux_cli.storage.history import History, HistoryReader, open_readonly
from flux_cli.storage.record import Record
from tests.conftest import KEY, Cli
from tests.faults.mounts import make_read_only, tmpfs
from tests.server import Request, Server, png, reply, submitted

SERVICE = "https://api.example"


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    opened = History(tmp_path / "state" / "history.sqlite3")
    yield opened
    opened.close()


def a_request(prompt: str = "a cat") -> dict[str, object]:
    return {"model": "flux-pro", "prompt": prompt, "seed": 7}


def add(history: History, task_id: str, prompt: str = "a cat", service: str = SERVICE) -> int:
    """Record an accepted task; return its number."""
    (number,) = history.begin(service, [a_request(prompt)])
    history.accepted(number, task_id)
    return number


def only(history: HistoryReader) -> Record:
    (record,) = history.records()
    return record


def get(history: HistoryReader, task_id: str) -> Record:
    record = history.find(task_id)
    assert record is not None
    return record


def ids(records: Iterable[Record]) -> list[str | None]:
    return [record.task_id for record in records]


def start(path: Path, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a process that runs a script with a `history`."""
    code = f"""
import os, sys
from pathlib import Path
from flux_cli.api.task import Status
from flux_cli.storage.database import patiently
from flux_cli.storage.history import History
history = History(Path(sys.argv[1]))
{script}"""
    command = [sys.executable, "-c", code, str(path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outputs(processes: "Iterable[subprocess.Popen[bytes]]") -> list[tuple[bytes, bytes, int]]:
    """Return stdout, stderr and exit code of each process."""
    return [(*process.communicate(timeout=60), process.returncode) for process in processes]


def test_life_of_a_task(history: History) -> None:
    """Unknown when it is sent, processing with an ID, finished without a path, then with one."""
    (number,) = history.begin(SERVICE, [a_request()])
    assert (only(history).status, only(history).task_id) == (Status.UNKNOWN, None)
    assert only(history).request == a_request()
    history.ended(number, Status.UNSENT, error="429")
    assert only(history).status is Status.UNSENT
    history.resending(number)
    assert (only(history).status, only(history).error, only(history).ended) == (Status.UNKNOWN, None, None)
    history.accepted(number, "task-0")
    history.ended(number, Status.PROCESSING)
    assert (only(history).status, only(history).ended) == (Status.PROCESSING, None)
    assert ids(history.unsaved(SERVICE)) == ["task-0"]
    history.ended(number, Status.FINISHED, image_url="https://x/y.png")
    assert ids(history.unsaved(SERVICE)) == ["task-0"]
    history.ended(number, Status.FINISHED, path="/x/y.png", sha256="ab" * 32)
    assert list(history.unsaved(SERVICE)) == []
    record = only(history)
    assert (record.path, record.image_url, record.number) == ("/x/y.png", "https://x/y.png", number)
    assert record.sha256 == "ab" * 32
    assert record.ended is not None
    assert record.ended >= record.created
    assert history.find("task-0") == record
    assert history.find("task-1") is None


def test_age_is_never_negative(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.begin(SERVICE, [a_request()])
    record = only(history)
    for later, age in ((90.0, 90.0), (0.0, 0.0), (-90.0, 0.0)):
        monkeypatch.setattr("time.time", lambda later=later: record.created + later)
        assert record.age == pytest.approx(age, abs=0.001)


def test_unsaved(history: History) -> None:
    """Tasks of this service that are running or finished without a file; the newest first."""
    numbers = [add(history, f"task-{n}") for n in range(5)]
    history.ended(numbers[1], Status.FAILED, error="no")
    history.ended(numbers[2], Status.FINISHED)
    history.ended(numbers[3], Status.FINISHED, path="-")
    history.ended(numbers[4], Status.FINISHED, error="cannot write to stdout", exit_code=6)
    add(history, "elsewhere", service="sandbox")
    history.begin(SERVICE, [a_request()])
    unsaved = ["task-4", "task-2", "task-0"]
    assert ids(history.unsaved(SERVICE)) == unsaved
    assert ids(each for each in history.records() if each.unsaved and each.service == SERVICE) == unsaved


def test_a_failure_does_not_change_a_saved_task(history: History) -> None:
    number = add(history, "task-0")
    history.ended(number, Status.FINISHED, path="/x.png")
    saved = only(history)
    history.ended(number, Status.FAILED, error="expired")
    assert only(history) == saved
    history.ended(number, Status.FINISHED, path="/y.png")
    assert only(history).path == "/y.png"


def test_filters(history: History) -> None:
    numbers = history.begin(SERVICE, [a_request(prompt) for prompt in ("A Cat", "a dog", "100% 'x' _\\")])
    history.accepted(numbers[0], "TASK-abc")
    history.ended(numbers[0], Status.FINISHED)
    history.ended(numbers[1], Status.FAILED, path="/Pictures/z.png")
    cat, dog, odd = numbers
    (other,) = history.begin(SERVICE, [{"model": "flux-dev", "prompt": "x"}])
    created = next(history.records()).created
    texts = {"cat": [cat], "task-A": [cat], "pictures": [dog], "%": [odd], "'": [odd], "_\\": [odd], "nothing": []}
    cases: list[tuple[dict[str, object], list[int]]] = [({"search": text}, found) for text, found in texts.items()]
    cases += [
        ({"statuses": [Status.FAILED]}, [dog]),
        ({"statuses": [Status.FAILED, Status.FINISHED]}, [dog, cat]),
        ({"unsaved": True}, [cat]),
        ({"unsaved": True, "statuses": [Status.FAILED]}, [dog, cat]),
        ({"model": "flux-dev"}, [other]),
        ({"limit": 2}, [other, odd]),
        ({"since": created}, [other]),
        ({"until": created}, [odd, dog, cat]),
    ]
    for filters, expected in cases:
        records = history.records(**filters)  # type: ignore[arg-type] # any of them
        assert [record.number for record in records] == expected, filters


def test_pages(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long read is many short queries, and yields each record once."""
    monkeypatch.setattr("flux_cli.storage.history.PAGE", 3)
    numbers = history.begin(SERVICE, [a_request()] * 10)
    for limit, expected in ((None, 10), (3, 3), (4, 4), (20, 10)):
        assert [record.number for record in history.records(limit)] == numbers[::-1][:expected]


def test_prefixes(history: History) -> None:
    """At least four characters; the whole ID wins over longer ones; each task once."""
    for task_id in ("abcd-1", "abcd-2", "abcd", "wxyz-1", "ab%d"):
        add(history, task_id)
    add(history, "wxyz-1", service="sandbox")
    for prefix in ("abcd", "abcd-1", "ab%d"):
        assert history.lookup(prefix) == get(history, prefix)
    assert history.lookup("wxyz") == get(history, "wxyz-1")
    for prefix in ("wxy", "", "none"):
        assert history.lookup(prefix) is None
    with pytest.raises(UsageError, match="2 tasks"):
        history.lookup("abcd-")


@pytest.mark.parametrize(
    ("tasks", "hint"),
    [
        (2, "give one of task-1, task-0"),
        (5, "give one of task-4, task-3, task-2, task-1, task-0"),
        (7, "give one of task-6, task-5, task-4, task-3, task-2 and 2 more"),
    ],
)
def test_an_ambiguous_prefix(history: History, tasks: int, hint: str) -> None:
    for n in range(tasks):
        add(history, f"task-{n}")
    with pytest.raises(UsageError, match=f"task ID prefix task is ambiguous: {tasks} tasks") as caught:
        history.lookup("task")
    assert caught.value.hint == hint


def test_a_picture_is_recognised(history: History, tmp_path: Path) -> None:
    """By its content wherever it is, else by its path; of several with one content the one at this path counts."""
    picture = tmp_path / "x.png"
    picture.write_bytes(b"one")
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # of `one`
    for task_id, path, sha256 in (
        ("old", str(tmp_path / "old.png"), None),
        ("first", str(picture), digest),
        ("second", "/gone.png", digest),
    ):
        history.ended(add(history, task_id), Status.FINISHED, path=path, sha256=sha256)

    def task_of(path: Path) -> str | None:
        record = history.find_picture(path)
        return record.task_id if record else None

    assert task_of(picture) == "first"
    assert task_of(picture.rename(tmp_path / "moved.png")) == "second"
    (tmp_path / "old.png").write_bytes(b"of a version without digests")
    assert task_of(tmp_path / "old.png") == "old"
    (tmp_path / "foreign.png").write_bytes(b"foreign")
    assert task_of(tmp_path / "foreign.png") is None


def test_paths_that_are_not_utf_8(history: History, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"x")
    history.ended(add(history, "task-0"), Status.FINISHED, path=str(path))
    assert only(history).path == str(path)
    found = history.find_picture(path)
    assert found is not None
    assert ids(history.records(search="caf")) == ["task-0"]


def test_deleting(history: History) -> None:
    """The records are gone, from the file's bytes as well, and their numbers are never given again."""
    secret = "a secret prompt " * 100
    keep, gone = add(history, "task-0"), add(history, "task-1", secret)
    history.delete([record for record in history.records() if record.number == gone])
    assert [record.number for record in history.records()] == [keep]
    content = b"".join(path.read_bytes() for path in history.path.parent.iterdir())
    assert b"a secret prompt" not in content
    history.ended(gone, Status.FAILED, error="of the deleted task")
    assert add(history, "task-2") > gone
    assert [record.error for record in history.records()] == [None, None]


ANY_TEXT = st.text(st.characters(codec=None), max_size=50)


@given(prompt=ANY_TEXT, text=ANY_TEXT, search=ANY_TEXT)
def test_any_text(tmp_path_factory: pytest.TempPathFactory, prompt: str, text: str, search: str) -> None:
    """Whatever is in a prompt, a reason, a URL or a path: it can be recorded and searched for."""
    history = History(tmp_path_factory.mktemp("any") / "history.sqlite3")
    (number,) = history.begin(SERVICE, [a_request(prompt)])
    history.ended(number, Status.FAILED, error=text, image_url=text, path=text, exit_code=4)
    record = only(history)
    assert record.request["prompt"] == prompt
    assert (record.status, record.exit_code) == (Status.FAILED, 4)
    found = list(history.records(search=search))
    assert found == [record] or not (search and search in prompt)
    history.close()


def test_a_transaction_is_all_or_nothing(history: History) -> None:
    def fail() -> None:
        with history.transaction():
            history.begin(SERVICE, [a_request()] * 3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(history.records()) == []
    with history.transaction():
        (number,) = history.begin(SERVICE, [a_request()])
        history.accepted(number, "task-0")
    assert only(history).task_id == "task-0"


def test_a_transaction_excludes_other_writers(history: History) -> None:
    """From its beginning, before its first change. Opening waits for nobody, and a write fails soon."""
    with history.transaction(), closing(History(history.path)) as other, pytest.raises(StoreBusyError):
        other.begin(SERVICE, [a_request()])
    assert list(history.records()) == []
    with closing(History(history.path)) as other:
        assert other.begin(SERVICE, [a_request()]) == [1]


def test_permissions(history: History) -> None:
    """0600 in a directory of 0700, for the write-ahead log, too."""
    history.begin(SERVICE, [a_request()])
    assert history.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in history.path.parent.iterdir()} == {0o600}


def test_durability(history: History) -> None:
    settings = {}
    with closing(sqlite3.connect(history.path)) as connection:
        settings["mode"] = connection.execute("PRAGMA journal_mode").fetchone()[0]
    for name in ("synchronous", "busy_timeout"):
        settings[name] = history._connection.execute(f"PRAGMA {name}").fetchone()[0]
    assert settings == {"mode": "wal", "synchronous": 2, "busy_timeout": 200}


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusyError, "None"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusyError, "None"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, LocalFileError, "to a writable directory"),
        (sqlite3.SQLITE_CANTOPEN, LocalFileError, "to a writable directory"),
        (sqlite3.SQLITE_IOERR_LOCK, LocalFileError, "to a directory on a local disk"),
        (sqlite3.SQLITE_PROTOCOL, LocalFileError, "to a directory on a local disk"),
        (sqlite3.SQLITE_FULL, LocalFileError, "None"),
    ],
)
def test_errors_of_sqlite(code: int, kind: type[LocalFileError], hint: str) -> None:
    """A busy file is an error of its own, and the hint fits the cause."""
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    with pytest.raises(LocalFileError, match="cannot use the history x: no") as caught, translated(Path("x")):
        raise error
    assert type(caught.value) is kind
    assert str(caught.value.hint).endswith(hint)


@pytest.mark.parametrize(
    ("error", "seconds", "calls"),
    [(StoreBusyError, 60.0, 3), (StoreBusyError, 0.0, 1), (LocalFileError, 60.0, 1)],
)
def test_patiently(error: type[LocalFileError], seconds: float, calls: int) -> None:
    """A change is repeated while another process has the file locked; any other error is raised at once."""
    outcomes: list[LocalFileError | None] = [error("no"), error("no"), None]

    def change() -> int:
        if failure := outcomes.pop(0):
            raise failure
        return 7

    with nullcontext() if calls == 3 else pytest.raises(error):
        assert patiently(change, seconds) == 7
    assert 3 - len(outcomes) == calls


def test_creating_a_file_that_another_process_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, even if SQLite itself does not wait."""
    path = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchall()
        monkeypatch.setattr(database, "WAIT_SECONDS", 0.0)
        monkeypatch.setattr(time, "sleep", lambda _: reader.rollback())
        History(path).close()


def test_the_schema_is_read_at_one_moment(tmp_path: Path) -> None:
    """Another process that creates it in the meantime does not make it another program's."""
    path = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.set_trace_callback(lambda sql: History(path).close() if "user_version" in sql else None)
        assert database.schema_version(connection) == 0
        connection.set_trace_callback(None)
        assert database.schema_version(connection) == VERSION


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA user_version = 99", f"written by a newer flux-cli (format 99, this one supports {VERSION})"),
        ("PRAGMA application_id = 5", "damaged or belongs to another program"),
        ("PRAGMA application_id = 0", "damaged or belongs to another program"),
        ("PRAGMA application_id = 0; PRAGMA user_version = 0", "damaged or belongs to another program"),
        ("DROP TABLE submissions", "cannot use the history"),
    ],
)
def test_a_file_that_cannot_be_used(history: History, statement: str, message: str) -> None:
    """One clear error that names the file; nothing in it is changed."""
    history.begin(SERVICE, [a_request()])
    history.close()
    with closing(sqlite3.connect(history.path)) as connection:
        connection.executescript(statement)
    before = history.path.read_bytes()
    with pytest.raises(LocalFileError, match=re.escape(message)) as caught:
        list(History(history.path).records())
    if "DROP" not in statement:  # it is found when the file is opened
        with pytest.raises(LocalFileError, match=re.escape(message)) as caught_reading:
            database.open_for_reading(history.path)
        assert caught_reading.value.message == caught.value.message
        assert str(history.path) not in map(os.path.realpath, os.scandir("/proc/self/fd"))
    assert str(history.path) in caught.value.message or "newer" in message
    assert history.path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    ["status = 'odd'", "request = '{'", "request = '[]'", "request = 5", "created = 'soon'", "prompt = x'ff'"],
)
def test_one_unreadable_record(history: History, change: str) -> None:
    for n in range(3):
        add(history, f"task-{n}")
    history._connection.execute(f"UPDATE submissions SET {change} WHERE task_id = 'task-1'")  # noqa: S608 - ours
    assert ids(history.records()) == ["task-2", "task-0"]
    assert history.problems() == [f"skipped 1 unreadable record of the history {history.path}"]


def test_text_that_is_not_utf_8(history: History) -> None:
    """Damaged text is shown as far as it can be."""
    add(history, "task-0")
    history._connection.execute("UPDATE submissions SET error = CAST(x'61ff' AS TEXT)")
    assert only(history).error == "a\ufffd"


# Version 1, of flux-cli 0.1.0

VERSION_1 = """
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY, created REAL NOT NULL, service TEXT NOT NULL, status TEXT NOT NULL, task_id TEXT,
    model TEXT, prompt TEXT, request TEXT NOT NULL, image_url TEXT, original_image_url TEXT, path TEXT,
    original_path TEXT, error TEXT, exit_code INTEGER, ended REAL, batch TEXT, row TEXT
);
CREATE INDEX by_task ON submissions (task_id);
CREATE INDEX by_status ON submissions (status, id);
CREATE INDEX unsaved ON submissions (service, id)
    WHERE task_id IS NOT NULL AND path IS NULL AND status IN ('processing', 'finished');
CREATE INDEX by_row ON submissions (batch, row) WHERE batch IS NOT NULL;
PRAGMA user_version = 1;
"""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A history of version 1 with two tasks, one saved."""
    path = tmp_path / "state" / "history.sqlite3"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for task_id, picture in (("task-0", "/x.png"), ("task-1", None)):
            connection.execute(
                "INSERT INTO submissions (created, service, status, task_id, prompt, request, path, batch, row) "
                "VALUES (1.5, ?, 'finished', ?, 'a cat', '{\"seed\": 7}', ?, '/b', '1')",
                (SERVICE, task_id, picture),
            )
    return path


def test_reading_version_1_converts_nothing(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_cli.storage.history.state_directory", lambda: old_file.parent)
    before = old_file.read_bytes()
    with closing(open_readonly()) as reader:
        assert ids(reader.records()) == ["task-1", "task-0"]
        assert ids(reader.unsaved(SERVICE)) == ["task-1"]
        assert reader.find_picture(old_file) is None
    assert old_file.read_bytes() == before
    assert os.listdir(old_file.parent) == ["history.sqlite3"]


def test_reading_a_file_that_another_process_is_creating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_cli.storage.history.state_directory", lambda: tmp_path)
    (path := tmp_path / "history.sqlite3").touch()
    with closing(open_readonly()) as reader:
        assert ids(reader.records()) == []
    assert path.read_bytes() == b""


def test_converting_version_1(old_file: Path) -> None:
    """Opening it for writing keeps all records with their numbers."""
    history = History(old_file)
    records = list(history.records())
    assert [(record.number, record.task_id, record.path) for record in records] == [
        (2, "task-1", None),
        (1, "task-0", "/x.png"),
    ]
    assert (records[0].created, records[0].request, records[0].sha256) == (1.5, {"seed": 7}, None)
    assert history.newest_of_row(SERVICE, "/b", "1") == records[0]
    history.ended(2, Status.FINISHED, path="/y.png", sha256="00")
    assert [record.sha256 for record in history.of_task("task-1")] == ["00"]
    history.delete(records)
    assert add(history, "task-2") == 3


def test_processes_that_convert_version_1_at_the_same_time(old_file: Path) -> None:
    """Each waits for the one that converts, and none loses a record."""
    script = "print(len(list(history.records())))"
    assert outputs([start(old_file, script) for _ in range(6)]) == [(b"2\n", b"", 0)] * 6


# Reading never writes


READERS = (
    *("history", "show task-0", "gallery -o {page}", "imagine --like task-0 --dry-run", "config list"),
    "",  # completion
)


@pytest.mark.parametrize("command", READERS)
def test_readers_do_not_write(cli: Cli, tmp_path: Path, command: str) -> None:
    """No file is created or changed, neither beside a history nor without one."""

    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in cli.home.rglob("*") if path.is_file()}

    env = {} if command else {"_FLUX_CLI_COMPLETE": "bash", "_FLUX_CLI_LINE": "flux-cli wait "}
    arguments = command.format(page=tmp_path / "page.html").split()
    before = content()
    cli(*arguments, env=env)
    assert content() == before
    (cli.cwd / "x.png").write_bytes(png())
    with closing(History(cli.history_file)) as history:
        history.ended(add(history, "task-0"), Status.FINISHED, path=str(cli.cwd / "x.png"))
    before = content()
    done = cli(*arguments, env=env)
    assert content() == before
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(("index", "prompts"), [(True, ["a dog", "a cat"]), (False, ["a cat"])])
def test_reading_on_a_read_only_file_system(cli: Cli, tmp_path: Path, index: bool, prompts: list[str]) -> None:
    """Even if a process was killed and left its write-ahead log: what it has committed is seen.

    If the log's index is missing, it is what was there at the last checkpoint.
    """
    with tmpfs(tmp_path / "state", "4m") as state:
        cli.env["XDG_STATE_HOME"] = str(state)
        path = state / "flux-cli" / "history.sqlite3"
        with closing(History(path)) as history:
            history.begin("service", [a_request()])
        killed = start(path, "history.begin('service', [{'prompt': 'a dog'}])\nos._exit(0)")
        assert outputs([killed]) == [(b"", b"", 0)]
        assert path.with_name("history.sqlite3-wal").stat().st_size
        if not index:
            path.with_name("history.sqlite3-shm").unlink()
        make_read_only(state)
        assert [record["prompt"] for record in cli.history()] == prompts


# File systems that several hosts share


Host = Callable[[str], History]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a function that opens the shared history as another host does."""
    monkeypatch.setattr("flux_cli.storage.history.state_directory", lambda: tmp_path / "shared")
    monkeypatch.setattr("flux_cli.storage.history.is_shared", lambda _: True)

    def as_host(name: str) -> History:
        monkeypatch.setattr("flux_cli.storage.history.host_id", lambda: f"{name}-00000000")
        return History()

    return as_host


def readers(host: Host) -> list[HistoryReader]:
    """Return the history as every host sees it."""
    return [host("one"), host("two"), host("three"), open_readonly()]


def test_each_host_writes_its_own_file(host: Host, tmp_path: Path) -> None:
    """No two hosts write one file, and no file has a write-ahead log; every reader sees all, the newest first."""
    one = host("one")
    first = add(one, "task-1")
    add(host("two"), "task-2")
    third = add(one, "task-3")
    assert sorted(os.listdir(tmp_path / "shared")) == [
        "history-one-00000000.sqlite3",
        "history-one-00000000.sqlite3-journal",
        "history-two-00000000.sqlite3",
        "history-two-00000000.sqlite3-journal",
    ]
    assert (first, third) == (1, 2)
    for reader in readers(host):
        assert ids(reader.records()) == ["task-3", "task-2", "task-1"]
        assert ids(reader.records(2)) == ["task-3", "task-2"]
        assert ids(reader.unsaved(SERVICE)) == ["task-3", "task-2", "task-1"]
    add(one, "task-4")
    assert ids(reader.records(1)) == ["task-4"]


def test_a_task_of_another_host(host: Host) -> None:
    """What this host does with it goes into its own file, and every host sees the outcome, in the same place."""
    one = host("one")
    add(one, "task-0")
    number = add(one, "task-1")
    two = host("two")
    add(two, "task-2")
    foreign = get(two, "task-1")
    mine = two.adopt(foreign)
    assert two.adopt(foreign) == mine == 2
    two.adopt(get(two, "task-0"))
    for reader in readers(host):
        assert ids(reader.records()) == ids(reader.unsaved(SERVICE)) == ["task-2", "task-1", "task-0"]
    two.ended(mine, Status.FINISHED, path="/x.png")
    one.ended(number, Status.FAILED)  # takes nothing back
    for reader in readers(host):
        assert ids(reader.unsaved(SERVICE)) == ["task-2", "task-0"]
        assert ids(reader.records()) == ["task-2", "task-1", "task-0"]
        assert (get(reader, "task-1").path, get(reader, "task-1").created) == ("/x.png", foreign.created)
    # The first host saves it as well: one of the two records is shown.
    one.ended(number, Status.FINISHED, path="/y.png")
    assert ids(host("three").records()) == ["task-2", "task-1", "task-0"]


def test_forgetting_all_copies(host: Host) -> None:
    number = add(host("one"), "task-1")
    add(host("one"), "task-2")
    add(host("one"), "task-3")
    for history in (host("two"), host("three")):
        history.adopt(get(history, "task-1"))
    own = get(host("one"), "task-2")
    assert host("one").adopt(own) == own.number != number
    again = host("two")  # a reader sees the files that exist when it is opened
    again.delete([get(again, "task-1"), get(again, "task-3")])
    for reader in (again, *readers(host)):
        assert ids(reader.records()) == ["task-2"]


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    no_home = mock.Mock(side_effect=LocalFileError("this user has no home directory"))
    monkeypatch.setattr("flux_cli.storage.history.state_directory", no_home)
    assert list(open_readonly().records()) == []
    with pytest.raises(LocalFileError):
        History()


def test_an_old_history_on_a_shared_file_system(host: Host, old_file: Path, tmp_path: Path) -> None:
    """It is read, and neither converted nor written: another host may be doing the same."""
    (tmp_path / "shared").mkdir()
    shared = tmp_path / "shared" / "history.sqlite3"
    shared.write_bytes(old_file.read_bytes())
    history = host("one")
    assert ids(history.records()) == ["task-1", "task-0"]
    (unsaved,) = history.unsaved(SERVICE)
    history.ended(history.adopt(unsaved), Status.FINISHED, path="/x.png")
    assert list(host("two").unsaved(SERVICE)) == []
    assert history.problems() == []
    assert shared.read_bytes() == old_file.read_bytes()


def test_damaged_files_of_other_hosts(host: Host, tmp_path: Path) -> None:
    """Each costs its records and one warning, even if the damage shows only on reading."""
    with closing(host("two")) as two, two.transaction():
        for n in range(100):
            add(two, f"theirs-{n}", prompt="x" * 1000)
    add(host("one"), "task-1")
    path = tmp_path / "shared" / "history-two-00000000.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    path.with_name("history-three-00000000.sqlite3").write_bytes(b"not a database at all" * 100)
    for reader in (host("one"), open_readonly()):
        assert "task-1" in ids(reader.records())
        assert [re.findall("history-[a-z]+", problem) for problem in reader.problems()] == [
            ["history-three"],
            ["history-two"],
        ]


def test_a_copy_of_the_history_is_not_read(history: History) -> None:
    """A backup beside it would show every task twice."""
    add(history, "task-1")
    (history.path.parent / "history-backup.sqlite3").write_bytes(history.path.read_bytes())
    assert ids(History(history.path).records()) == ["task-1"]


# Several processes


WRITER = """
for index in range(30):
    (number,) = patiently(lambda: history.begin("service", [{"prompt": f"{sys.argv[2]} {index}"}]), 60)
    patiently(lambda: history.accepted(number, f"task-{sys.argv[2]}-{index}"), 60)
    patiently(lambda: history.ended(number, Status.FINISHED, path="x"), 60)
"""


def test_ten_processes_that_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.sqlite3"
    assert outputs([start(path, WRITER, str(name)) for name in range(10)]) == [(b"", b"", 0)] * 10
    records = list(History(path).records())
    assert len({record.task_id for record in records}) == len({record.prompt for record in records}) == 300
    assert {(record.status, record.path) for record in records} == {(Status.FINISHED, "x")}


PLANS: dict[str, Callable[[History], Iterable[object]]] = {
    "the newest ones": lambda history: history.records(10),
    "one by its ID": lambda history: [history.find("task-7")],
    "those of a status": lambda history: history.records(10, statuses=[Status.FAILED]),
    "what is unsaved": lambda history: history.unsaved(SERVICE),
    "a batch's row": lambda history: [history.newest_of_row(SERVICE, "batch", "row")],
    "one by its picture": lambda history: history._select("sha256 = ?", "00"),
}


@pytest.mark.parametrize("query", PLANS)
def test_queries_use_indexes(history: History, query: str) -> None:
    """SQLite's own plan: no query scans or sorts the table."""
    statements: list[str] = []
    history._connection.set_trace_callback(statements.append)
    list(PLANS[query](history))
    history._connection.set_trace_callback(None)
    for statement in statements:
        if statement.startswith(("SELECT", "UPDATE")):
            plan = history._connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            for *_, step in plan:
                assert "TEMP B-TREE" not in step
                assert "SCAN" not in step


# What the commands record

FAILED = {"task_id": "task-0", "status": "failed", "error": "no"}


def test_intent_and_id_are_recorded_before_the_next_request(cli: Cli) -> None:
    """The server reads the history when the submission and the status check arrive."""
    seen: list[list[Record]] = []

    def look(request: Request) -> bytes:
        seen.append(list(History(cli.history_file).records()))
        return submitted(request) if request.method == "POST" and len(seen) == 1 else reply(FAILED)

    with Server({"/flux-imagine": look, "/fetch": look}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        assert cli("imagine", "a cat", "--seed", "5").code == 4
    assert [(each.status, each.task_id, each.request["seed"]) for (each,) in seen] == [
        (Status.UNKNOWN, None, 5),
        (Status.PROCESSING, "task-0", 5),
    ]


def test_images_and_secrets_are_not_recorded(cli: Cli) -> None:
    """An image prompt is described, a webhook secret left out, and a data URL, the picture itself, is cut."""
    image = png(30_000)
    (cli.cwd / "in.png").write_bytes(image)
    url = "data:image/png;base64," + base64.b64encode(png(500_000)).decode()
    flags = "--image-prompt in.png -o x.png --webhook-url http://127.0.0.1:9/ --webhook-secret whsec-12345"
    with Server({"/fetch": reply({"image_url": url})}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        done = cli("imagine", "a cat", *flags.split())
        assert done.code == 0, done.stderr
    (record,) = cli.history()
    assert record["request"]["image_prompt"]["bytes"] == len(image)
    assert "webhook_secret" not in record["request"]
    assert record["image_url"].startswith("data:image/png;base64,")
    assert sum(path.stat().st_size for path in cli.history_file.parent.glob("history*")) < 200_000


def test_threads_that_create_the_history_at_the_same_time(tmp_path: Path) -> None:
    """None mistakes an incomplete file for another program's, or fails because it is locked."""

    def open_at(path: Path, start: threading.Barrier) -> None:
        start.wait()
        History(path).close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            start = threading.Barrier(8)
            path = tmp_path / str(number) / "history.sqlite3"
            for opened in [pool.submit(open_at, path, start) for _ in range(8)]:
                opened.result()
