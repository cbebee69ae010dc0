"""Webhook events on their way through the bridge to the engine, with a scripted service."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flux_cli.api.client import Client, UnknownTaskError
from flux_cli.api.task import Status, Task
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.engine.store import Accepted, Change, Closed, HistoryStore, Intent
from flux_cli.errors import ExitCode, LocalFileError, ServiceDownError
from flux_cli.pictures.download import DownloadError
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saver
from flux_cli.storage.history import History
from flux_cli.webhooks import bridge as bridge_module
from flux_cli.webhooks.bridge import Bridge
from flux_cli.webhooks.event import MAX_BODY_BYTES, WebhookEvent, read_event
from flux_cli.webhooks.forwarding import Forwarder, forward
from flux_cli.webhooks.journal import EventJournal
from tests.conftest import wait_until
from tests.engine.kit import OnBytes, ScriptedClient, ScriptedSaver, Step, finished
from tests.engine.test_workers import no_thread
from tests.server import Server, http

SERVICE = "https://api.example"
PICTURES = Target(Path("pictures"))


class Log:
    """A display that records its calls."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []
        self.results: list[Result] = []
        self.react: Callable[[Result], object] = lambda _: None

    def update(self, result: Result) -> None:
        percentage = result.task.percentage if result.task else None
        self.lines.append((result.task_id, result.status.value, percentage))
        self.results.append(result)
        self.react(result)

    def repeated(self, task: Task) -> None:
        self.lines.append((task.task_id, "repeated"))

    def rejected(self, status: int, reason: str) -> None:
        self.lines.append((status, reason))

    def problem(self, message: str) -> None:
        self.lines.append((message,))

    def stopping(self) -> None:
        self.lines.append(("stopping",))


class Listener:
    """A bridge without a receiver."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client = ScriptedClient(fetches={"": [finished()]})
        self.saver = ScriptedSaver(self.client)
        self.log = Log()
        self.history: History | None = None

    def bridge(self, **options: Any) -> Bridge:
        self.journal = EventJournal(self.directory)
        client, saver = cast(Client, self.client), cast(Saver, self.saver)
        options = {"target": PICTURES, "confirms": True, **options}
        return Bridge(client, saver, self.history, SERVICE, self.log, self.journal, **options)

    def run(self, *events: WebhookEvent, **options: Any) -> ExitCode:
        made = self.bridge(**options)
        for each in events:
            assert made.deliver(each)
        code = made.run(lambda: None)
        self.journal.close()
        assert not made.deliver(event("late", "x"))
        return code

    def checked(self) -> list[str]:
        return [task_id for _, group in self.client.checks for task_id in group]


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    """A listener whose tasks are all finished."""
    return Listener(tmp_path / "webhooks")


def event(task_id: str, status: str = "finished", percentage: int | None = None) -> WebhookEvent:
    body: dict[str, object] = {"task_id": task_id, "status": status, "percentage": percentage}
    if status == "finished":
        body["image_url"] = "https://cdn.test/of-the-event.png"
    return read_event(json.dumps(body).encode())


def test_each_event_once(listener: Listener) -> None:
    """A repeated one is not shown again, nor any after the last; the service is asked once."""
    events = [*[event("a", "x", percentage) for percentage in (40, 40, 50)], event("b", "x")]
    code = listener.run(*events, event("a"), event("a"), event("a", "x", 60), until=1)
    assert listener.log.lines == [
        *[("a", "processing", 40.0), ("a", "repeated"), ("a", "processing", 50.0), ("b", "processing", None)],
        *[("a", "repeated"), ("a", "repeated"), ("a", "finished", 100.0)],
    ]
    assert (code, listener.checked(), listener.saver.numbers) == (0, ["a"], [1])
    assert list(listener.directory.iterdir()) == []


def test_only_so_many_tasks_are_remembered(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose last event is oldest is forgotten first."""
    monkeypatch.setattr(bridge_module, "MAX_REMEMBERED", 2)
    events = [event(task_id, "x", 1) for task_id in ("a", "b", "a", "c", "a")]
    events[2] = event("a", "x", 2)
    listener.run(*events, event("b", "x", 1), event("d"), until=1)
    assert [line[0] for line in listener.log.lines] == ["a", "b", "a", "c", "a", "b", "d"]
    assert not [line for line in listener.log.lines if "repeated" in line]


