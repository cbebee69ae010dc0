"""What the service's answers mean: read tolerantly, and never a crash, whatever comes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.client import is_task_id, parse_retry_after
from flux_cli.api.redaction import MIN_SECRET_CHARACTERS, Redactor
from flux_cli.api.task import MAX_ERROR_CHARACTERS, Status, read_error, read_percentage, read_task
from flux_cli.api.transport import Response
from tests.conftest import Cli

URL = "https://images.example/x.png"
ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = "task_id task_type status percentage image_url original_image_url error errors message".split()
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=8)


# One answer about a task

Reading = tuple[dict[str, object], Status, float | None, str | None]
WORDS: list[Reading] = [
    ({"status": word}, Status.PROCESSING, None, None) for word in ("pending", "queued", "staged", "retry", "x")
]
READINGS: list[Reading] = [
    ({"status": "processing", "percentage": 40}, Status.PROCESSING, 40, None),
    ({"task_id": ID, "task_type": "flux-imagine", "image_url": URL}, Status.FINISHED, 100, None),
    ({"status": "finished", "image_url": URL, "percentage": 100}, Status.FINISHED, 100, None),
    ({"status": "completed", "image_url": URL}, Status.FINISHED, 100, None),
    ({"status": "COMPLETED", "image_url": URL}, Status.FINISHED, 100, None),
    ({"status": "finished"}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": None}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": "  "}, Status.PROCESSING, None, None),
    ({"status": "finished", "image_url": 5}, Status.PROCESSING, None, None),
    ({"status": "processing", "image_url": URL}, Status.FINISHED, 100, None),
    *WORDS,
    ({"task_id": ID}, Status.PROCESSING, None, None),
    ({"percentage": 7}, Status.PROCESSING, 7, None),
    ({"status": "failed", "errors": [{"msg": "no"}]}, Status.FAILED, None, "no"),
    ({"status": "failed", "errors": [{"msg": "a"}, {"msg": "b"}]}, Status.FAILED, None, "a; b"),
    ({"status": "failed", "errors": ["a", None, 5, {}]}, Status.FAILED, None, "a"),
    ({"status": "failed", "errors": {"msg": "no"}}, Status.FAILED, None, "no"),
    ({"status": "error", "error": "no"}, Status.FAILED, None, "no"),
    ({"status": "error", "error": {"message": "no"}}, Status.FAILED, None, "no"),
    ({"status": "cancelled", "message": "no"}, Status.FAILED, None, "no"),
    ({"status": "failed", "image_url": URL, "message": "no"}, Status.FAILED, None, "no"),
    ({"status": "failed"}, Status.FAILED, None, "the service gave no reason"),
    ({"status": "failed", "error": "\ud83d"}, Status.FAILED, None, "\ufffd"),
    ({"errors": [{"msg": "no"}]}, Status.FAILED, None, "no"),
    ({"status": "processing", "message": "in line"}, Status.PROCESSING, None, None),
    ({"status": "retry", "error": "a worker went away"}, Status.PROCESSING, None, None),
]


@pytest.mark.parametrize(("answer", "status", "percentage", "error"), READINGS)
def test_answers_as_they_are_seen_in_the_field(
    answer: dict[str, object], status: Status, percentage: float | None, error: str | None
) -> None:
    """An image_url is what says that a task is done; a failure has a reason; the rest still runs."""
    task = read_task(answer, ID)
    assert (task.status, task.percentage, task.error) == (status, percentage, error)


@given(OBJECTS)
def test_any_object_is_a_task_or_a_value_error(answer: dict[str, object]) -> None:
    """What is promised of a task holds for every object that is taken for one; the rest is refused."""
    try:
        task = read_task(answer, ID)
    except ValueError:
        return
    assert task.status in (Status.PROCESSING, Status.FINISHED, Status.FAILED)
    assert (task.image_url is not None) or task.status is not Status.FINISHED
    assert (task.error is not None) == (task.status is Status.FAILED)
    assert task.percentage is None or 0 <= task.percentage <= 100
    for text in (task.image_url, task.original_image_url, task.task_type, task.error):
        assert text is None or (text == text.strip() != "" and text.encode())
    assert len(task.error or "") <= MAX_ERROR_CHARACTERS


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


@given(JSON)
def test_any_value_has_a_reason_or_none(value: object) -> None:
    """Never an empty one, never a long one."""
    reason = read_error(value)
    assert reason is None or 0 < len(reason) <= MAX_ERROR_CHARACTERS


# The body of an answer


def redactor(secret: str) -> Redactor:
    """Return a redactor that knows one secret."""
    made = Redactor()
    made.add(secret)
    return made


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_json_or_a_value_error(content: bytes) -> None:
    """Numbers are finite whatever was written; nothing else than ValueError is raised."""
    try:
        value = Response(200, {}, content, redactor("secret-0123456789")).json()
    except ValueError:
        return
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": NaN, "b": Infinity, "c": -Infinity}', {"a": None, "b": None, "c": None}),
        ('{"a": 1e999, "b": -1e999, "c": 1e-999}', {"a": None, "b": None, "c": 0.0}),
        ('{"a": %s}' % ("1" * 5000), {"a": None}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("[" * 100_000, ValueError),
        ('{"a":' * 100_000, ValueError),
        ("[" * 100_000 + "]" * 100_000, ValueError),
        ("", ValueError),
        ("{} {}", ValueError),
        ("\ufeff{}", {}),
        ('"\\ud800"', "\ud800"),
    ],
    ids=range(11),
)
def test_bodies(text: str, value: object) -> None:
    """Absurd numbers are none, absurd nesting is refused."""
    answer = Response(200, {}, text.encode())
    if value is ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            answer.json()
    else:
        assert answer.json() == value


@given(st.text(st.characters(codec="utf-8"), min_size=MIN_SECRET_CHARACTERS), JSON)
def test_a_secret_is_found_however_it_is_written(secret: str, value: object) -> None:
    """In JSON that we wrote ourselves it can then be recognised, and is gone; the answer stays JSON."""
    written = "".join(f"\\u{unit:04x}" for unit in memoryview(secret.encode("utf-16-le")).cast("H"))
    content = json.dumps(value).encode()
    body = b'{"a": ["' + written.encode() + b'", ' + content + b"]}"
    response = Response(200, {}, body, redactor(secret))
    assert "[redacted]" in response.text()
    assert response.json()["a"][0] == "[redacted]"
    assert secret not in str(response.json()["a"][1])


# Headers and ids

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
    """What goes into a request, a file name, a hint and a history is harmless in all of them."""
    assert not is_task_id(text) or (
        text.isascii() and not set(text) & set(" \t\r\n\x00\x1b\x7f") and len(text) <= 200
    )


# Ids on standard input


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no task ids"),
        ("\n \n", "no task ids"),
        ("{}", "line 1 of stdin is not a JSON object with a `task_id`"),
        ('a\n{"task_id": 5}', "line 2 of stdin: `task_id` has to be text"),
        ('{"task_id": "a b"}', "is not a task id"),
        ('{"task_id": "\\u001b[2J"}', "is not a task id"),
        ('{"task_id": null}', "line 1 of stdin has no task id"),
        ("{" * 100_000, "is not a JSON object"),
        ('{"task_id": %s}' % ("1" * 5000), "is not a JSON object"),
        ("[1]\x00", "is not a task id"),
        ("é", "is not a task id"),
        ("x" * 201, "is not a task id"),
        (b"\xff".decode("latin-1"), "is not a task id"),
    ],
)
def test_ids_on_stdin_that_cannot_be_read(cli: Cli, text: str, said: str) -> None:
    """One clear error with the line's number; nothing is sent."""
    cli.env |= {"APIFRAME_API_KEY": "x" * 10, "FLUX_CLI_API_URL": "http://127.0.0.1:1"}
    done = cli("fetch", "-", input=text)
    assert done.code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
