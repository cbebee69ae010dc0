"""Responses about tasks are interpreted tolerantly; no response causes an exception."""

import math
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
    assert read_task({"status": word}, ID).finished_without_url
    assert read_task({"status": word, "percentage": 100, "image_url": ""}, ID).finished_without_url
    assert not read_task({"status": word, "percentage": 40}, ID).finished_without_url
    assert not read_task({"status": word, "image_url": URL}, ID).finished_without_url
    assert not read_task({"status": "processing"}, ID).finished_without_url


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
    """An unknown word, and any message next to the status."""
    assert read_task(response, ID).remark == remark


# A response about a task

READINGS: list[tuple[dict[str, Any], Status, float | None, str | None]] = [
    ({"status": "processing", "percentage": 40}, Status.PROCESSING, 40, None),
    ({"task_id": ID, "task_type": "flux-imagine", "image_url": URL}, Status.FINISHED, 100, None),
    ({"status": "finished", "image_url": URL, "percentage": 100}, Status.FINISHED, 100, None),
    ({"status": "processing", "image_url": URL}, Status.FINISHED, 100, None),
    ({"status": "simmering", "image_url": URL}, Status.FINISHED, 100, None),
    ({"task_id": ID}, Status.PROCESSING, None, None),
    ({"task_id": f" {ID} "}, Status.PROCESSING, None, None),
    ({"percentage": 7}, Status.PROCESSING, 7, None),
    ({"status": "finished", "image_url": None}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": "  "}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": "null"}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": 5}, Status.PROCESSING, None, None),
    ({"status": "finished", "images": []}, Status.PROCESSING, None, None),
    ({"status": "failed", "image_url": URL, "message": "no"}, Status.FAILED, None, "no"),
    ({"status": "failed"}, Status.FAILED, None, 'the service gave no reason (status "failed")'),
    ({"errors": [{"msg": "no"}]}, Status.FAILED, None, "no"),
    ({"success": False, "message": "no"}, Status.FAILED, None, "no"),
    ({"error": True, "message": "no"}, Status.FAILED, None, "no"),
    ({"status": False, "message": "no"}, Status.FAILED, None, "no"),
    ({"status": True, "data": {"percentage": 3}}, Status.PROCESSING, 3, None),
    ({"status": "done", "error": "moderated"}, Status.FAILED, None, "moderated"),
    ({"task_id": ID, "message": "in the queue"}, Status.PROCESSING, None, None),
    ({"status": "processing", "message": "in the queue"}, Status.PROCESSING, None, None),
    ({"status": "retry", "error": "a worker died"}, Status.PROCESSING, None, None),
    ({"percentage": 5, "error": "a worker died"}, Status.PROCESSING, 5, None),
    ({"data": {"status": "processing", "percentage": 40}}, Status.PROCESSING, 40, None),
    (
        {"code": 200, "message": "success", "data": {"status": "failed", "fail_reason": "no"}},
        Status.FAILED,
        None,
        "no",
    ),
    ({"status": "success", "data": {"status": "processing"}}, Status.PROCESSING, None, None),
    ({"task": {"state": "running", "percentage": "3"}}, Status.PROCESSING, 3, None),
    ({"id": "x", "status": "Ready", "result": {"sample": URL}}, Status.FINISHED, 100, None),
    ({"data": [{"status": "processing"}]}, Status.PROCESSING, None, None),
    ({"status": "starting", "urls": {"get": "https://api.example/x"}}, Status.PROCESSING, None, None),
]


@pytest.mark.parametrize(("response", "status", "percentage", "error"), READINGS)
def test_responses(response: dict[str, Any], status: Status, percentage: float | None, error: str | None) -> None:
    """A URL means finished, a failure has a reason, and everything else is still running."""
    task = read_task(response, ID)
    assert (task.status, task.percentage, task.error) == (status, percentage, error)