@pytest.mark.parametrize(
    ("said", "found", "confirms", "code", "url"),
    [
        (event("a"), finished("https://cdn.test/1"), True, 0, "https://cdn.test/1"),
        (event("a"), finished(), False, 0, "https://cdn.test/of-the-event.png"),
        (event("a", "failed"), finished("https://cdn.test/1"), True, 0, "https://cdn.test/1"),
        (event("a", "failed"), finished(), False, 4, None),
        (event("a"), {"status": "failed"}, True, 4, None),
    ],
)
def test_what_an_event_says_is_confirmed(
    listener: Listener, said: WebhookEvent, found: Step, confirms: bool, code: int, url: str | None
) -> None:
    """By the service, if there is a key."""
    listener.client.fetches = {"": [found]}
    assert listener.run(said, until=1, confirms=confirms) == code
    assert [each for _, each in listener.saver.attempts] == ([url] if url else [])
    assert listener.checked() == (["a"] if confirms else [])
    assert list(listener.directory.iterdir()) == []


def test_the_end_after_so_many_tasks(listener: Listener) -> None:
    """With the worst exit code of them; a task that the service does not know is none of them."""
    unknown = UnknownTaskError("not found")
    listener.client.fetches = {"a": [unknown], "b": [{"status": "failed"}], "c": [finished()]}
    assert listener.run(*map(event, "abc"), target=None, until=2) == 4
    assert sorted(each.task_id or "" for each in listener.log.results) == ["a", "b", "c"]
    assert listener.saver.attempts == []


RECORDS: Mapping[str, Result] = {
    "saved": Result(Status.FINISHED, task_id="a", path=Path("/a.png")),
    "finished": Result(Status.FINISHED, ExitCode.LOCAL_FILE, task_id="a"),
    "failed": Result(Status.FAILED, ExitCode.TASK_FAILED, task_id="a", error="no"),
    "running": Result(Status.PROCESSING, ExitCode.STILL_RUNNING, task_id="a"),
}


@pytest.mark.parametrize(
    ("record", "said", "target", "just_now", "repeated"),
    [
        ("saved", "finished", PICTURES, False, True),
        ("saved", "finished", PICTURES, True, False),
        ("saved", "failed", PICTURES, False, True),
        ("finished", "finished", PICTURES, False, False),
        ("finished", "finished", None, False, True),
        ("failed", "failed", PICTURES, False, True),
        ("failed", "finished", PICTURES, False, False),
        ("failed", "failed", PICTURES, True, False),
        ("running", "finished", None, False, False),
        ("running", "x", None, False, False),
    ],
)
def test_tasks_that_the_history_knows(
    listener: Listener,
    tmp_path: Path,
    record: str,
    said: str,
    target: Target | None,
    just_now: bool,
    repeated: bool,
) -> None:
    """Those that ended before the listener began are over, unless a picture can still be had."""

    def remember() -> None:
        job = Job(None, request={}, recorded={"prompt": "a kite"})
        store = HistoryStore(history, SERVICE)
        changes: list[Change] = [Intent(job), Accepted(job, "a"), Closed(job, RECORDS[record])]
        for change in changes:
            store.commit([change])

    with closing(History(tmp_path / "history.sqlite3")) as history:
        listener.history = history
        if not just_now:
            remember()
        made = listener.bridge(target=target, until=1)
        if just_now:
            remember()
        made.deliver(event("a", said))
        made.deliver(event("other"))
        made.run(lambda: None)
        listener.journal.close()
    assert (("a", "repeated") in listener.log.lines) == repeated
    shown = [(each.request, each.elapsed is None) for each in listener.log.results if each.task_id == "a"]
    assert shown == ([] if repeated else [({"prompt": "a kite"}, False)])
    assert [each.request for each in listener.log.results if each.task_id == "other"] == [{}]


def test_a_picture_that_is_not_saved(listener: Listener) -> None:
    """Another event about the task is another chance; without one the next listener tries again."""
    listener.saver.script = [LocalFileError("disk full"), None]
    made = listener.bridge(until=2)
    listener.log.react = lambda result: result.error and [made.deliver(event("a")), made.deliver(event("b"))]
    made.deliver(event("a"))
    assert made.run(lambda: None) == 0
    listener.journal.close()
    assert list(listener.directory.iterdir()) == []
    listener.saver.script = [LocalFileError("disk full")]
    assert listener.run(event("c"), until=1) == ExitCode.LOCAL_FILE
    listener.saver.script = []
    assert listener.run(until=1) == 0
    assert listener.log.results[-1].task_id == "c"


def test_a_picture_that_is_held_back(listener: Listener) -> None:
    """Its host is given ten minutes; then it is for `flux-cli wait`."""
    listener.saver.script = [DownloadError("HTTP 503", retry_after=601.0)]
    assert listener.run(event("a"), until=1) == ExitCode.SERVICE_DOWN


