"""The history: written before money is spent, by many at once, read as fast with 100,000 records as with ten."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.task import Status
from flux_cli.errors import LocalFileError
from flux_cli.storage.history import VERSION, History, Record
from tests.conftest import KEY, Cli
from tests.faults.wire import Request, Wire, http, submitted, told

SERVICE = "https://api.example"


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history."""
    return History(tmp_path / "state" / "history.sqlite3")


def a_request(prompt: str = "a cat") -> dict[str, object]:
    """Return what is recorded of a request."""
    return {"model": "flux-pro", "prompt": prompt, "seed": 7}


def only(history: History) -> Record:
    """Return the only record."""
    (record,) = history.records()
    return record


def test_a_life(history: History) -> None:
    """Unknown when it is sent, processing with an id, finished without a path, then with one."""
    (number,) = history.begin(SERVICE, [a_request()])
    assert (only(history).status, only(history).task_id) == (Status.UNKNOWN, None)
    assert only(history).request == a_request()
    history.accepted(number, "task-0")
    assert only(history).status is Status.PROCESSING
    assert [record.task_id for record in history.unsaved(SERVICE)] == ["task-0"]
    history.ended(number, Status.FINISHED, image_url="https://x/y.png")
    assert [record.task_id for record in history.unsaved(SERVICE)] == ["task-0"]
    history.ended(number, Status.FINISHED, path="/x/y.png")
    assert list(history.unsaved(SERVICE)) == []
    record = only(history)
    assert (record.path, record.image_url, record.number) == ("/x/y.png", "https://x/y.png", number)
    assert record.ended is not None
    assert record.ended >= record.created
    assert history.find("task-0") == record
    assert history.find("task-1") is None


def test_what_counts_as_unsaved(history: History) -> None:
    """Tasks of this service that run or are finished without a file; the newest first."""
    numbers = history.begin(SERVICE, [a_request()] * 5)
    for number in numbers[:4]:
        history.accepted(number, f"task-{number}")
    history.ended(numbers[1], Status.FAILED, error="no")
    history.ended(numbers[2], Status.FINISHED)
    history.ended(numbers[3], Status.FINISHED, path="-")
    (other,) = history.begin("sandbox", [a_request()])
    history.accepted(other, "elsewhere")
    assert [record.number for record in history.unsaved(SERVICE)] == [numbers[2], numbers[0]]
    assert [record.number for record in history.unsaved(SERVICE, 1)] == [numbers[2]]


def test_search_and_status(history: History) -> None:
    """In prompt, id and path, whatever the case; percent signs and quotes mean themselves."""
    numbers = history.begin(SERVICE, [a_request(prompt) for prompt in ("A Cat", "a dog", "100% 'x' _\\")])
    history.accepted(numbers[0], "TASK-abc")
    history.ended(numbers[1], Status.FAILED, path="/Pictures/z.png")
    found = {
        text: [record.number for record in history.records(search=text)]
        for text in ("cat", "task-A", "pictures", "%", "'", "_\\", "nothing")
    }
    assert found["cat"] == found["task-A"] == [numbers[0]]
    assert found["pictures"] == [numbers[1]]
    assert found["%"] == found["'"] == found["_\\"] == [numbers[2]]
    assert found["nothing"] == []
    assert [record.number for record in history.records(status=Status.FAILED)] == [numbers[1]]
    assert [record.number for record in history.records(2)] == [numbers[2], numbers[1]]


ANY_TEXT = st.text(st.characters(codec=None), max_size=50)


@given(prompt=ANY_TEXT, text=ANY_TEXT, search=ANY_TEXT)
def test_any_text_can_be_kept_and_looked_for(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, text: str, search: str
) -> None:
    """A reason, a URL or a path of any kind keeps no record from being written."""
    history = History(tmp_path_factory.mktemp("any") / "history.sqlite3")
    (number,) = history.begin(SERVICE, [a_request(prompt)])
    history.ended(number, Status.FAILED, error=text, image_url=text, path=text, exit_code=4)
    record = only(history)
    assert record.request["prompt"] == prompt
    assert (record.status, record.exit_code) == (Status.FAILED, 4)
    assert list(history.records(search=search)) in ([], [record])
    history.close()