@pytest.mark.parametrize(
    "response", [{}, {"message": "hello"}, {"task_id": "another"}, {"data": {}}, {"status": 5}]
)
def test_responses_that_say_nothing(response: dict[str, object]) -> None:
    """They are not a task; the message is the reason that the response gives, if any."""
    with pytest.raises(ValueError, match=r"describes no task|hello"):
        read_task(response, ID)


@given(OBJECTS)
def test_any_object_is_a_task_or_a_value_error(response: dict[str, Any]) -> None:
    """Every object that is accepted as a task has the guarantees of Task."""
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
    {"image_url": URL},
    {"image_url": [URL, "https://images.example/2.png"]},
    {"image_url": {"url": URL}},
    {"image_urls": [URL]},
    {"image_url": "", "images": [{"url": URL, "width": 1}]},
    {"images": [{"image_url": URL}]},
    {"data": {"image_url": URL}},
    {"task": {"image_urls": [URL]}},
    {"result": {"images": [{"url": URL}]}},
    {"image_url": None, "result": {"image_url": URL}},
    {"image_url": URL, "result": {"image_url": None}},
    {"status": "done", "url": URL},
    {"status": "done", "output": [URL]},
    {"status": "done", "result": URL},
    {"status": "done", "data": [{"url": URL}]},
]


@pytest.mark.parametrize("response", PLACES)
def test_places_of_a_url(response: dict[str, Any]) -> None:
    """Text, lists and objects, here or one level down."""
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
    """Nothing raises, and https stays https."""
    assert not resolve_url(url, API).lower().startswith("http:") or "[" in url or "]" in url


def test_a_data_url_is_not_recorded() -> None:
    """It is the picture itself."""
    assert len(recorded_url("data:image/png;base64," + "A" * 10_000) or "") < 100
    assert recorded_url(URL) == URL
    assert recorded_url(None) is None


# Reasons


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"errors": [{"msg": "a"}, {"msg": "b"}]}, "a; b"),
        ({"errors": [{"msg": "a"}, {"msg": "a"}]}, "a"),
        ({"errors": ["a", None, 5, {}]}, "a"),
        ({"errors": {"msg": "no"}}, "no"),
        ({"errors": {"prompt": ["is too long", "is rude"]}}, "prompt: is too long; prompt: is rude"),
        ({"error": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"error": {"error": {"message": "no"}}}, "no"),
        ({"error": {"code": 5, "details": ["no"]}}, "no"),
        ({"error": "", "message": "no"}, "no"),
        ({"error": None, "detail": "no"}, "no"),
        ({"detail": [{"loc": ["body", "prompt"], "msg": "field required"}]}, "body.prompt: field required"),
        ({"detail": [{"loc": "prompt", "msg": "a"}, {"msg": "b"}]}, "prompt: a; b"),
        ({"detail": {"reason": "no"}}, "no"),
        ({"message": "failed", "reason": "no"}, "no"),
        ({"message": "failed", "fail_reason": "no"}, "no"),
        ({"message": "ok", "data": {"error": "no"}}, "no"),
        ({"message": "no"}, "no"),
        ({"msg": "no"}, "no"),
        ({"result": {"message": "no"}}, "no"),
        ({"error": "half a \ud83d face"}, "half a \ufffd face"),
        ({"error": "x" * 3000}, "x" * MAX_CHARACTERS),
        ({"errors": [str(number) for number in range(30)]}, "; ".join(str(number) for number in range(20))),
        ({"error": [{"message": [{"message": "deep"}]}]}, "deep"),
        ({"error": [[[["deep"]]]]}, "deep"),
        ({"error": [[[[["too deep"]]]]]}, None),
        ({"error": {"error": {"error": {"error": {"error": "deep"}}}}}, "deep"),
        ({"error": {"error": {"error": {"error": {"error": {"error": "too deep"}}}}}}, None),
        ({"error": {"a": {"b": {"c": {"d": "deep"}}}}}, "a: b: c: d: deep"),
        ({"error": {"a": {"b": {"c": {"d": {"e": "too deep"}}}}}}, None),
        ({"detail": [{"loc": list("abcdefghijkl"), "msg": "no"}]}, "a.b.c.d.e.f.g.h.i.j: no"),
        ({"detail": [{"loc": ["body", 0, True], "msg": "no"}]}, "body.0: no"),
        ({"error": 5}, None),
        ({"error": False, "message": " "}, None),
        ({"error": "null"}, None),
        ({}, None),
        ("no", None),
        (None, None),
    ],
)
def test_reasons(response: object, reason: str | None) -> None:
    """Wherever a response states them, errors before a mere message."""
    assert read_reason(response) == reason