def test_a_reader_that_is_gone(listener: Listener) -> None:
    """The tasks in progress are finished, and nothing more is shown."""

    def broken(_: Result) -> None:
        raise BrokenPipeError

    listener.log.react = broken
    with pytest.raises(BrokenPipeError):
        listener.run(
            event("a", "x"),
            event("b"),
            event("c", "x"),
        )
    assert len(listener.log.results) == 1
    assert len(listener.saver.attempts) == 1


def test_more_events_than_memory(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have to be sent again; once the others are handled they are accepted."""
    said, accepted = event("a", "x", 40), list[bool]()
    monkeypatch.setattr(bridge_module, "MAX_WAITING_BYTES", 2 * len(said.body))
    made = listener.bridge(until=1)
    assert [made.deliver(said) for _ in range(4)] == [True, True, True, False]
    made.rejected(401, "no secret")

    def ready() -> None:
        monkeypatch.setattr(bridge_module, "MAX_WAITING_BYTES", 0)
        accepted.append(made.deliver(event("b")))

    made.run(ready)
    assert accepted == [True]
    assert listener.log.lines[-2:] == [(401, "no secret"), ("b", "finished", 100.0)]


def test_a_flood(listener: Listener) -> None:
    """There is room for thousands of the service's events."""
    made, usual = listener.bridge(), event("a", "x", 40)
    assert all(made.deliver(usual) for _ in range(10_000))
    large = WebhookEvent(usual.task, bytes(MAX_BODY_BYTES))
    assert sum(made.deliver(large) for _ in range(100)) < 20


def test_a_server_that_cannot_go_on(listener: Listener) -> None:
    made = listener.bridge()
    with pytest.raises(LookupError):
        made.run(lambda: made.failed(LookupError()))
    assert not made.deliver(event("a"))


# Forwarding


@pytest.mark.parametrize("secret", ["s\u00e9cret", None])
@pytest.mark.parametrize("code", [200, 204, 302, 304, 500])
def test_forwarding_an_event(
    code: int, secret: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, unchanged, with the secret and no other credentials; anything but 2xx is an error."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Server({"/hooks": http(code, Location="/elsewhere")}) as server:
        if code < 300:
            forward(event("a"), f"{server.url}/hooks", secret)
        else:
            with pytest.raises(
                ServiceDownError, match=f"a could not be forwarded to {server.url}/hooks: HTTP {code}"
            ):
                forward(event("a"), f"{server.url}/hooks", secret)
    (request,) = server.received
    sent = request.headers.get("x-webhook-secret")
    assert (request.body, sent and sent.encode("latin-1").decode()) == (event("a").body, secret)
    assert "authorization" not in request.headers


def test_what_is_forwarded(listener: Listener) -> None:
    """Running tasks as they are, ended ones once they are confirmed; no repeats."""
    unknown = UnknownTaskError("not found")
    listener.client.fetches = {"made-up": [unknown], "": [finished()]}
    events = [
        event("a", "x", 1),
        event("a", "x", 1),
        event("made-up"),
        event("a"),
        event("a"),
        event("b", "failed"),
    ]
    with Server({"/hooks": http(200)}) as server:
        listener.run(*events, until=2, forward_to=f"{server.url}/hooks", secret="s")
    assert server.received[0].body == events[0].body
    assert {request.body for request in server.received[1:]} == {events[3].body, events[5].body}
    assert len(server.received) == 3


def test_forwarding_does_not_wait_for_the_picture(listener: Listener) -> None:
    """A confirmed event is forwarded while its picture is being saved."""

    def save(on_bytes: OnBytes) -> None:
        on_bytes(1, 100)
        wait_until(lambda: server.received)

    listener.saver.script = [save]
    with Server({"/hooks": http(200)}) as server:
        assert listener.run(event("a"), until=1, forward_to=f"{server.url}/hooks") == 0


def test_events_that_are_not_forwarded(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "FORWARD_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/"
        for count, text in ((1, "1 event was not forwarded"), (2, "2 events were not forwarded")):
            events = [event(f"{number}", "x") for number in range(count - 1)]
            listener.run(*events, event(f"last-{count}"), target=None, until=1, forward_to=url)
            assert listener.log.lines[-1] == (text,)


def test_the_queue_of_the_forwarder() -> None:
    """What fails is reported; the end waits for the rest."""
    problems: list[str] = []
    forwarder = Forwarder("http://127.0.0.1:1/", None, problems.append)
    forwarder.put(event("a"))
    forwarder.put(event("b"))
    assert (forwarder.left, forwarder.finish(0.0, lambda: False)) == (2, 2)
    forwarder.start()
    assert forwarder.finish(20.0, lambda: False) == 0
    assert len(problems) == 2


def test_no_thread_for_the_forwarder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(ServiceDownError, match="cannot forward events: can't start new thread"):
        Forwarder("http://127.0.0.1:1/", None, lambda _: None).start()
