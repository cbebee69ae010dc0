"""Status checks of many tasks: in groups, in order, with retries."""

import pytest

from flux_cli.api.client import MAX_FETCH_MANY, Client, RateLimitedError, UnknownTaskError
from flux_cli.api.status import ATTEMPTS, MAX_PAUSE_SECONDS, check_tasks
from flux_cli.api.task import Task
from flux_cli.api.transport import NotSentError, Response
from flux_cli.errors import BadResponseError, FluxError, NotAllowedError, ServiceDownError
from tests.test_client import Scripted, reply


def many(*task_ids: str) -> Response:
    return reply(200, {"tasks": [{"task_id": task_id, "status": "x"} for task_id in task_ids]})


def check(task_ids: list[str], *replies: Response | FluxError) -> tuple[list[object], Scripted, list[float]]:
    """Check tasks; return what each became (its ID, or the type of its error), the transport and the pauses."""
    transport, pauses = Scripted(*replies), list[float]()
    found = list(check_tasks(Client(transport), task_ids, pauses.append))
    assert [task_id for task_id, _ in found] == task_ids
    return [each.task_id if isinstance(each, Task) else type(each) for _, each in found], transport, pauses


def test_groups() -> None:
    task_ids = [f"task-{number}" for number in range(MAX_FETCH_MANY + 3)]
    first, second = task_ids[:MAX_FETCH_MANY], task_ids[MAX_FETCH_MANY:]
    found, transport, _ = check(task_ids, many(*reversed(first)), many(*second))
    assert found == task_ids
    assert [body for _, body in transport.requests] == [{"task_ids": first}, {"task_ids": second}]


def test_retries() -> None:
    """With growing pauses, and at least as long as the service asks for."""
    limited = reply(429, {}, **{"Retry-After": str(MAX_PAUSE_SECONDS)})
    found, _, pauses = check(["a", "b"], reply(503), limited, ServiceDownError("no network"), many("a", "b"))
    assert found == ["a", "b"]
    assert len(pauses) == ATTEMPTS - 1
    assert 0.25 <= pauses[0] <= 0.5
    assert pauses[1] == MAX_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([reply(503)] * ATTEMPTS, ServiceDownError),
        ([reply(429, {}, **{"Retry-After": str(MAX_PAUSE_SECONDS + 1)})], RateLimitedError),
        ([reply(401)], NotAllowedError),
        ([NotSentError("the certificate is not trusted", permanent=True)], NotSentError),
        ([reply(200)], BadResponseError),
    ],
    ids=["503", "429", "401", "certificate", "no JSON"],
)
def test_service_errors_end_the_checks(replies: list[Response | FluxError], kind: type[FluxError]) -> None:
    task_ids = [f"task-{number}" for number in range(2 * MAX_FETCH_MANY)]
    first = task_ids[:MAX_FETCH_MANY]
    found, transport, _ = check(task_ids, many(*first), *replies)
    assert found == [*first, *[kind] * MAX_FETCH_MANY]
    assert len(transport.requests) == 1 + len(replies)


def test_an_unknown_task_costs_the_others_nothing() -> None:
    found, _, _ = check(["a", "b"], many("a"), reply(404, {}))
    assert found == ["a", UnknownTaskError]
    assert check(["a"], reply(404, {}))[0] == [UnknownTaskError]
