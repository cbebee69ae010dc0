"""`kill -9` at random moments: every submission is recorded, and no incomplete file has a final name."""

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from flux_cli.storage.files import PREFIX
from tests.conftest import KEY, Cli
from tests.faults.table import is_whole, records
from tests.server import Request, Server, Step, finished, http, png, reply

KILLS = 56
AT_ONCE = 6
TASK_SECONDS = 0.3
MOMENTS = {
    "started": 0.8,
    "submission received": 0.0,
    "response sent": 0.05,
    "checked": 0.02,
    "picture begun": 0.0,
    "picture half sent": 0.03,
    "picture sent": 0.03,
}
"""When a command is killed: at most this many seconds after this event at the server."""
PICTURE = png(300_000)


class Killer:
    """A server that kills the commands that use it."""

    def __init__(self, random_source: random.Random) -> None:
        self.random = random_source
        self.processes: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
        self.task_ids: dict[str, str] = {}
        self.due: dict[str, float] = {}

    def server(self) -> Server:
        return Server({"/flux-imagine": self.submit, "/fetch": self.fetch, "/image": self.image})

    def reached(self, prompt: str, moment: str) -> None:
        """Kill the command with this prompt if this is the moment chosen for it."""
        process, chosen = self.processes.get(prompt, (None, None))
        if process is not None and chosen == moment:
            threading.Timer(self.random.uniform(0, MOMENTS[moment]), process.kill).start()

    def submit(self, request: Request) -> Iterator[Step]:
        prompt = request.json()["prompt"]
        task_id = f"task-{prompt.replace(' ', '-')}"
        self.reached(prompt, "submission received")
        self.task_ids[task_id], self.due[task_id] = prompt, time.monotonic() + TASK_SECONDS
        yield reply({"task_id": task_id})
        self.reached(prompt, "response sent")

    def fetch(self, request: Request) -> Iterator[Step]:
        task_id = request.json()["task_id"]
        self.reached(self.task_ids[task_id], "checked")
        done = time.monotonic() >= self.due[task_id]
        yield reply(finished(task_id, request.origin) if done else {"task_id": task_id, "status": "processing"})

    def image(self, request: Request) -> Iterator[Step]:
        prompt = self.task_ids[Path(request.path).stem]
        self.reached(prompt, "picture begun")
        yield http(200, PICTURE)[: len(PICTURE) // 2]
        self.reached(prompt, "picture half sent")
        yield 0.02
        yield http(200, PICTURE)[len(PICTURE) // 2 :]
        self.reached(prompt, "picture sent")


@pytest.mark.slow
def test_killed_at_any_moment(cli: Cli) -> None:
    """Each submission is in the history, as unknown if it has no ID; the others can be waited for."""
    killer = Killer(random.Random(3))  # noqa: S311 - no secret
    with killer.server() as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}

        def run(number: int) -> int:
            prompt = f"kite {number}"
            running = cli.start("imagine", prompt)
            killer.processes[prompt] = (running, list(MOMENTS)[number % len(MOMENTS)])
            killer.reached(prompt, "started")
            running.communicate()
            return running.returncode

        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(run, range(KILLS)))
        assert set(codes) <= {0, -9}
        assert codes.count(-9) > KILLS / 2
        submitted = {request.json()["prompt"] for request in server.requests("/flux-imagine")}
        assert len(submitted) == server.submissions

        kept = {record.prompt: record for record in records(cli)}
        assert submitted <= set(kept)
        for record in kept.values():
            assert record.status in (Status.UNKNOWN, Status.PROCESSING, Status.FINISHED)
            assert (record.task_id is None) == (record.status is Status.UNKNOWN)
            assert record.task_id is None or killer.task_ids[record.task_id] == record.prompt
            assert record.path is None or is_whole(Path(record.path))
        assert all(is_whole(cli.cwd / name) for name in cli.files() if not name.startswith(PREFIX))
        assert any(record.status is Status.UNKNOWN for record in kept.values())
        unsaved = [record for record in kept.values() if record.task_id and not record.path]
        assert unsaved

        done = cli("wait", "--all", "-q")
        assert done.code == 0, done.stderr
        assert server.submissions == len(submitted)
    kept = {record.prompt: record for record in records(cli)}
    assert all(is_whole(Path(record.path or "")) for record in kept.values() if record.task_id)
    assert not [name for name in cli.files() if name.startswith(PREFIX)], "leftovers were not swept"
