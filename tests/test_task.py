"""Responses about tasks are interpreted tolerantly; no response causes an exception."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.client import parse_retry_after
from flux_cli.api.reasons import MAX_CHARACTERS, read_reason
from flux_cli.api.task import (
    FAILED_WORDS,
    FINISHED_WORDS,
    RUNNING_WORDS,
    Status,
    is_task_id,
    read_percentage,
    read_task,
    read_task_id,
    recorded_url,
    resolve_url,
)

API = "https://api.example"
URL = "https://images.example/x.png"
ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = (
    "task_id id task_type status state percentage image_url image_urls images original_image_url "
    "error errors message detail reason fail_reason loc msg url data task result success"
).split()
WORDS = st.sampled_from(sorted(FAILED_WORDS | FINISHED_WORDS | RUNNING_WORDS))
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON | WORDS, max_size=8),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner | st.lists(inner, max_size=2) | JSON, max_size=5),
    max_leaves=4,
)

# Status words

SPELLINGS = {
    Status.PROCESSING: ["pending", "Queued", "in progress", "IN_PROGRESS", "in-progress", "simmering", "retry"],
    Status.FAILED: [
        *("failed", "FAILED.", "ERROR", "Failure", "rejected", "Cancelled", "canceled", "expired", "aborted"),
        *("timed out", "timed_out", "TIMED-OUT", "timeout", "moderated", "Request Moderated", "content_moderated"),
        *("not found", "NOT_FOUND", "Task not found"),
    ],
    Status.FINISHED: ["finished", "COMPLETED", "Complete", "ready", "Succeeded", "success", "done", " Done! "],
}


@pytest.mark.parametrize(
    ("status", "word"), [(status, word) for status in SPELLINGS for word in SPELLINGS[status]]
)
def test_status_words(status: Status, word: str) -> None:
    """In any case, with spaces and punctuation; a word that is not known means running."""
    task = read_task({"task_id": ID, "status": word, "image_url": URL if status is Status.FINISHED else None}, ID)
    assert (task.status, task.word) == (status, word.strip())
    assert status is not Status.FAILED or task.error == f'the service gave no reason (status "{word}")'


@pytest.mark.parametrize("word", SPELLINGS[Status.FINISHED])
def test_finished_without_a_url(word: str) -> None:
    """Such a task is polled a little longer; with a percentage below 100 the word is about the response."""
    for response, expected in (
        ({"status": word}, True),
        ({"status": word, "percentage": 100, "image_url": ""}, True),
        ({"status": word, "percentage": 40}, False),
        ({"status": word, "image_url": URL}, False),
        ({"status": "processing"}, False),
    ):
        assert read_task(response, ID).finished_without_url is expected


@pytest.mark.parametrize(
    ("response", "remark"),
    [
        ({"status": "processing"}, None),
        ({"status": "In Progress"}, None),
        ({"percentage": 5}, None),
        ({"status": "processing", "message": "3 tasks ahead"}, "3 tasks ahead"),
        ({"status": "simmering"}, 'status "simmering"'),
        ({"status": "On hold", "message": "verify your account"}, 'status "On hold": verify your account'),
        ({"status": "retry", "error": "a worker died"}, "a worker died"),
        ({"status": "finished"}, 'status "finished"'),
        ({"status": "x" * 100}, f'status "{"x" * 60}"'),
    ],
)
def test_what_a_timeout_message_quotes(response: dict[str, object], remark: str | None) -> None:
    assert read_task(response, ID).remark == remark


# A response about a task

Reading = tuple[Status, float | None, str | None]
RUNNING, FINISHED, FAILED = (
    (Status.PROCESSING, None, None),
    (Status.FINISHED, 100, None),
    (Status.FAILED, None, "no"),
)
READINGS: list[tuple[Reading, dict[str, Any]]] = [
    ((Status.PROCESSING, 40, None), {"status": "processing", "percentage": 40}),
    ((Status.PROCESSING, 7, None), {"percentage": 7}),
    ((Status.PROCESSING, 3, None), {"status": True, "data": {"percentage": 3}}),
    ((Status.PROCESSING, 5, None), {"percentage": 5, "error": "a worker died"}),
    ((Status.PROCESSING, 40, None), {"data": {"status": "processing", "percentage": 40}}),
    ((Status.PROCESSING, 3, None), {"task": {"state": "running", "percentage": "3"}}),
    (RUNNING, {"task_id": ID}),
    (RUNNING, {"task_id": f" {ID} "}),
    *((RUNNING, {"status": "finished", "image_url": url}) for url in (None, "  ", "null", 5)),
    (RUNNING, {"status": "finished", "images": []}),
    (RUNNING, {"task_id": ID, "message": "in the queue"}),
    (RUNNING, {"status": "processing", "message": "in the queue"}),
    (RUNNING, {"status": "retry", "error": "a worker died"}),
    (RUNNING, {"status": "success", "data": {"status": "processing"}}),
    (RUNNING, {"data": [{"status": "processing"}]}),
    (RUNNING, {"status": "starting", "urls": {"get": "https://api.example/x"}}),
    (FINISHED, {"task_id": ID, "task_type": "flux-imagine", "image_url": URL}),
    (FINISHED, {"status": "finished", "image_url": URL, "percentage": 100}),
    *((FINISHED, {"status": word, "image_url": URL}) for word in ("processing", "simmering")),
    (FINISHED, {"id": "x", "status": "Ready", "result": {"sample": URL}}),
    (FAILED, {"status": "failed", "image_url": URL, "message": "no"}),
    (FAILED, {"errors": [{"msg": "no"}]}),
    (FAILED, {"success": False, "message": "no"}),
    (FAILED, {"error": True, "message": "no"}),
    (FAILED, {"status": False, "message": "no"}),
    (FAILED, {"status": "done", "error": "no"}),
    (FAILED, {"code": 200, "message": "success", "data": {"status": "failed", "fail_reason": "no"}}),
    ((Status.FAILED, None, 'the service gave no reason (status "failed")'), {"status": "failed"}),
]


@pytest.mark.parametrize(("reading", "response"), READINGS)
def test_responses(response: dict[str, Any], reading: Reading) -> None:
    """A URL means finished, a failure has a reason, and everything else is still running."""
    task = read_task(response, ID)
    assert (task.status, task.percentage, task.error) == reading


@pytest.mark.parametrize(
    "response", [{}, {"message": "hello"}, {"task_id": "another"}, {"data": {}}, {"status": 5}]
)
def test_responses_that_say_nothing(response: dict[str, object]) -> None:
    """They are not a task; the message is the reason that the response gives, if any."""
    with pytest.raises(ValueError, match=r"describes no task|hello"):
        read_task(response, ID)


@given(OBJECTS)
def test_any_object_is_a_task_or_a_value_error(response: dict[str, Any]) -> None:
    assert (task_id := read_task_id(response)) is None or is_task_id(task_id)
    try:
        task = read_task(response, ID, API)
    except ValueError:
        return
    assert task.status in (Status.PROCESSING, Status.FINISHED, Status.FAILED)
    assert (task.image_url is not None) or task.status is not Status.FINISHED
    assert (task.error is not None) == (task.status is Status.FAILED)
    assert task.percentage is None or 0 <= task.percentage <= 100
    for text in (task.image_url, task.original_image_url, task.task_type, task.error, task.word, task.remark):
        assert text is None or (text == text.strip() != "" and text.encode())
    assert len(task.error or "") <= MAX_CHARACTERS


# The URL of a picture

PLACES: list[dict[str, Any]] = [
    *({"image_url": value} for value in (URL, [URL, "https://images.example/2.png"], {"url": URL})),
    {"image_urls": [URL]},
    {"image_url": "", "images": [{"url": URL, "width": 1}]},
    {"images": [{"image_url": URL}]},
    {"data": {"image_url": URL}},
    {"task": {"image_urls": [URL]}},
    {"result": {"images": [{"url": URL}]}},
    {"image_url": None, "result": {"image_url": URL}},
    {"image_url": URL, "result": {"image_url": None}},
    *({"status": "done", **place} for place in ({"url": URL}, {"output": [URL]}, {"result": URL})),
    {"status": "done", "data": [{"url": URL}]},
]


@pytest.mark.parametrize("response", PLACES)
def test_places_of_a_url(response: dict[str, Any]) -> None:
    task = read_task(response, ID, API)
    assert (task.status, task.image_url) == (Status.FINISHED, URL)


@pytest.mark.parametrize(
    ("url", "api_url", "expected"),
    [
        (URL, API, URL),
        ("//cdn.example/x.png", API, "https://cdn.example/x.png"),
        ("//cdn.example/x.png", "http://127.0.0.1:80", "http://cdn.example/x.png"),
        ("/images/x.png?a=1", API, "https://api.example/images/x.png?a=1"),
        ("images/x.png", API, "https://api.example/images/x.png"),
        ("/images/x.png", "http://127.0.0.1:8000", "http://127.0.0.1:8000/images/x.png"),
        ("http://cdn.example/x.png", API, "https://cdn.example/x.png"),
        ("HTTP://cdn.example:80/x.png", API, "https://cdn.example/x.png"),
        ("http://cdn.example:8080/x.png", API, "https://cdn.example:8080/x.png"),
        ("http://cdn.example/x.png", "http://127.0.0.1:8000", "http://cdn.example/x.png"),
        ("data:image/png;base64,iVBORw0K", API, "data:image/png;base64,iVBORw0K"),
        ("http://[::1", API, "http://[::1"),
        ("//cdn.example/x.png", "", "//cdn.example/x.png"),
        ("x.png", "", "x.png"),
    ],
)
def test_resolving_urls(url: str, api_url: str, expected: str) -> None:
    """Relative URLs belong to the API, and http becomes https if the API is https."""
    assert resolve_url(url, api_url) == expected
    task = read_task({"image_url": url, "original_image_url": [url]}, ID, api_url)
    assert (task.image_url, task.original_image_url) == (expected, expected)


@given(st.text(st.characters(codec=None)))
def test_any_text_is_resolved(url: str) -> None:
    assert not resolve_url(url, API).lower().startswith("http:") or "[" in url or "]" in url


def test_a_data_url_is_not_recorded() -> None:
    assert len(recorded_url("data:image/png;base64," + "A" * 10_000) or "") < 100
    assert recorded_url(URL) == URL
    assert recorded_url(None) is None


# Reasons


NO_REASON: list[Any] = [
    {"error": [[[[["too deep"]]]]]},
    {"error": {"error": {"error": {"error": {"error": {"error": "too deep"}}}}}},
    {"error": {"a": {"b": {"c": {"d": {"e": "too deep"}}}}}},
    *({"error": nothing, "message": " "} for nothing in (5, False, "null", None)),
    *({}, "no", None),
]
REASONS: dict[str | None, list[Any]] = {
    "no": [
        {"errors": {"msg": "no"}},
        {"errors": [{"msg": "no"}, {"msg": "no"}]},
        {"errors": ["no", None, 5, {}]},
        {"error": "no"},
        {"error": {"message": "no"}},
        {"error": {"error": {"message": "no"}}},
        {"error": {"code": 5, "details": ["no"]}},
        {"error": "", "message": "no"},
        {"error": None, "detail": "no"},
        {"detail": {"reason": "no"}},
        *({"message": "failed", name: "no"} for name in ("reason", "fail_reason")),
        {"message": "ok", "data": {"error": "no"}},
        *({"message": "no"}, {"msg": "no"}, {"result": {"message": "no"}}),
        {"error": [{"message": [{"message": "no"}]}]},
        {"error": [[[["no"]]]]},
        {"error": {"error": {"error": {"error": {"error": "no"}}}}},
    ],
    None: NO_REASON,
    "a; b": [{"errors": [{"msg": "a"}, {"msg": "b"}]}],
    "prompt: is too long; prompt: is rude": [{"errors": {"prompt": ["is too long", "is rude"]}}],
    "body.prompt: required": [{"detail": [{"loc": ["body", "prompt"], "msg": "required"}]}],
    "prompt: a; b": [{"detail": [{"loc": "prompt", "msg": "a"}, {"msg": "b"}]}],
    "a.b.c.d.e.f.g.h.i.j: no": [{"detail": [{"loc": list("abcdefghijkl"), "msg": "no"}]}],
    "body.0: no": [{"detail": [{"loc": ["body", 0, True], "msg": "no"}]}],
    "a: b: c: d: deep": [{"error": {"a": {"b": {"c": {"d": "deep"}}}}}],
    "half a \ufffd face": [{"error": "half a \ud83d face"}],
    "x" * MAX_CHARACTERS: [{"error": "x" * 3000}],
    "; ".join(map(str, range(20))): [{"errors": [str(number) for number in range(30)]}],
}


@pytest.mark.parametrize("reason", REASONS, ids=range(len(REASONS)))
def test_reasons(reason: str | None) -> None:
    """Wherever a response states them, errors before a mere message."""
    for response in REASONS[reason]:
        assert read_reason(response) == reason, response


# Percentages


@pytest.mark.parametrize(
    ("percentage", "values"),
    [
        (40, (40, "40", " 40 %", "40%")),
        (40.5, (40.5,)),
        (0, (-5,)),
        (100, (101,)),
        (None, (10**400, "1e400", "nan", math.inf, True, None, "", "forty", [40], "9" * 5000)),
    ],
)
def test_percentages(percentage: float | None, values: tuple[object, ...]) -> None:
    assert [read_percentage(value) for value in values] == [percentage] * len(values)


# Headers and IDs

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("seconds", "values"),
    [
        (5, ("5", " 5 ")),
        (2.5, ("2.5",)),
        (10, ("Tue, 14 Nov 2023 22:13:30 GMT", "Tue, 14 Nov 2023 22:13:30 -0000")),
        (0, ("-5", "-inf", "Thu, 01 Jan 1970 00:00:00 GMT")),
        (86400, ("inf", "9" * 5000, "1e999")),
        (86400, ("Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -2359")),
        (None, (None, "nan", "soon", "", "5, 6", "Tue, 99 Nov 2023 99:99:99 GMT")),
    ],
)
def test_retry_after(seconds: float | None, values: tuple[str | None, ...]) -> None:
    """Seconds or a date, whatever servers really send; never negative, at most a day."""
    assert [parse_retry_after(value, NOW) for value in values] == [seconds] * len(values)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [-+A-Z0-9]{1,6}"))
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= 86400


@given(st.text())
def test_task_ids_are_visible_ascii(text: str) -> None:
    """An ID is harmless in a request, a file name, a hint and a history."""
    assert not is_task_id(text) or (
        text.isascii() and not set(text) & set(" \t\r\n\x00\x1b\x7f") and len(text) <= 200
    )


@pytest.mark.parametrize(
    ("task_id", "responses"),
    [
        (
            ID,
            (
                *({"task_id": ID}, {"task_id": f" {ID}\n"}, {"taskId": ID}, [{"task_id": ID}]),
                *({"data": {"task_id": ID}}, {"task": {"id": ID}}, {"result": [{"task_id": ID}]}),
                *({"id": ID, "status": "pending"}, {"task_id": ID, "error": "odd", "id": "request-1"}),
            ),
        ),
        ("42", ({"task_id": 42},)),
        (None, ({"task": "flux-imagine"}, {"id": "request-1", "error": "no"}, {}, [], "text", None)),
        (None, [{"task_id": value} for value in (None, True, 1.5, "", "a b", "\x1b[2J", "x" * 300)]),
    ],
)
def test_task_ids_in_responses(task_id: str | None, responses: Sequence[object]) -> None:
    """A number, spaces around it, one level of nesting; a mere `id` beside an error is the request's."""
    assert [read_task_id(response) for response in responses] == [task_id] * len(responses)
