"""What each response of the service means for the caller: an ID, a task, or one kind of error."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.client import (
    Client,
    EndpointError,
    ForbiddenError,
    RateLimitedError,
    UnknownTaskError,
    check_key_kind,
)
from flux_cli.api.request import Body
from flux_cli.api.task import Status
from flux_cli.api.transport import Dispatch, NotSentError, Response, Transport
from flux_cli.errors import (
    BadResponseError,
    FluxError,
    NotAllowedError,
    OutcomeUnknownError,
    ServiceDownError,
    UsageError,
)

ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"
PAGE = b"<html><h1>Busy</h1></html>"
BODY: Body = {"model": "flux-pro", "prompt": "a cat"}


class Scripted(Transport):
    """Returns prepared responses (or raises prepared errors), in order, and keeps the requests."""

    def __init__(self, *replies: Response | FluxError) -> None:
        super().__init__("https://api.example", "test-key-0123456789")
        self.replies = list(replies)
        self.requests: list[tuple[str, Mapping[str, object] | None]] = []

    def call(self, method: str, path: str, body: Mapping[str, object] | None, *_: Any, **__: Any) -> Response:
        self.requests.append((path, body))
        reply = self.replies.pop(0)
        if isinstance(reply, FluxError):
            raise reply
        return reply


def reply(code: int, body: object = b"", /, **headers: str) -> Response:
    """Return a response; a body that is not bytes becomes JSON."""
    return Response(code, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def submitted(response: Response) -> str:
    return Client(Scripted(response)).submit(BODY, Dispatch())


def errors(*messages: str) -> dict[str, object]:
    return {"errors": [{"msg": message} for message in messages]}


# Submissions


@pytest.mark.parametrize(
    "response",
    [
        *(reply(code, {"task_id": ID}) for code in (200, 201, 303, 409, 429)),
        *(reply(code, {"task_id": ID, "error": "odd"}) for code in (200, 400, 500)),
        reply(202, {"data": {"task_id": f" {ID} "}}),
        reply(200, b"Notice: slow\n" + json.dumps({"task_id": ID}).encode()),
        reply(200, PAGE + json.dumps({"task_id": ID}).encode()),
        reply(200, b'{"task_id": "' + ID.encode() + b'", "status": "pen'),
        reply(200, [{"task_id": ID}]),
    ],
)
def test_an_id_is_used(response: Response) -> None:
    """Despite anything else unusual: the task exists, and a second submission would be charged again."""
    assert submitted(response) == ID


def test_an_id_can_be_a_number() -> None:
    """Also in a body that is truncated after it."""
    assert submitted(reply(200, {"task_id": 42})) == submitted(reply(200, b'{"task_id": 42, "sta')) == "42"


AFK = errors("This key starts with afk_, this endpoint is v1")
MOVED = "https://www.example/flux-imagine"
REJECTIONS: list[tuple[Response, type[FluxError], str, str]] = [
    (reply(400, errors("no such model; it was not found")), UsageError, "no such model", ""),
    *((reply(code, AFK), NotAllowedError, "starts with afk_", "v1 key") for code in (400, 401)),
    (reply(401, {}), NotAllowedError, "rejected the key: HTTP 401", "flux-cli login"),
    (reply(402, {}), NotAllowedError, "out of credits", "flux-cli account"),
    (reply(403, PAGE), ForbiddenError, "HTTP 403, an HTML page", "flux-cli login"),
    *((reply(code, PAGE), EndpointError, "takes no submissions", "--api-url") for code in (404, 405, 410)),
    *(
        (reply(code, Location=MOVED), EndpointError, f"a redirect to {MOVED}", "--api-url")
        for code in (301, 302, 307, 308)
    ),
    (reply(413, PAGE), UsageError, "too large", "image prompt"),
    (reply(415), UsageError, "rejected the request: HTTP 415", ""),
    (reply(418), UsageError, "HTTP 418", ""),
    (
        reply(422, {"detail": [{"loc": ["body", "steps"], "msg": "too many"}]}),
        UsageError,
        "HTTP 422, body.steps: too many",
        "",
    ),
    (reply(429, {}, **{"Retry-After": "7"}), RateLimitedError, "HTTP 429", "wait"),
    (reply(200, {"error": "prompt was moderated"}), UsageError, "prompt was moderated", ""),
    (reply(200, errors("a", "b")), UsageError, "a; b", ""),
    (reply(200, {"error": "no", "id": "request-1"}), UsageError, "no", ""),
    (reply(201, {"status": "Error", "message": "no"}), UsageError, "no", ""),
    (reply(200, {"success": False, "message": "no"}), UsageError, "no", ""),
    (reply(200, {"status": False, "message": "no"}), UsageError, "no", ""),
]
EXIT_CODES = {UsageError: 2, EndpointError: 2, ForbiddenError: 3, NotAllowedError: 3, RateLimitedError: 5}


@pytest.mark.parametrize(("response", "kind", "message", "hint"), REJECTIONS)
def test_rejected_submissions(response: Response, kind: type[FluxError], message: str, hint: str) -> None:
    """Nothing was accepted: the error says why, and what to do."""
    with pytest.raises(kind) as raised:
        submitted(response)
    assert (raised.type, raised.value.exit_code) == (kind, EXIT_CODES[kind])
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


@pytest.mark.parametrize(
    "response",
    [
        *(reply(code, errors("no")) for code in (303, 408, 409, 425, 500, 502, 503, 504, 520, 599, 300, 304, 102)),
        reply(204),
        reply(200, PAGE),
        reply(200, PAGE + b'{"error": "of the page"}'),
        *(reply(200, body) for body in ({}, {"message": "queued"}, {"error": None}, {"error": 5}, "text", None)),
        *(reply(200, {"task_id": task_id}) for task_id in (None, "a b")),
        reply(200, b'{"task_id": "' + ID[:20].encode()),
        reply(200, b'{"task_id": 12'),
        reply(200, b'{"prompt": "\\"task_id\\": \\"5\\"", '),
    ],
)
def test_unknown_outcomes(response: Response) -> None:
    """It may have been accepted and charged; a response that should have an ID is quoted."""
    with pytest.raises(OutcomeUnknownError) as raised:
        submitted(response)
    assert ("no usable task ID" in raised.value.message) == (200 <= response.code < 300)
    assert f"HTTP {response.code}" in raised.value.message
    empty = 200 <= response.code < 300 and not response.content
    assert raised.value.message.endswith("no usable task ID: an empty body") == empty


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotSentError("no connection"), NotSentError),
        (UsageError("not UTF-8"), UsageError),
        (ServiceDownError("no response"), OutcomeUnknownError),
        (BadResponseError("too large"), OutcomeUnknownError),
    ],
)
def test_a_submission_without_response(error: FluxError, kind: type[FluxError]) -> None:
    """Unless it certainly was not sent, its outcome is unknown."""
    with pytest.raises(kind) as raised:
        Client(Scripted(error)).submit(BODY, Dispatch())
    assert raised.type is kind


@given(st.integers(100, 999), st.binary(max_size=100), st.text(max_size=20))
def test_any_response_to_a_submission_is_an_id_or_an_error(code: int, content: bytes, content_type: str) -> None:
    try:
        assert submitted(Response(code, {"Content-Type": content_type}, content))
    except FluxError as error:
        assert error.exit_code in (2, 3, 5, 9)  # noqa: PT017 - either way is correct


# Status checks


def fetched(response: Response, task_id: str = ID) -> Any:
    try:
        return Client(Scripted(response)).fetch(task_id)
    except FluxError as error:
        return error


@pytest.mark.parametrize("code", [200, 201, 202, 203])
def test_any_2xx_is_a_response(code: int) -> None:
    body = (
        b"\xef\xbb\xbf" + json.dumps({"data": {"task_id": ID, "percentage": 40}}).encode() + b"\n<!-- node 7 -->"
    )
    assert fetched(reply(code, body)).percentage == 40


def test_urls_are_resolved() -> None:
    assert fetched(reply(200, {"image_url": "/x.png"})).image_url == "https://api.example/x.png"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        *((reply(code, errors("Task not found")), UnknownTaskError) for code in (400, 404, 410)),
        *((reply(200, {name: "Task not found"}), UnknownTaskError) for name in ("status", "error", "message")),
        (reply(404, PAGE), ServiceDownError),
        (reply(400, errors("no")), UsageError),
        (reply(400, errors("the key starts with afk_")), NotAllowedError),
        *((reply(code, {}), NotAllowedError) for code in (401, 402)),
        (reply(403, {}), ForbiddenError),
        (reply(429, {}), RateLimitedError),
        *((reply(code, PAGE), ServiceDownError) for code in (408, 425, 500, 502, 503, 504)),
        *((reply(code), BadResponseError) for code in (204, 307, 405, 418)),
        *((reply(200, body), BadResponseError) for body in (PAGE, {}, [1, 2], {"message": "hello"})),
        (reply(200, [{"task_id": ID, "status": "x"}] * 2), BadResponseError),
        (reply(200, PAGE + b'<script>{"error": "of the page", "status": "failed"}</script>'), BadResponseError),
        (reply(200, {"task_id": "another", "status": "finished"}), BadResponseError),
        (reply(200, {"data": {"task_id": 7, "status": "finished"}}), BadResponseError),
    ],
)
def test_status_checks_that_fail(response: Response, kind: type[FluxError]) -> None:
    error = fetched(response)
    assert type(error) is kind
    assert kind is not UnknownTaskError or (error.hint is not None) == (response.code in (404, 410))


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (reply(503), "the service failed: HTTP 503"),
        (reply(503, PAGE), "the service failed: HTTP 503, an HTML page"),
        (reply(503, b'<x/>{"error": "busy"}'), "the service failed: HTTP 503, busy"),
        (reply(418, b"<"), "unexpected response of the service: HTTP 418, an HTML page"),
        (reply(307), "unexpected response of the service: HTTP 307, a redirect to nowhere"),
        (reply(400, errors("no")), "the service rejected the request: HTTP 400, no"),
    ],
)
def test_what_a_message_quotes(response: Response, message: str) -> None:
    assert fetched(response).message == message


@pytest.mark.parametrize("task_id", [ID, ID.upper()])
def test_the_id_may_be_written_differently(task_id: str) -> None:
    """Spaces and case do not make it another task, and a number is not another text."""
    assert fetched(reply(200, {"task_id": f" {ID} ", "status": "x"}), task_id).word == "x"
    assert fetched(reply(200, [{"task_id": 7, "status": "x"}]), "7").word == "x"


@pytest.mark.parametrize(
    "body",
    [
        {"tasks": [{"task_id": "b", "percentage": 2}, {"task_id": "a", "percentage": 1}]},
        {"data": {"tasks": [{"task_id": "a", "percentage": 1}, {"task_id": " B", "percentage": 2}]}},
        {"data": [{"task_id": "a", "percentage": 1}, {"data": {"task_id": "b", "percentage": 2}}]},
        {"tasks": [None, 5, {"task_id": "c"}, {"task_id": "a", "percentage": 1}, {"id": "b", "percentage": 2}]},
    ],
)
def test_several_tasks_with_one_request(body: object) -> None:
    """Matched by ID: the service promises no order."""
    transport = Scripted(reply(200, body))
    found = Client(transport).fetch_many(["a", "b"])
    assert {task_id: getattr(task, "percentage", None) for task_id, task in found.items()} == {"a": 1, "b": 2}
    assert transport.requests == [("/fetch-many", {"task_ids": ["a", "b"]})]


def test_what_the_common_response_lacks_is_fetched_alone() -> None:
    """An error without a status too: alone, the status code says whether it is about the ID."""
    tasks = [{"task_id": "a", "status": "x"}, {"task_id": "b", "error": "not found"}]
    transport = Scripted(reply(200, {"tasks": tasks}), reply(404, {}), reply(200, {"status": "failed"}))
    found = Client(transport).fetch_many(["a", "b", "c"])
    assert isinstance(found["b"], UnknownTaskError)
    assert [getattr(found[each], "status", None) for each in "ac"] == [Status.PROCESSING, Status.FAILED]
    assert [path for path, _ in transport.requests] == ["/fetch-many", "/fetch", "/fetch"]


def test_one_bad_id_costs_the_others_nothing() -> None:
    """A request that is rejected as a whole is repeated ID by ID."""
    transport = Scripted(reply(400, errors("bad ID")), reply(200, {"status": "x"}), reply(400, errors("bad ID")))
    found = Client(transport).fetch_many(["a", "b"])
    assert isinstance(found["b"], UsageError)
    assert getattr(found["a"], "word", None) == "x"


def test_a_rate_limit_ends_the_single_requests() -> None:
    """The remaining IDs would meet it as well."""
    transport = Scripted(reply(200, {"tasks": [{"task_id": "a", "status": "x"}]}), reply(429, {}))
    found = Client(transport).fetch_many(["a", "b", "c"])
    assert isinstance(found["b"], RateLimitedError)
    assert isinstance(found["c"], RateLimitedError)
    with pytest.raises(RateLimitedError):
        Client(Scripted(reply(400, {}), reply(429, {}))).fetch_many(["a", "b"])


# The account and the key


@pytest.mark.parametrize("nest", [lambda values: values, lambda values: {"data": values}])
def test_the_account(nest: Any) -> None:
    account = Client(Scripted(reply(200, nest({"email": "a@b", "credits": "7"})))).account()
    assert account == {"email": "a@b", "credits": "7", "total_images": None, "plan": None}


def test_no_account() -> None:
    """A 404 here is not about a task."""
    with pytest.raises(ServiceDownError, match="no /account"):
        Client(Scripted(reply(404, {}))).account()


@pytest.mark.parametrize("url", ["https://api.apiframe.pro", "https://API.apiframe.pro:443/"])
def test_a_key_of_the_other_api(url: str) -> None:
    """It is rejected for the default URL only; another URL may take it."""
    with pytest.raises(NotAllowedError, match=r"^the key starts with afk_: [^0-9]*$"):
        check_key_kind("afk_0123456789", url)
    check_key_kind("afk_0123456789", "https://api.example")
    check_key_kind("0123456789afk_", url)
