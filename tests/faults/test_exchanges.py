"""One exchange with the service: what is certain when it fails, and that no answer is taken for another's."""

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
def test_an_answer_that_comes_late_is_not_the_next_ones(code: int) -> None:
    """A hint before the answer, then a submission: the task id is its own, not what was left on the line."""

    def hinted(_: Request) -> list[Step]:
        late = reply({"task_id": "another-task", "status": "finished"}, Connection="keep-alive")
        return [f"HTTP/1.1 {code} Hint\r\n\r\n".encode(), 0.3, late, Action.KEEP]

    with Server({"/fetch": hinted}) as server:
        speaking = client(server)
        with pytest.raises(BadResponseError):
            speaking.fetch("task-7")
        assert speaking.submit(BODY, Dispatch()) == "task-0"


def test_connections_are_kept_from_one_call_to_the_next() -> None:
    """A look a second need not shake hands each time."""
    with Server(
        {"/fetch": lambda r: [reply({"task_id": r.json()["task_id"]}, Connection="keep-alive"), Action.KEEP]}
    ) as server:
        speaking = client(server)
        for number in range(5):
            speaking.fetch(f"task-{number}")
        assert (len(server.received), server.connections) == (5, 1)


def test_a_connection_that_the_service_closed_meanwhile_is_no_trouble() -> None:
    """Before a submission of all requests: its outcome would be unknown."""
    with Server({"/fetch": lambda r: reply({"task_id": r.json()["task_id"]}, Connection="keep-alive")}) as server:
        speaking = client(server)
        for number in range(5):
            speaking.fetch("task-7")
            time.sleep(0.05)
            assert speaking.submit(BODY, Dispatch()) == f"task-{number}"


def test_a_submission_does_not_go_over_a_connection_that_was_idle_for_long() -> None:
    """A service that closes it just then leaves the outcome unknown; here it is reset when the request arrives."""

    def look(request: Request) -> list[Step]:
        return [reply({"task_id": request.json()["task_id"]}, Connection="keep-alive"), Action.KEEP]

    idle_since = time.monotonic()

    def submit(request: Request) -> list[Step]:
        idle = time.monotonic() - idle_since > 1 and server.connections == 1
        return [Action.RESET] if idle else [reply({"task_id": f"task-{request.number}"})]

    with Server({"/fetch": look, "/flux-imagine": submit}) as server:
        speaking = client(server)
        speaking.fetch("task-7")
        time.sleep(1.2)
        assert speaking.submit(BODY, Dispatch()) == "task-0"


@pytest.mark.parametrize("slow", [slowly(http(200, b"{}"), 0.05), [60.0]], ids=["trickle", "silence"])
def test_a_call_ends_in_its_time(slow: list[Step]) -> None:
    """Whatever the peer does: nothing is known of a submission, and a look may be made again."""
    with Server({"/flux-imagine": slow, "/fetch": slow}) as server:
        with pytest.raises(OutcomeUnknownError, match="no whole response within 1 s"):
            client(server).submit(BODY, Dispatch(), seconds=1)
        with pytest.raises(ServiceDownError, match="no whole response within 1 s"):
            client(server).fetch("task-7", seconds=1)


def test_time_is_up_before_anything_left() -> None:
    """Then it is certain that nothing was sent, and nothing is sent afterwards either."""
    with Server(accepts=False) as server:
        dispatch = Dispatch()
        with pytest.raises(NotSentError):
            client(server).submit(BODY, dispatch, seconds=0.3)
        assert not dispatch.sent


def test_called_off_before_it_left() -> None:
    """A submission that is withdrawn while it connects never arrives."""
    dispatch = Dispatch()
    assert dispatch.cancel()
    with Server() as server:
        with pytest.raises(NotSentError, match="canceled"):
            client(server).submit(BODY, dispatch)
        assert server.submissions == 0


def test_called_off_after_it_left() -> None:
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
