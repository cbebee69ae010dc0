"""The sandbox's webhooks, received by a scripted server."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flux_cli.sandbox import running, webhooks
from flux_cli.sandbox.faults import FAULTS, Stage, faults_in
from flux_cli.sandbox.tasks import Task
from tests.conftest import wait_until
from tests.sandbox.conftest import Api, Start, exchange
from tests.server import Request, Server, http, in_turn


@pytest.fixture
def receiver(server: Server) -> Server:
    server.routes = {"/hook": http(204)}
    return server


def statuses(receiver: Server) -> list[str]:
    return [request.json()["status"] for request in receiver.received]


def secrets(receiver: Server) -> list[str | None]:
    return [request.headers.get("x-webhook-secret") for request in receiver.received]


def test_updates_and_the_result(start: Start, receiver: Server) -> None:
    api = start(seconds=0.8)
    task_id = api.submit("a kite", webhook_url=f"{receiver.url}/hook", webhook_secret="hush-123")
    wait_until(lambda: api.service.stats.webhooks == 3)
    assert statuses(receiver) == ["processing", "processing", "finished"]
    assert set(secrets(receiver)) == {"hush-123"}
    first, second, result = (request.json() for request in receiver.received)
    assert first["percentage"] < second["percentage"]
    assert result == api.fetch(task_id).json()
    assert exchange("GET", result["image_url"]).status == 200


@pytest.mark.parametrize(
    ("prompt", "times"), [("", [105, 110]), ("[[moderated]]", [101, 101]), ("[[never]]", [105, None])]
)
def test_schedule(prompt: str, times: list[float | None]) -> None:
    """Updates at the start and halfway, then the result; none after a failure's end, and no end for `never`."""
    task = Task("t", 100, 10, 1, {}, faults_in(prompt))
    assert [webhooks.next_event(task, event) for event in (0, 1)] == times


def test_without_a_secret(api: Api, receiver: Server) -> None:
    api.submit("a kite [[fail]]", webhook_url=f"{receiver.url}/hook")
    wait_until(lambda: statuses(receiver) == ["failed"])
    assert secrets(receiver) == [None]
    assert receiver.received[0].json()["errors"]


def test_retries(api: Api, receiver: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BACKOFF", (0.01, 0.01, 0.01))
    receiver.routes = {"/hook": in_turn(http(500), http(500), http(204))}
    api.submit("a kite", webhook_url=f"{receiver.url}/hook")
    wait_until(lambda: api.service.stats.webhooks == 1)
    assert statuses(receiver) == ["finished"] * 3
    assert api.service.stats.webhook_failures == 2


def test_failing_receivers_do_not_affect_others(api: Api, receiver: Server) -> None:
    """Nobody listens, or the secret is not a header."""
    api.submit("a kite", webhook_url="http://127.0.0.1:9/nobody")
    api.submit("a kite", webhook_url=f"{receiver.url}/hook", webhook_secret="a\r\nX-Evil: 1")
    wait_until(lambda: api.service.stats.webhook_failures >= 2)
    assert receiver.received == []
    api.submit("a kite", webhook_url=f"{receiver.url}/hook")
    wait_until(lambda: statuses(receiver) == ["finished"])


def test_a_later_server_posts_what_is_left(tmp_path: Path, receiver: Server) -> None:
    """A command that submits and ends leaves its webhooks to `flux-cli sandbox`."""
    with running(tmp_path, seconds=2) as first:
        Api(first).submit("a kite", webhook_url=f"{receiver.url}/hook")
    assert "finished" not in statuses(receiver)
    with running(tmp_path) as second:
        wait_until(lambda: "finished" in statuses(receiver) and second.stats.webhooks)
        assert statuses(receiver).count("finished") == 1
        assert receiver.received[-1].json()["image_url"].startswith(second.images_url)


def test_a_post_during_the_end_of_a_server_is_not_repeated(tmp_path: Path, receiver: Server) -> None:
    """A slow receiver gets a moment to answer; the next server knows that it did."""
    answers = threading.Event()

    def accept(_: Request) -> bytes:
        answers.wait(10)
        return http(204)

    receiver.routes = {"/hook": accept}
    with running(tmp_path, seconds=0) as first:
        Api(first).submit("a kite", webhook_url=f"{receiver.url}/hook")
        wait_until(lambda: receiver.received)
        threading.Timer(0.05, answers.set).start()
    with running(tmp_path, seconds=0) as second:
        Api(second).submit("a cat", webhook_url=f"{receiver.url}/hook")
        wait_until(lambda: second.stats.webhooks == 1)
    ids = [request.json()["task_id"] for request in receiver.received]
    assert len(ids) == len(set(ids)) == 2


def test_several_servers_post_an_event_once(start: Start, receiver: Server) -> None:
    """Each event is claimed by one of them."""
    apis = [start() for _ in range(3)]
    for number in range(12):
        apis[number % 3].submit("a kite", webhook_url=f"{receiver.url}/hook")
    wait_until(lambda: sum(api.service.stats.webhooks for api in apis) >= 12)
    assert len({request.json()["task_id"] for request in receiver.received}) == len(receiver.received) == 12


REMOTE = (
    *("https://example.com/hook", "http://10.0.0.1/", "http://0.0.0.0:80/", "http://127.0.0.1.nip.io/"),
    *("http://localhost.example.com/", "http://2130706433/", "http://127.1/", "http://[::ffff:10.0.0.1]/"),
    *("http://127.0.0.1@example.com/", "http://169.254.169.254/latest/meta-data"),
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


CHECKS: dict[str, Callable[[Server], bool]] = {
    "webhook-twice": lambda receiver: (
        statuses(receiver) == ["finished", "finished"] and len({each.body for each in receiver.received}) == 1
    ),
    "webhook-out-of-order": lambda receiver: statuses(receiver)[-2:] == ["finished", "processing"],
    "webhook-no-secret": lambda receiver: secrets(receiver) == [None],
    "webhook-wrong-secret": lambda receiver: secrets(receiver) == ["wrong"],
    "webhook-never": lambda receiver: statuses(receiver) == ["failed"],  # that of another task
}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.stage is Stage.WEBHOOK])
def test_faults(start: Start, receiver: Server, name: str) -> None:
    api = start(seconds=0.2 if name == "webhook-out-of-order" else 0)
    api.submit(f"a kite [[{name}]]", webhook_url=f"{receiver.url}/hook", webhook_secret="hush")
    if name == "webhook-never":
        api.submit("a kite [[fail]]", webhook_url=f"{receiver.url}/hook")
    wait_until(lambda: CHECKS[name](receiver))
