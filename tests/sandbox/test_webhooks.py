"""The sandbox's webhooks, received by a plain server."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux_cli.sandbox import running, webhooks
from flux_cli.sandbox.faults import FAULTS, Stage, faults_in
from flux_cli.sandbox.tasks import Task
from tests.conftest import wait_until
from tests.sandbox.conftest import Api, Start, exchange


@dataclass
class Receiver:
    """The secret and the object of each post, in order.

    Attributes:
        rejections: How many posts get a 500 first.
        responds: Posts get a response while this is set.
    """

    url: str = ""
    rejections: int = 0
    responds: threading.Event = field(default_factory=threading.Event)
    secrets: list[str | None] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def statuses(self) -> list[str]:
        """The statuses, in order."""
        return [event["status"] for event in self.events]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback that receives webhooks."""
    received = Receiver()
    received.responds.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.secrets.append(self.headers["x-webhook-secret"])
            received.events.append(json.loads(body))
            received.responds.wait(10)
            received.rejections -= 1
            self.send_response(500 if received.rejections >= 0 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_updates_and_the_result(start: Start, receiver: Receiver) -> None:
    """The objects of /fetch, with the secret; the result's URL leads to the picture."""
    api = start(seconds=0.8)
    task_id = api.submit("a kite", webhook_url=receiver.url, webhook_secret="hush-123")
    wait_until(lambda: "finished" in receiver.statuses)
    assert receiver.statuses == ["processing", "processing", "finished"]
    assert set(receiver.secrets) == {"hush-123"}
    assert receiver.events[0]["percentage"] < receiver.events[1]["percentage"]
    assert receiver.events[2] == api.fetch(task_id).json()
    assert exchange("GET", receiver.events[2]["image_url"]).status == 200
    wait_until(lambda: api.service.stats.webhooks == 3)


def test_schedule() -> None:
    """Updates at the start and halfway, then the result; none after a failure's end, and no end for `never`."""

    def times(prompt: str) -> list[float | None]:
        task = Task("t", 100, 10, 1, {}, faults_in(prompt))
        return [webhooks.next_event(task, event) for event in (0, 1)]

    assert times("") == [105, 110]
    assert times("[[moderated]]") == [101, 101]
    assert times("[[never]]") == [105, None]


def test_without_a_secret(api: Api, receiver: Receiver) -> None:
    """The header is absent, not empty; a failure is posted as well."""
    api.submit("a kite [[fail]]", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["failed"])
    assert receiver.secrets == [None]
    assert receiver.events[0]["errors"]


def test_retries(api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is posted until the receiver accepts it; then nothing follows."""
    monkeypatch.setattr(webhooks, "BACKOFF", (0.01, 0.01, 0.01))
    receiver.rejections = 2
    api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: api.service.stats.webhooks == 1)
    assert receiver.statuses == ["finished"] * 3
    assert api.service.stats.webhook_failures == 2


def test_failing_receivers_do_not_affect_others(api: Api, receiver: Receiver) -> None:
    """Nobody listens, or the secret is not a header."""
    api.submit("a kite", webhook_url="http://127.0.0.1:9/nobody")
    api.submit("a kite", webhook_url=receiver.url, webhook_secret="a\r\nX-Evil: 1")
    wait_until(lambda: api.service.stats.webhook_failures >= 2)
    assert receiver.events == []
    api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["finished"])


def test_a_later_server_posts_what_is_left(tmp_path: Path, receiver: Receiver) -> None:
    """A command that submits and ends leaves its webhooks to `flux-cli sandbox`."""
    with running(tmp_path, seconds=2) as first:
        Api(first).submit("a kite", webhook_url=receiver.url)
    assert "finished" not in receiver.statuses
    with running(tmp_path) as second:
        wait_until(lambda: "finished" in receiver.statuses)
        wait_until(lambda: second.stats.webhooks >= 1)
        assert receiver.statuses.count("finished") == 1
        assert receiver.events[-1]["image_url"].startswith(second.images_url)


def test_a_post_during_the_end_of_a_server_is_not_repeated(tmp_path: Path, receiver: Receiver) -> None:
    """A slow receiver gets a moment to answer; the next server knows that it did."""
    receiver.responds.clear()
    with running(tmp_path, seconds=0) as first:
        Api(first).submit("a kite", webhook_url=receiver.url)
        wait_until(lambda: receiver.events)
        threading.Timer(0.05, receiver.responds.set).start()
    with running(tmp_path, seconds=0) as second:
        Api(second).submit("a cat", webhook_url=receiver.url)
        wait_until(lambda: second.stats.webhooks == 1)
    ids = [event["task_id"] for event in receiver.events]
    assert len(ids) == len(set(ids)) == 2


def test_several_servers_post_an_event_once(start: Start, receiver: Receiver) -> None:
    """Each event is claimed by one of them."""
    apis = [start() for _ in range(3)]
    for api in apis:
        for _ in range(4):
            api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: sum(api.service.stats.webhooks for api in apis) >= 12)
    assert len({event["task_id"] for event in receiver.events}) == len(receiver.events) == 12


REMOTE = (
    "https://example.com/hook",
    "http://10.0.0.1/",
    "http://0.0.0.0:80/",
    "http://127.0.0.1.nip.io/",
    "http://localhost.example.com/",
    "http://2130706433/",
    "http://127.1/",
    "http://[::ffff:10.0.0.1]/",
    "http://127.0.0.1@example.com/",
    "http://169.254.169.254/latest/meta-data",
)


def test_other_machines_need_an_option(start: Start) -> None:
    """Otherwise the submission is rejected, naming the option; host names are not resolved."""
    api, allowed = start(), start(allow_remote_webhooks=True)
    for url in REMOTE:
        rejected = api.imagine("a kite", webhook_url=url)
        assert rejected.status == 400
        assert "--allow-remote-webhooks" in rejected.reasons[0]
        assert allowed.imagine("a kite [[webhook-never]]", webhook_url=url).status == 200
    for host in ("127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "[::1]"):
        assert api.imagine("a kite [[webhook-never]]", webhook_url=f"http://{host}:9/hook").status == 200


def _twice(receiver: Receiver) -> bool:
    return receiver.statuses == ["finished", "finished"] and receiver.events[0] == receiver.events[1]


CHECKS: dict[str, Callable[[Receiver], bool]] = {
    "webhook-twice": _twice,
    "webhook-out-of-order": lambda receiver: receiver.statuses[-2:] == ["finished", "processing"],
    "webhook-no-secret": lambda receiver: receiver.secrets == [None],
    "webhook-wrong-secret": lambda receiver: receiver.secrets == ["wrong"],
    "webhook-never": lambda receiver: receiver.statuses == ["failed"],  # that of another task
}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.stage is Stage.WEBHOOK])
def test_faults(start: Start, receiver: Receiver, name: str) -> None:
    """Each fault of the webhooks."""
    api = start(seconds=0.2 if name == "webhook-out-of-order" else 0)
    api.submit(f"a kite [[{name}]]", webhook_url=receiver.url, webhook_secret="hush")
    if name == "webhook-never":
        api.submit("a kite [[fail]]", webhook_url=receiver.url)
    wait_until(lambda: CHECKS[name](receiver))
