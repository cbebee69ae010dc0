"""The rows of the tables of faults, how they are run, and what must be true after every fault."""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flux_cli import sandbox
from flux_cli.api.task import Status
from flux_cli.pictures.formats import SNIFF_BYTES, find_damage, sniff
from flux_cli.storage.files import PREFIX
from flux_cli.storage.history import History
from flux_cli.storage.record import Record
from tests.conftest import KEY, Cli, Done, new_cli
from tests.server import Server


@dataclass(frozen=True)
class Row:
    """A fault and its required outcome.

    Attributes:
        fault: What goes wrong.
        code: The exit code.
        submissions: How many submissions the server saw.
        pictures: How many pictures are left; nothing else may be.
        says: Patterns that stderr matches.
        status: What the history says; None if it has no record.
        magic: What a prompt says that makes the sandbox do it.
        server: Makes a server with the fault, if the sandbox cannot have it.
        command: The command; the prompt is added.
        url: The API's URL, from the server's `{url}` and `{port}`.
        prepare: Makes the fault in the command's home.
        env: More environment variables.
    """

    fault: str
    code: int
    submissions: int = 1
    pictures: int = 0
    says: tuple[str, ...] = ()
    status: Status | None = Status.UNKNOWN
    magic: str = ""
    server: Callable[[], Server] | None = None
    command: str = "imagine --width 256 --height 256"
    url: str = "{url}"
    prepare: Callable[[Cli], None] | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def until_deadline(self) -> bool:
        """Whether the command lasts as long as its `--timeout`."""
        return "--timeout" in self.command


@dataclass(frozen=True)
class Outcome:
    """The outcome of a row."""

    done: Done
    submissions: int
    files: list[Path]
    records: list[Record]
    leaks: int
    home: Path


def run(row: Row, cli: Cli) -> Outcome:
    """Run one row."""
    with served(row, cli.home.parent) as (url, submissions, leaks):
        api_url = row.url.format(url=url, port=url.rpartition(":")[2])
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": api_url, **row.env}
        if row.prepare:
            row.prepare(cli)
        before = set(cli.files())
        done = cli(*shlex.split(row.command), f"a cat {row.magic}".strip(), timeout=15)
        files = [cli.cwd / name for name in cli.files() if name not in before]
        return Outcome(done, submissions(), files, records(cli), leaks(), cli.home)


@contextlib.contextmanager
def served(row: Row, directory: Path) -> Iterator[tuple[str, Callable[[], int], Callable[[], int]]]:
    """Run the row's server; yield its URL and what counts the submissions and the leaks that it saw."""
    server: AbstractContextManager[Server | sandbox.Running]
    server = row.server() if row.server else sandbox.running(directory / "sandbox", seconds=0.05)
    with server as running:
        if isinstance(running, Server):
            yield running.url, lambda: running.submissions, lambda: len(with_key(running))
        else:
            stats = running.stats
            yield running.url, lambda: stats.submissions, lambda: stats.leaked_keys


def with_key(server: Server) -> list[str]:
    """Return the paths, other than the API's, to which the key was sent."""
    return [request.path for request in server.requests("/image") if "authorization" in request.headers]


def records(cli: Cli) -> list[Record]:
    """Return the records of the history, if it can be read."""
    if not cli.history_file.is_file():
        return []
    history = History(cli.history_file)
    try:
        return list(history.records())
    finally:
        history.close()


def complaints(row: Row, outcome: Outcome) -> Iterator[str]:
    """Yield every difference from the row, and every violation of the general rules."""
    done = outcome.done
    if done.code != row.code:
        yield f"exit code {done.code} instead of {row.code}"
    if outcome.submissions != row.submissions:
        yield f"{outcome.submissions} submissions instead of {row.submissions}"
    if len(outcome.files) != row.pictures:
        yield f"{[path.name for path in outcome.files]} instead of {row.pictures} pictures"
    for pattern in row.says:
        if not re.search(pattern, done.stderr):
            yield f"stderr does not say {pattern!r}"
    statuses = [record.status for record in outcome.records]
    if statuses != ([] if row.status is None else [row.status]):
        yield f"the history says {statuses} instead of {row.status}"
    yield from _always(outcome)


def _always(outcome: Outcome) -> Iterator[str]:
    """Yield violations of what must be true after every fault."""
    done = outcome.done
    for path in outcome.files:
        if not is_whole(path):
            yield f"{path.name} is not a whole picture"
    if done.code and not re.search(r"^error: .", done.stderr, re.MULTILINE):
        yield "no error on stderr"
    if "Traceback" in done.stderr or "error: unexpected" in done.stderr:
        yield "it looks like a bug"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", done.stderr):
        yield "control characters on stderr"
    if outcome.leaks:
        yield "the key was sent to another server"
    for where, text in {"stdout": done.stdout, "stderr": done.stderr}.items():
        if KEY in text:
            yield f"the key is on {where}"
    for path in outcome.home.rglob("*"):
        if path.is_file() and KEY.encode() in path.read_bytes():
            yield f"the key is in {path.name}"
    for record in outcome.records:
        alive = record.task_id and record.status in (Status.PROCESSING, Status.FINISHED) and not record.path
        if alive and not re.search(rf"flux-cli wait {re.escape(record.task_id or '')}\b", done.stderr):
            yield "stderr does not say how to wait for the paid task"
        if record.status is Status.UNKNOWN and "may have been accepted and charged" not in done.stderr:
            yield "stderr does not say that it may have been billed"


def is_whole(path: Path) -> bool:
    """Say whether a file is a whole picture with a name of its own."""
    with path.open("rb") as file:
        kind = sniff(file.read(SNIFF_BYTES))
        return not path.name.startswith(PREFIX) and kind is not None and find_damage(file, kind) is None


def each(*tables: list[Row]) -> pytest.MarkDecorator:
    """Run a test once for each row that does not last until a deadline."""
    rows = [row for table in tables for row in table if not row.until_deadline]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.fault[:60])


def check(row: Row, cli: Cli) -> None:
    """Run a row and compare."""
    outcome = run(row, cli)
    wrong = list(complaints(row, outcome))
    assert not wrong, "\n".join([*wrong, outcome.done.stdout, outcome.done.stderr])


def check_deadlines(tables: list[list[Row]], directory: Path, subtests: pytest.Subtests) -> None:
    """Run the rows that last until a deadline, as processes and all at the same time, since they only wait."""
    rows = [row for table in tables for row in table if row.until_deadline]
    clis = [new_cli(directory / str(number)) for number in range(len(rows))]
    with ThreadPoolExecutor(len(rows)) as pool:
        ended = [pool.submit(check, row, cli) for row, cli in zip(rows, clis, strict=True)]
    for row, outcome in zip(rows, ended, strict=True):
        with subtests.test(row.fault):
            outcome.result()
