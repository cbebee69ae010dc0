"""The rows of the table of faults, how they are run, and what must be true after every fault."""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from flux_cli import sandbox
from flux_cli.api.task import Status
from flux_cli.pictures.formats import SNIFF_BYTES, find_damage, sniff
from flux_cli.storage.files import PREFIX
from flux_cli.storage.history import History
from flux_cli.storage.record import Record
from tests.conftest import KEY, Cli, Done
from tests.server import Reply, Server

IMAGINE = "imagine --width 256 --height 256"
BRIEF = f"{IMAGINE} --timeout 5"
STATUSES = {
    "/flux-imagine": {0: Status.FINISHED, 2: Status.FAILED, 3: Status.FAILED, 5: Status.UNSENT, 9: Status.UNKNOWN},
    "/fetch": {0: Status.FINISHED, 4: Status.FAILED},
    "/image": {},
}
OTHERWISE = {"/flux-imagine": Status.UNKNOWN, "/fetch": Status.PROCESSING, "/image": Status.FINISHED}
"""What the history says, by the request that meets the fault and the exit code."""


@dataclass(frozen=True)
class Row:
    """A fault and its required outcome; there is a picture if the exit code is 0, and nothing else.

    Attributes:
        path: The request that meets the fault.
        fault: What goes wrong.
        how: What a prompt says that makes the sandbox do it, or the response of a server, or that server.
        code: The exit code.
        says: Patterns that stderr matches.
        submissions: How many submissions the server saw.
        pictures: How many pictures there are if the exit code is 0.
        command: The command; the prompt is added.
        url: The API's URL, from the server's `{url}` and `{port}`.
    """

    path: str
    fault: str
    how: str | Reply | Server
    code: int = 0
    says: tuple[str, ...] = ()
    submissions: int = 1
    pictures: int = 1
    command: str = IMAGINE
    url: str = "{url}"

    @property
    def status(self) -> Status:
        return STATUSES[self.path].get(self.code, OTHERWISE[self.path])

    def server(self, directory: Path) -> "AbstractContextManager[Server | sandbox.Running]":
        if isinstance(self.how, str):
            return sandbox.running(directory, seconds=0.05)
        if isinstance(self.how, Server):  # a new one, since it keeps what it received
            return Server(self.how.routes, self.how.greeting, reads=self.how.reads)
        return Server({self.path: self.how})


def row(path: str) -> Callable[..., Row]:
    def make(fault: str, how: str | Reply | Server, code: int = 0, *says: str, **others: object) -> Row:
        return Row(path, fault, how, code, says, **others)  # type: ignore[arg-type]

    return make


def check(row: Row, cli: Cli) -> None:
    """Run a row and compare."""
    with row.server(cli.home.parent / "sandbox") as server:
        cli.env |= {"APIFRAME_API_KEY": KEY}
        cli.env["FLUX_CLI_API_URL"] = row.url.format(url=server.url, port=server.url.rpartition(":")[2])
        magic = f" {row.how}" if isinstance(row.how, str) else ""
        done = cli(*shlex.split(row.command), f"a cat{magic}", timeout=15)
        stats = server if isinstance(server, Server) else server.stats
        leaks = len(with_key(server)) if isinstance(server, Server) else server.stats.leaked_keys
        wrong = [*complaints(row, done, stats.submissions, cli), *always(done, leaks, cli)]
    assert not wrong, "\n".join([*wrong, done.stdout, done.stderr])


def with_key(server: Server) -> list[str]:
    """Return the paths, other than the API's, to which the key was sent."""
    return [request.path for request in server.requests("/image") if "authorization" in request.headers]


def records(cli: Cli) -> list[Record]:
    """Return the records of the history, if there is one."""
    if not cli.history_file.is_file():
        return []
    with contextlib.closing(History(cli.history_file)) as history:
        return list(history.records())


def complaints(row: Row, done: Done, submissions: int, cli: Cli) -> Iterator[str]:
    """Yield every difference from the row."""
    if done.code != row.code:
        yield f"exit code {done.code} instead of {row.code}"
    if submissions != row.submissions:
        yield f"{submissions} submissions instead of {row.submissions}"
    if len(pictures(cli)) != (0 if row.code else row.pictures):
        yield f"the pictures are {[path.name for path in pictures(cli)]}"
    for pattern in row.says:
        if not re.search(pattern, done.stderr):
            yield f"stderr does not say {pattern!r}"
    if (statuses := [record.status for record in records(cli)]) != [row.status]:
        yield f"the history says {statuses} instead of {row.status}"


def pictures(cli: Cli) -> list[Path]:
    """Return all files in the working directory that a row does not need."""
    return [cli.cwd / name for name in cli.files() if name != "large.png"]


def always(done: Done, leaks: int, cli: Cli) -> Iterator[str]:
    """Yield violations of what must be true after every fault."""
    for path in pictures(cli):
        if not is_whole(path):
            yield f"{path.name} is not a whole picture"
    if done.code and not re.search(r"^error: .", done.stderr, re.MULTILINE):
        yield "no error on stderr"
    if "Traceback" in done.stderr or "error: unexpected" in done.stderr:
        yield "it looks like a bug"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", done.stderr):
        yield "control characters on stderr"
    if leaks:
        yield "the key was sent to another server"
    files = [path for path in cli.home.rglob("*") if path.is_file()]
    if KEY in done.stdout + done.stderr or any(KEY.encode() in path.read_bytes() for path in files):
        yield "the key is in the output or in a file"
    for record in records(cli):
        alive = record.task_id and record.status in (Status.PROCESSING, Status.FINISHED) and not record.path
        if alive and not re.search(
            rf"resume with: flux-cli wait {re.escape(record.task_id or '')}\b", done.stderr
        ):
            yield "stderr does not say how to wait for the charged task"
        if record.status is Status.UNKNOWN and not re.search(UNKNOWN, done.stderr):
            yield "stderr does not say that it may have been charged, and how to find out"


UNKNOWN = r"may have been accepted and charged[\s\S]*`flux-cli history` and `flux-cli account`"


def is_whole(path: Path) -> bool:
    """Return whether a file is a whole picture with a name of its own."""
    with path.open("rb") as file:
        kind = sniff(file.read(SNIFF_BYTES))
        return not path.name.startswith(PREFIX) and kind is not None and find_damage(file, kind) is None
