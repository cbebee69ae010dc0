"""The sandbox's webhooks, received by a plain server."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux_cli.sandbox import running
from flux_cli.sandbox.faults import FAULTS, Stage
from tests.conftest import wait_until
from tests.sandbox.conftest import Api, Start, exchange


@dataclass
class Receiver:
    """What arrived at the webhook URL, in order: the secret and the object of each post.

    Attributes:
        refuse: How many posts are answered with 500 first.
        pause: Seconds that an answer takes.
    """

    url: str = ""
    refuse: int = 0
    pause: float = 0.0
    secrets: list[str | None] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def statuses(self) -> list[str]:
        """The status words, in the order of arrival."""
        return [event["status"] for event in self.events]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback that takes webhooks."""
    received = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.secrets.append(self.headers["x-webhook-secret"])
            received.events.append(json.loads(body))
            time.sleep(received.pause)
            received.refuse -= 1
            self.send_response(500 if received.refuse >= 0 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_updates_and_the_final_result_are_posted_with_the_secret(start: Start, receiver: Receiver) -> None:
    """The same objects as /fetch gives; the picture can be had from the URL in the last."""
    api = start(seconds=3)
    task_id = api.submit("a kite", webhook_url=receiver.url, webhook_secret="hush-123")
    wait_until(lambda: "finished" in receiver.statuses)
    assert receiver.statuses == ["processing", "processing", "finished"]
    assert set(receiver.secrets) == {"hush-123"}
    assert receiver.events[0]["percentage"] < receiver.events[1]["percentage"]
    assert receiver.events[2] == api.fetch(task_id).json()
    assert exchange("GET", receiver.events[2]["image_url"]).status == 200
    wait_until(lambda: api.service.stats.webhooks == 3)


def test_without_a_secret_the_header_is_absent(start: Start, receiver: Receiver) -> None:
    """It is not empty."""
    start(seconds=0).submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["finished"])
    assert receiver.secrets == [None]


def test_a_failure_is_posted_too(start: Start, receiver: Receiver) -> None:
    """With its reason, once."""
    start(seconds=0).submit("a kite [[fail]]", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["failed"])
    assert receiver.events[0]["errors"]


def test_an_event_is_posted_again_until_the_receiver_takes_it(start: Start, receiver: Receiver) -> None:
    """After two failures the third try succeeds, and nothing comes after it."""
    receiver.refuse = 2
    api = start(seconds=0)
    api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: api.service.stats.webhooks == 1)
    assert receiver.statuses == ["finished"] * 3
    assert api.service.stats.webhook_failures == 2


def test_a_receiver_that_is_not_there_does_no_harm(start: Start, receiver: Receiver) -> None:
    """Others get their events meanwhile."""
    api = start(seconds=0)
    api.submit("a kite", webhook_url="http://127.0.0.1:9/nobody")
    wait_until(lambda: api.service.stats.webhook_failures > 0)
    api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["finished"])


def test_a_secret_that_is_no_header_is_a_failure_and_no_end(start: Start, receiver: Receiver) -> None:
    """A line break in it cannot be sent; the server goes on."""
    api = start(seconds=0)
    api.submit("a kite", webhook_url=receiver.url, webhook_secret="a\r\nX-Evil: 1")
    wait_until(lambda: api.service.stats.webhook_failures > 0)
    assert receiver.events == []
    assert api.account()["credits"] == 999


def test_a_server_that_starts_later_posts_what_the_first_one_left(tmp_path: Path, receiver: Receiver) -> None:
    """A command that submits and ends leaves its webhooks to a standing sandbox of the same directory."""
    with running(tmp_path, seconds=1.5) as first:
        Api(first).submit("a kite", webhook_url=receiver.url)
    assert "finished" not in receiver.statuses
    with running(tmp_path) as second:
        wait_until(lambda: "finished" in receiver.statuses)
        wait_until(lambda: second.stats.webhooks >= 1)
        assert receiver.statuses.count("finished") == 1
        assert receiver.events[-1]["image_url"].startswith(second.images_url)


def test_a_post_under_way_when_a_server_ends_is_not_made_again(tmp_path: Path, receiver: Receiver) -> None:
    """A slow receiver is given a moment to answer; the next server knows that it did."""
    receiver.pause = 0.3
    with running(tmp_path, seconds=0) as first:
        Api(first).submit("a kite", webhook_url=receiver.url)
        wait_until(lambda: receiver.events)
    assert receiver.statuses == ["finished"]
    with running(tmp_path) as second:
        Api(second).submit("a cat [[seconds 0]]", webhook_url=receiver.url)
        wait_until(lambda: second.stats.webhooks == 1)
    assert [event["task_id"] for event in receiver.events].count(receiver.events[0]["task_id"]) == 1


def test_several_servers_of_one_directory_post_an_event_once(start: Start, receiver: Receiver) -> None:
    """Whoever takes it keeps the others from it."""
    apis = [start(seconds=0) for _ in range(4)]
    for api in apis:
        for _ in range(5):
            api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: len(receiver.events) >= 20)
    wait_until(lambda: sum(api.service.stats.webhooks for api in apis) >= 20)
    assert len({event["task_id"] for event in receiver.events}) == len(receiver.events) == 20


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


@pytest.mark.parametrize("url", REMOTE)
def test_other_machines_are_posted_to_only_where_that_is_allowed(start: Start, url: str) -> None:
    """Otherwise the submission is refused, with the option's name; names are not looked up."""
    refused = start().imagine("a kite", webhook_url=url)
    assert refused.status == 400
    assert "--allow-remote-webhooks" in refused.reasons[0]
    assert start(allow_remote_webhooks=True).imagine("a kite [[webhook-never]]", webhook_url=url).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_has_many_names(start: Start, host: str) -> None:
    """All loopback addresses, and `localhost`."""
    assert start().imagine("a kite [[webhook-never]]", webhook_url=f"http://{host}:9/hook").status == 200


def _twice(receiver: Receiver) -> bool:
    return receiver.statuses == ["finished", "finished"] and receiver.events[0] == receiver.events[1]


FAULTS_SEEN: dict[str, Callable[[Receiver], bool]] = {
    "webhook-twice": _twice,
    "webhook-out-of-order": lambda receiver: receiver.statuses[-2:] == ["finished", "processing"],
    "webhook-no-secret": lambda receiver: receiver.secrets == [None],
    "webhook-wrong-secret": lambda receiver: receiver.secrets not in ([], ["hush"]),
}


@pytest.mark.parametrize(
    "name", [name for name, fault in FAULTS.items() if fault.stage is Stage.WEBHOOK and name != "webhook-never"]
)
def test_each_fault_of_the_webhooks_happens(start: Start, receiver: Receiver, name: str) -> None:
    """As a prompt asks for it."""
    length = 0.2 if name == "webhook-out-of-order" else 0
    start(seconds=length).submit(f"a kite [[{name}]]", webhook_url=receiver.url, webhook_secret="hush")
    wait_until(lambda: FAULTS_SEEN[name](receiver))


def test_webhook_never_posts_nothing(start: Start, receiver: Receiver) -> None:
    """While another task's webhook arrives."""
    api = start(seconds=0)
    never = api.submit("a kite [[webhook-never]]", webhook_url=receiver.url)
    other = api.submit("a kite", webhook_url=receiver.url)
    wait_until(lambda: receiver.statuses == ["finished"])
    assert receiver.events[0]["task_id"] == other != never
