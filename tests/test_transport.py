"""One request and its response: what is certain after a failure, and that responses are never mixed up."""

import contextlib
import errno
import socket
import ssl
import threading
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

import pytest
import requests
from urllib3.exceptions import ProtocolError

from flux_cli.api.client import Client
from flux_cli.api.connections import Abort, abortable, current_abort
from flux_cli.api.request import Body
from flux_cli.api.transport import Dispatch, NotSentError, Transport, _Payload, cause
from flux_cli.errors import BadResponseError, FluxError, NotAllowedError, OutcomeUnknownError, ServiceDownError
from tests.conftest import wait_until
from tests.server import Action, Request, Server, Step, http, reply, slowly, submitted

BODY: Body = {"model": "flux-pro", "prompt": "a cat"}


@pytest.fixture
def client(server: Server) -> Client:
    return Client(Transport(server.url, "test-key-0123456789"))


def kept(request: Request) -> list[Step]:
    return [reply({"task_id": "task-7", "status": "x"}, Connection="keep-alive"), Action.KEEP]


@pytest.mark.parametrize("code", [102, 103])
def test_a_late_response_is_not_the_next_one(server: Server, client: Client, code: int) -> None:
    """An interim response, then a submission: its task ID is not read from bytes left on the connection."""
    late = reply({"task_id": "another-task", "status": "finished"}, Connection="keep-alive")
    server.routes = {"/fetch": [f"HTTP/1.1 {code} Hint\r\n\r\n".encode(), 0.3, late, Action.KEEP]}
    with pytest.raises(BadResponseError):
        client.fetch("task-7")
    assert client.submit(BODY, Dispatch()) == "task-0"


@pytest.mark.parametrize(
    ("code", "count", "error"),
    [
        (100, 1, None),
        (103, 20, None),
        (199, 1, None),
        (101, 1, "HTTP 101"),
        (100, 21, "more than 20 interim responses"),
        (103, 21, "more than 20 interim responses"),
    ],
)
def test_interim_responses(server: Server, client: Client, code: int, count: int, error: str | None) -> None:
    """They are skipped, as many as are plausible; 101 is none of them."""
    interim = f"HTTP/1.1 {code} Hint\r\nX-Hint: 1\r\n\r\n".encode() * count
    server.routes = {"/fetch": interim + reply({"task_id": "task-7", "status": "x"})}
    if error is None:
        assert client.fetch("task-7").word == "x"
    else:
        with pytest.raises((BadResponseError, ServiceDownError), match=error):
            client.fetch("task-7")


@pytest.mark.parametrize(
    ("scheme", "used", "proxy"),
    [("http", False, False), ("http", True, False), ("https", False, False), ("http", False, True)],
)
def test_an_aborted_call(monkeypatch: pytest.MonkeyPatch, scheme: str, used: bool, proxy: bool) -> None:
    """It fails on a new connection, on one that was used before, in a TLS handshake, and behind a proxy."""
    abort = Abort()
    with Server({"/fetch": kept, "/account": [60.0]}, greeting=[60.0] if scheme == "https" else None) as server:
        if proxy:
            monkeypatch.setenv("http_proxy", server.url)
        url = "http://api.example" if proxy else server.url.replace("http:", f"{scheme}:")
        transport = Transport(url, "test-key-0123456789")
        if used:
            Client(transport).fetch("task-7")
        abort.abort()
        with abortable(abort), pytest.raises(ServiceDownError) as raised:
            transport.call("GET", "/account", None, 5)
        assert "in time" not in raised.value.message
        assert current_abort() is None


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([b"HTTP/1.1 402 Status\r\nContent-Length: 50\r\n\r\n"], NotAllowedError),
        ([b"HTTP/1.1 402 Status\r\nContent-Length: 50\r\n\r\n{"], NotAllowedError),
        ([b"HTTP/1.1 200 Status\r\nContent-Length: 50\r\n\r\n"], OutcomeUnknownError),
        ([b"HTTP/1.1 402", Action.RESET], OutcomeUnknownError),
    ],
)
def test_a_response_that_ends_early(
    server: Server, client: Client, steps: list[Step], kind: type[FluxError]
) -> None:
    """A status code with a whole header says whether the submission was rejected."""
    server.routes = {"/flux-imagine": steps}
    with pytest.raises(kind):
        client.submit(BODY, Dispatch())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ECONNREFUSED, "Connection refused"), ("connection refused", False)),
        (
            requests.ConnectionError(ProtocolError("x", OSError(errno.EPIPE, "Broken pipe"))),
            ("broken pipe", False),
        ),
        (requests.ConnectionError(socket.gaierror(-2, "unknown")), ("DNS lookup failed", False)),
        (requests.ConnectionError(TimeoutError()), ("no response in time", False)),
        (RemoteDisconnected("x"), ("the connection was closed without a response", False)),
        (ProtocolError("x", IncompleteRead(b"")), ("the connection ended too early", False)),
        (ssl.SSLError(1, "Not of OpenSSL"), ("not of openssl", False)),
        (requests.exceptions.InvalidURL("no host"), ("no host", False)),
        (ValueError("x" * 300), ("x" * 200, True)),
        (HTTPException(), ("HTTPException", False)),
    ],
)
def test_plain_reasons(error: Exception, expected: tuple[str, bool]) -> None:
    assert cause(error)[:2] == expected