def test_together_is_one_commit_or_none(history: History) -> None:
    """What fails half-way leaves nothing."""

    def half_way() -> None:
        with history.transaction():
            history.begin(SERVICE, [a_request()] * 3)
            raise KeyError

    with pytest.raises(KeyError):
        half_way()
    assert list(history.records()) == []
    with history.transaction():
        (number,) = history.begin(SERVICE, [a_request()])
        history.accepted(number, "task-0")
    assert only(history).task_id == "task-0"


def test_the_file_is_its_owners_alone(history: History) -> None:
    """0600 in a 0700 directory, from the first moment, and so are its companions."""
    history.begin(SERVICE, [a_request()])
    assert history.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in history.path.parent.iterdir()} == {0o600}


def test_durable_before_it_returns(history: History) -> None:
    """WAL, and a commit that returned is on the disk."""
    settings = {}
    with closing(sqlite3.connect(history.path)) as connection:
        settings["mode"] = connection.execute("PRAGMA journal_mode").fetchone()[0]
    settings["synchronous"] = history._connection.execute("PRAGMA synchronous").fetchone()[0]
    assert settings == {"mode": "wal", "synchronous": 2}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 99", f"written by a newer flux-cli (format 99, this one knows {VERSION})"),
        ("PRAGMA application_id = 5", "damaged or not ours"),
        ("UPDATE submissions SET status = 'odd'", "damaged or not ours"),
        ("UPDATE submissions SET request = '{'", "damaged or not ours"),
        ("DROP TABLE submissions", "cannot use the history"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(history: History, statement: str, said: str) -> None:
    """One clear error that names the file; nothing in it is changed."""
    history.begin(SERVICE, [a_request()])
    history.close()
    with closing(sqlite3.connect(history.path)) as connection:
        connection.execute(statement)
        connection.commit()
    before = history.path.read_bytes()
    with pytest.raises(LocalFileError, match=re.escape(said)) as caught:
        list(History(history.path).records())
    assert str(history.path) in caught.value.message or "newer" in said
    assert history.path.read_bytes() == before


# Many at once, and many records

WRITER = """
import sys
import threading
from pathlib import Path
from flux_cli.storage.history import History
from flux_cli.api.task import Status
history = History(Path(sys.argv[1]))
for index in range(30):
    (number,) = history.begin("service", [{"prompt": f"{sys.argv[2]} {index}"}])
    history.accepted(number, f"task-{sys.argv[2]}-{index}")
    history.ended(number, Status.FINISHED, path="x")
"""


def test_ten_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Not a record, not a change, and nobody is told that it is busy."""
    path = tmp_path / "new" / "history.sqlite3"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(name)], stderr=subprocess.PIPE)
        for name in range(10)
    ]
    assert [(writer.communicate(timeout=60)[1], writer.returncode) for writer in writers] == [(b"", 0)] * 10
    records = list(History(path).records())
    assert len({record.task_id for record in records}) == len({record.prompt for record in records}) == 300
    assert {(record.status, record.path) for record in records} == {(Status.FINISHED, "x")}


PLANS: dict[str, Callable[[History], Iterable[object]]] = {
    "the newest ones": lambda history: history.records(10),
    "one by its id": lambda history: [history.find("task-7")],
    "those of a status": lambda history: history.records(10, Status.FAILED),
    "what is unsaved": lambda history: history.unsaved(SERVICE, 10),
    "a batch's row": lambda history: [history.newest_of_row(SERVICE, "batch", "row")],
    "a change by id": lambda history: [history.observed("task-7", Status.FAILED)],  # type: ignore[func-returns-value] # none
}


@pytest.mark.parametrize("question", PLANS)
def test_no_question_reads_or_sorts_all_records(history: History, question: str) -> None:
    """SQLite's own plan: an index finds what is asked for, and its order is the one that is wanted."""
    statements: list[str] = []
    history._connection.set_trace_callback(statements.append)
    list(PLANS[question](history))
    history._connection.set_trace_callback(None)
    for statement in statements:
        if statement.startswith(("SELECT", "UPDATE")):
            plan = history._connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            for *_, step in plan:
                assert "TEMP B-TREE" not in step
                assert "SCAN" not in step or (question == "the newest ones" and step == "SCAN submissions")


# What the commands keep


def test_the_intent_is_on_the_disk_before_the_request_leaves(cli: Cli) -> None:
    """The server itself looks, when the submission arrives."""
    seen: list[list[Record]] = []

    def look(request: Request) -> bytes:
        seen.append(list(History(cli.history_file).records()))
        return submitted(request)

    with Wire({"/flux-imagine": look}) as wire:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": wire.url}
        assert cli("imagine", "a cat", "-n", "2", "--seed", "5").code == 0
    assert [record.status for record in seen[0]] == [Status.UNKNOWN] * 2
    assert sorted(int(str(record.request["seed"])) for record in seen[0]) == [5, 6]


def test_the_id_is_on_the_disk_before_anything_is_asked_or_told(cli: Cli) -> None:
    """The server looks, when the first question comes."""
    seen: list[str | None] = []

    def look(_: Request) -> bytes:
        seen.extend(record.task_id for record in History(cli.history_file).records())
        return told({"task_id": "task-0", "status": "failed", "error": "no"})

    with Wire({"/fetch": look}) as wire:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": wire.url}
        assert cli("imagine", "a cat").code == 4
    assert seen == ["task-0"]


def test_wait_last_and_all(cli: Cli) -> None:
    """What is unsaved is found without an id, the newest first; when there is nothing, that is said."""
    with Wire({"/fetch": http(401), "/fetch-many": http(401)}) as wire:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": wire.url}
        for prompt in ("one", "two", "three"):
            assert cli("imagine", prompt).code == 3
        wire.routes = {}
        assert cli("wait", "--last").stdout == "three-task-2.png\n"
        assert sorted(cli("wait", "--all").lines) == ["one-task-0.png", "two-task-1.png"]
        for which in ("--last", "--all"):
            done = cli("wait", which)
            assert done.code == 2
            assert "no task that is not saved" in done.stderr
        assert wire.submissions == 3


def test_the_images_of_a_request_are_described_not_kept(cli: Cli) -> None:
    """Neither the bytes of an image prompt nor a webhook's secret get into the file."""
    image = b"\x89PNG\r\n\x1a\n" + os.urandom(30_000)
    (cli.cwd / "in.png").write_bytes(image)
    with Wire() as wire:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": wire.url}
        flags = (
            "--image-prompt",
            "in.png",
            "--webhook-url",
            "http://127.0.0.1:9/",
            "--webhook-secret",
            "whsec-12345",
        )
        assert cli("imagine", "a cat", *flags).code == 0
    (record,) = cli.history()
    assert record["request"]["image_prompt"]["bytes"] == len(image)
    assert "webhook_secret" not in record["request"]
    assert sum(path.stat().st_size for path in cli.history_file.parent.glob("history*")) < 200_000


def test_many_that_create_the_history_at_the_same_moment(tmp_path: Path) -> None:
    """None of them takes what the others have half done for another program's data, or for a locked file."""

    def open_at(path: Path, start: threading.Barrier) -> None:
        start.wait()
        History(path).close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            start = threading.Barrier(8)
            path = tmp_path / str(number) / "history.sqlite3"
            for opened in [pool.submit(open_at, path, start) for _ in range(8)]:
                opened.result()
