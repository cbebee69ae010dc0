"""`kill -9` at random moments: what was paid for is known afterwards, and nothing half-written has a name."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

from flux_cli.api.task import Status
from flux_cli.storage.files import PREFIX
from tests.conftest import KEY, Cli
from tests.faults.table import is_whole, records
from tests.faults.warm import WarmCli
from tests.server import Request, Server, Step, finished, http, png, reply

KILLS = 56
AT_ONCE = 6
TASK_SECONDS = 0.3
MOMENTS = {
    "started": 0.8,
    "submission received": 0.0,
    "submission answered": 0.05,
    "asked for": 0.02,
    "picture begun": 0.0,
    "picture half sent": 0.03,
    "picture sent": 0.03,
}
"""When a command is killed: so many seconds, at most, after the server saw this of it."""
PICTURE = png(300_000)


class Street:
    """A server, the commands that talk to it, and what kills them."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.victims: dict[str, tuple[BaseProcess, str]] = {}
        self.task_ids: dict[str, str] = {}
        self.due: dict[str, float] = {}

    def routes(self) -> Server:
        """Return the server."""
        return Server({"/flux-imagine": self.submit, "/fetch": self.fetch, "/image": self.image})

    def comes_to(self, prompt: str, moment: str) -> None:
        """Kill the command with this prompt if this is its moment."""
        process, fate = self.victims.get(prompt, (None, None))
        if process is not None and fate == moment:
            threading.Timer(self.dice.uniform(0, MOMENTS[moment]), process.kill).start()

    def submit(self, request: Request) -> Iterator[Step]:
        """Accept a submission."""
        prompt = request.json()["prompt"]
        task_id = f"task-{prompt.replace(' ', '-')}"
        self.comes_to(prompt, "submission received")
        self.task_ids[task_id], self.due[task_id] = prompt, time.monotonic() + TASK_SECONDS
        yield reply({"task_id": task_id})
        self.comes_to(prompt, "submission answered")

    def fetch(self, request: Request) -> Iterator[Step]:
        """Say how a task stands."""
        task_id = request.json()["task_id"]
        self.comes_to(self.task_ids[task_id], "asked for")
        done = time.monotonic() >= self.due[task_id]
        yield reply(finished(task_id, request.origin) if done else {"task_id": task_id, "status": "processing"})

    def image(self, request: Request) -> Iterator[Step]:
        """Send a picture in two halves."""
        prompt = self.task_ids[Path(request.path).stem]
        self.comes_to(prompt, "picture begun")
        yield http(200, PICTURE)[: len(PICTURE) // 2]
        self.comes_to(prompt, "picture half sent")
        yield 0.02
        yield http(200, PICTURE)[len(PICTURE) // 2 :]
        self.comes_to(prompt, "picture sent")


def test_killed_at_any_moment(cli: Cli) -> None:
    """Each submission is in the history, those without an id as unknown; the rest can be waited for."""
    dice = random.Random(3)  # noqa: S311 - no secret
    street = Street(dice)
    with street.routes() as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}

        def run(number: int) -> int:
            prompt = f"victim {number}"
            running = WarmCli.of(cli).begin("imagine", prompt)
            street.victims[prompt] = (running.process, list(MOMENTS)[number % len(MOMENTS)])
            street.comes_to(prompt, "started")
            return running.wait().code

        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(run, range(KILLS)))
        assert set(codes) <= {0, -9}
        assert codes.count(-9) > KILLS / 2
        bought = {request.json()["prompt"] for request in server.requests("/flux-imagine")}
        assert len(bought) == server.submissions

        kept = {record.prompt: record for record in records(cli)}
        assert bought <= set(kept)
        for record in kept.values():
            assert record.status in (Status.UNKNOWN, Status.PROCESSING, Status.FINISHED)
            assert (record.task_id is None) == (record.status is Status.UNKNOWN)
            assert record.task_id is None or street.task_ids[record.task_id] == record.prompt
            assert record.path is None or is_whole(Path(record.path))
        assert all(is_whole(cli.cwd / name) for name in cli.files() if not name.startswith(PREFIX))
        assert any(record.status is Status.UNKNOWN for record in kept.values())
        unsaved = [record for record in kept.values() if record.task_id and not record.path]
        assert unsaved

        done = cli("wait", "--all", "-q")
        assert done.code == 0, done.stderr
        assert server.submissions == len(bought)
    kept = {record.prompt: record for record in records(cli)}
    assert all(is_whole(Path(record.path or "")) for record in kept.values() if record.task_id)
    assert not [name for name in cli.files() if name.startswith(PREFIX)], "leftovers were not swept"