def test_a_call_without_a_thread(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit on processes it runs in the thread of the caller."""
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name != "scripted server":
            raise RuntimeError("can't start new thread")
        start(thread)

    server.routes = {"/account": reply({"credits": 5})}
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        assert client.account()["credits"] == 5


def test_connections_are_reused(server: Server, client: Client) -> None:
    server.routes = {"/fetch": kept}
    for _ in range(5):
        client.fetch("task-7")
    assert (len(server.received), server.connections) == (5, 1)
    assert server.received[0].headers["content-type"] == "application/json"


def test_a_connection_that_the_service_closed(server: Server, client: Client) -> None:
    """A submission does not use it: the outcome would be unknown."""
    server.routes = {"/fetch": reply({"task_id": "task-7"}, Connection="keep-alive")}
    for number in range(5):
        client.fetch("task-7")
        wait_until(server.is_idle)
        assert client.submit(BODY, Dispatch()) == f"task-{number}"


def test_a_submission_does_not_use_an_idle_connection(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that closes it at that moment leaves the outcome unknown: here it is reset instead."""

    def submit(request: Request) -> list[Step]:
        return [Action.RESET] if server.connections == 1 else [submitted(request)]

    server.routes = {"/fetch": kept, "/flux-imagine": submit}
    client.fetch("task-7")
    monkeypatch.setattr("flux_cli.api.transport.MAX_IDLE_SECONDS", 0.0)
    assert client.submit(BODY, Dispatch()) == "task-0"


@pytest.mark.parametrize("slow", [slowly(http(200, b"{}"), 0.05), [60.0]], ids=["trickle", "silence"])
def test_a_call_ends_within_its_limit(server: Server, client: Client, slow: list[Step]) -> None:
    """Then the outcome of a submission is unknown, and a status check may be repeated."""
    server.routes = {"/flux-imagine": slow, "/fetch": slow}
    with pytest.raises(OutcomeUnknownError, match="no complete response within 1 s"):
        client.submit(BODY, Dispatch(), seconds=1)
    with pytest.raises(ServiceDownError, match="no complete response within 1 s"):
        client.fetch("task-7", seconds=1)


def test_limit_before_anything_is_sent() -> None:
    with Server(accepts=False) as server:
        dispatch = Dispatch()
        with pytest.raises(NotSentError) as raised:
            Client(Transport(server.url, "")).submit(BODY, dispatch, seconds=0.3)
        assert (dispatch.sent, raised.value.permanent) == (False, False)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for scheme in ("http", "https"):
        with pytest.raises(NotSentError, match="connection refused") as raised:
            Transport(f"{scheme}://127.0.0.1:{port}", "test-key-0123456789").call("GET", "/account", None, 20)
        assert not raised.value.permanent


def test_cancel_before_anything_is_sent(server: Server, client: Client) -> None:
    dispatch = Dispatch()
    assert dispatch.cancel()
    with pytest.raises(NotSentError, match="canceled"):
        client.submit(BODY, dispatch)
    assert server.submissions == 0


def test_cancel_while_it_is_sent() -> None:
    """A part of it would count as not sent."""
    payload = _Payload(BODY, dispatch := Dispatch())
    assert payload.read(1) == b"{"
    assert not dispatch.cancel()
    assert payload.read().endswith(b"}")


def test_cancel_after_it_was_sent(server: Server, client: Client) -> None:
    dispatch = Dispatch()

    def submit() -> None:
        with contextlib.suppress(OutcomeUnknownError):
            client.submit(BODY, dispatch)

    server.routes = {"/flux-imagine": [60.0]}
    threading.Thread(target=submit, daemon=True).start()
    wait_until(lambda: server.submissions == 1)
    assert not dispatch.cancel()
    assert dispatch.sent
