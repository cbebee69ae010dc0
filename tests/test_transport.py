"""One request and its response: what is certain after a failure, and that responses are never mixed up."""

import contextlib
import threading
import time

import pytest

from flux_cli.api.client import Client
from flux_cli.api.request import Body
from flux_cli.api.transport import Dispatch, NotSentError, Transport
from flux_cli.errors import BadResponseError, OutcomeUnknownError, ServiceDownError
from tests.conftest import wait_until
from tests.server import Action, Request, Server, Step, http, reply, slowly

BODY: Body = {"model": "flux-pro", "prompt": "a cat"}


def client(server: Server) -> Client:
    """Return a client of a server."""
    return Client(Transport(server.url, "test-key-0123456789"))


@pytest.mark.parametrize("code", [102, 103])
def test_a_late_response_is_not_the_next_one(code: int) -> None:
    """An interim response, then a submission: its task ID is not read from bytes left on the connection."""

    def hinted(_: Request) -> list[Step]:
        late = reply({"task_id": "another-task", "status": "finished"}, Connection="keep-alive")
        return [f"HTTP/1.1 {code} Hint\r\n\r\n".encode(), 0.3, late, Action.KEEP]

    with Server({"/fetch": hinted}) as server:
        api = client(server)
        with pytest.raises(BadResponseError):
            api.fetch("task-7")
        assert api.submit(BODY, Dispatch()) == "task-0"


def test_a_call_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit on processes it runs in the thread of the caller."""

    def limited(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Server({"/account": reply({"credits": 5})}) as server, monkeypatch.context() as patch:
        start = threading.Thread.start
        patch.setattr(
            threading.Thread, "start", lambda each: (start if each.name == "scripted server" else limited)(each)
        )
        assert client(server).account().credits == 5


def test_connections_are_reused() -> None:
    """Status checks do not open a connection each."""
    with Server(
        {"/fetch": lambda r: [reply({"task_id": r.json()["task_id"]}, Connection="keep-alive"), Action.KEEP]}
    ) as server:
        api = client(server)
        for number in range(5):
            api.fetch(f"task-{number}")
        assert (len(server.received), server.connections) == (5, 1)


def test_a_connection_that_the_service_closed() -> None:
    """A submission does not use it: the outcome would be unknown."""
    with Server({"/fetch": lambda r: reply({"task_id": r.json()["task_id"]}, Connection="keep-alive")}) as server:
        api = client(server)
        for number in range(5):
            api.fetch("task-7")
            time.sleep(0.05)
            assert api.submit(BODY, Dispatch()) == f"task-{number}"


def test_a_submission_does_not_use_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that closes it at that moment leaves the outcome unknown: here it is reset instead."""

    def check(request: Request) -> list[Step]:
        return [reply({"task_id": request.json()["task_id"]}, Connection="keep-alive"), Action.KEEP]

    def submit(request: Request) -> list[Step]:
        return [Action.RESET] if server.connections == 1 else [reply({"task_id": f"task-{request.number}"})]

    with Server({"/fetch": check, "/flux-imagine": submit}) as server:
        api = client(server)
        api.fetch("task-7")
        monkeypatch.setattr("flux_cli.api.transport.MAX_IDLE_SECONDS", 0.0)
        assert api.submit(BODY, Dispatch()) == "task-0"


@pytest.mark.parametrize("slow", [slowly(http(200, b"{}"), 0.05), [60.0]], ids=["trickle", "silence"])
def test_a_call_ends_within_its_limit(slow: list[Step]) -> None:
    """Then the outcome of a submission is unknown, and a status check may be repeated."""
    with Server({"/flux-imagine": slow, "/fetch": slow}) as server:
        with pytest.raises(OutcomeUnknownError, match="no complete response within 1 s"):
            client(server).submit(BODY, Dispatch(), seconds=1)
        with pytest.raises(ServiceDownError, match="no complete response within 1 s"):
            client(server).fetch("task-7", seconds=1)


def test_limit_before_anything_is_sent() -> None:
    """Nothing is sent afterwards either."""
    with Server(accepts=False) as server:
        dispatch = Dispatch()
        with pytest.raises(NotSentError):
            client(server).submit(BODY, dispatch, seconds=0.3)
        assert not dispatch.sent


def test_cancel_before_anything_is_sent() -> None:
    """A submission that is canceled while it connects never arrives."""
    dispatch = Dispatch()
    assert dispatch.cancel()
    with Server() as server:
        with pytest.raises(NotSentError, match="canceled"):
            client(server).submit(BODY, dispatch)
        assert server.submissions == 0


def test_cancel_after_it_was_sent() -> None:
    """That is too late, and it says so."""
    dispatch = Dispatch()

    def submit() -> None:
        with contextlib.suppress(OutcomeUnknownError):
            client(server).submit(BODY, dispatch)

    with Server({"/flux-imagine": [60.0]}) as server:
        threading.Thread(target=submit, daemon=True).start()
        wait_until(lambda: server.submissions == 1)
        assert not dispatch.cancel()
        assert dispatch.sent