@given(JSON | OBJECTS)
def test_any_value_has_a_reason_or_none(value: object) -> None:
    """Never an empty one, never a long one."""
    reason = read_reason(value)
    assert reason is None or 0 < len(reason) <= MAX_CHARACTERS


# Percentages


@pytest.mark.parametrize(
    ("value", "percentage"),
    [
        (40, 40),
        (40.5, 40.5),
        ("40", 40),
        (" 40 %", 40),
        ("40%", 40),
        (-5, 0),
        (101, 100),
        (10**400, None),
        ("1e400", None),
        ("nan", None),
        (math.inf, None),
        (True, None),
        (None, None),
        ("", None),
        ("forty", None),
        ([40], None),
        ("9" * 5000, None),
    ],
)
def test_percentages(value: object, percentage: float | None) -> None:
    """A number or a text that holds one, clamped; anything else is none."""
    assert read_percentage(value) == percentage


@given(JSON)
def test_any_value_is_a_percentage_or_none(value: object) -> None:
    """Never a NaN, never out of range."""
    percentage = read_percentage(value)
    assert percentage is None or 0 <= percentage <= 100


# Headers and IDs

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 5 ", 5),
        ("2.5", 2.5),
        ("-5", 0),
        ("nan", None),
        ("inf", 86400),
        ("-inf", 0),
        ("9" * 5000, 86400),
        ("1e999", 86400),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("Tue, 14 Nov 2023 22:13:30 -0000", 10),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86400),
        ("soon", None),
        ("", None),
        ("5, 6", None),
        ("Tue, 99 Nov 2023 99:99:99 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or a date, whatever servers really send; never negative, at most a day."""
    assert parse_retry_after(value, NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [-+A-Z0-9]{1,6}"))
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    """Never an exception, never a NaN."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= 86400


@given(st.text())
def test_task_ids_are_visible_ascii(text: str) -> None:
    """An ID is harmless in a request, a file name, a hint and a history."""
    assert not is_task_id(text) or (
        text.isascii() and not set(text) & set(" \t\r\n\x00\x1b\x7f") and len(text) <= 200
    )


@pytest.mark.parametrize(
    ("response", "task_id"),
    [
        ({"task_id": ID}, ID),
        ({"task_id": f" {ID}\n"}, ID),
        ({"task_id": 42}, "42"),
        ({"taskId": ID}, ID),
        ({"data": {"task_id": ID}}, ID),
        ({"task": {"id": ID}}, ID),
        ({"result": [{"task_id": ID}]}, ID),
        ([{"task_id": ID}], ID),
        ({"task": "flux-imagine"}, None),
        ({"id": ID, "status": "pending"}, ID),
        ({"task_id": ID, "error": "odd", "id": "request-1"}, ID),
        ({"id": "request-1", "error": "no"}, None),
        ({"task_id": None}, None),
        ({"task_id": True}, None),
        ({"task_id": 1.5}, None),
        ({"task_id": ""}, None),
        ({"task_id": "a b"}, None),
        ({"task_id": "\x1b[2J"}, None),
        ({"task_id": "x" * 300}, None),
        ({}, None),
        ([], None),
        ("text", None),
    ],
)
def test_task_ids_in_responses(response: object, task_id: str | None) -> None:
    """A number, spaces around it, one level of nesting; a mere `id` beside an error is the request's."""
    assert read_task_id(response) == task_id
