"""The description of a task at a given time, with and without faults."""

import json
from collections.abc import Mapping

import pytest

from flux_cli.api.task import Status, read_task
from flux_cli.sandbox.faults import FAULTS, REASON_FIELDS, Stage, faults_in
from flux_cli.sandbox.tasks import HOSTILE_TEXT, Task, describe, to_json

REASON = "the prompt asked for this failure"
URLS = ("http://cdn/t.png", "http://cdn/t-original.png")
RESULT = {
    "task_id": "t",
    "task_type": "flux-imagine",
    "original_image_url": URLS[1],
    "image_url": URLS[0],
    "status": "finished",
    "percentage": 100,
}
ELSEWHERE = {
    "slow",
    "seconds",
    "data-url",
    "protocol-relative",
    "host-relative",
    "unknown-task",
    "number-id",
    "spaced-id",
}
"""Faults of other modules than this one; test_faults.py has their tests."""


def at(share: float, prompt: str) -> dict[str, object]:
    """Return the JSON object of a task after this share of its duration."""
    task = Task("t", 1000.0, 10.0, 1, {"prompt": prompt}, faults_in(prompt))
    found: dict[str, object] = json.loads(to_json(describe(task, 1000 + 10 * share, URLS)))
    return found


def without(*names: str, **changes: object) -> dict[str, object]:
    """Return the usual result with changes."""
    return {name: value for name, value in {**RESULT, **changes}.items() if name not in names}


FINISHED: Mapping[str, tuple[str, dict[str, object]]] = {
    "none": ("", RESULT),
    "no-status": ("[[no-status]]", without("status", "percentage")),
    "completed": ("[[completed]]", without(status="completed")),
    "finished-status": ("[[finished-status ALL Done]]", without(status="ALL Done")),
    "no-image": ("[[no-image]]", without("image_url", "original_image_url")),
    "late-image": ("[[late-image 30]]", without("image_url", "original_image_url")),
    "no-original": ("[[no-original]]", without("original_image_url")),
    "image-url": ("[[image-url not a URL]]", without(image_url="not a URL", original_image_url="not a URL")),
    "url-list": ("[[url-list]]", without("image_url", "original_image_url", image_urls=list(URLS))),
    "nested-result": ("[[nested-result task]]", {"task_id": "t", "task": RESULT}),
}


@pytest.mark.parametrize("name", FINISHED)
def test_finished(name: str) -> None:
    """A finished task has the document's fields, and the status that clients wait for."""
    prompt, expected = FINISHED[name]
    assert at(1, prompt) == expected


def test_late_image_appears() -> None:
    """The URL follows after the given time."""
    assert at(4, "[[late-image 30]]") == RESULT


def test_url_list_in_image_url() -> None:
    """The list can be in the usual field."""
    assert at(1, "[[url-list image_url]]")["image_url"] == list(URLS)


FAILED: Mapping[str, object] = {
    "errors": [{"msg": REASON}],
    "detail": REASON,
    "error": REASON,
    "message": REASON,
    "reason": REASON,
    "fail_reason": REASON,
}


@pytest.mark.parametrize("field", REASON_FIELDS)
def test_fail(field: str) -> None:
    """The reason is in the given field."""
    task = at(1, f"[[fail {field}]]")
    usual = {"task_id": "t", "task_type": "flux-imagine", "status": "failed"}
    if field == "none":
        assert task == usual
    elif field == "detail-list":
        assert task == usual | {"detail": [{"loc": ["body", "prompt"], "msg": REASON}]}
    else:
        assert task == usual | {field: FAILED[field]}


def test_other_failures() -> None:
    """Moderation is early; the status and the text can be strange."""
    assert at(0.05, "[[moderated]]")["status"] == "processing"
    assert "moderation" in str(at(0.1, "[[moderated]]")["errors"])
    assert at(1, "[[failed-status Timed Out]]")["status"] == "Timed Out"
    assert at(1, "[[hostile-text]]")["errors"] == [{"msg": HOSTILE_TEXT}]
    assert {"\x1b", "\x9b", "\r", "\n", "\u202e", "\x00"} <= set(HOSTILE_TEXT)


RUNNING: Mapping[str, tuple[str, dict[str, object]]] = {
    "none": ("", {"status": "processing", "percentage": 40}),
    "status": ("[[status In Progress]]", {"status": "In Progress", "percentage": 40}),
    "no-percentage": ("[[no-percentage]]", {"status": "processing"}),
    "string-percentage": ("[[string-percentage]]", {"status": "processing", "percentage": "40"}),
    "percentage": ('[[percentage {"a": ["]", 1]}]]', {"status": "processing", "percentage": {"a": ["]", 1]}}),
}


@pytest.mark.parametrize("name", RUNNING)
def test_running(name: str) -> None:
    """A running task has the document's fields."""
    prompt, expected = RUNNING[name]
    assert at(0.4, prompt) == {"task_id": "t", "task_type": "flux-imagine", **expected}


def test_progress() -> None:
    """The percentage rises below 100; it can fall, creep forever, or be text that Python would not write."""
    shares = (0, 0.25, 0.375, 0.5, 0.875)
    assert [at(share, "")["percentage"] for share in shares] == [0, 25, 37, 50, 87]
    backwards = [at(share, "[[percentage-backwards]]")["percentage"] for share in shares]
    assert backwards == [0, 30, 44, 10, 77]
    assert at(1000, "[[never]]")["percentage"] == 99
    task = Task("t", 0, 10, 1, {}, {"percentage": "1e400"})
    assert '"percentage": 1e400' in to_json(describe(task, 5, URLS))


def test_every_fault_is_tested() -> None:
    """Each row of this stage appears above, or is tested over HTTP."""
    tested = {*FINISHED, *RUNNING, "fail", "failed-status", "moderated", "never", "hostile-text"}
    tested |= {"percentage-backwards", *ELSEWHERE}
    assert tested - {"none"} == {name for name, fault in FAULTS.items() if fault.stage is Stage.TASK}


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("[[never]]", Status.PROCESSING),
        ("[[never]][[status staged]][[no-percentage]]", Status.PROCESSING),
        ("[[never]][[percentage 1e400]]", Status.PROCESSING),
        ("", Status.FINISHED),
        ("[[no-status]]", Status.FINISHED),
        ("[[fail none]]", Status.FAILED),
    ],
)
def test_the_client_agrees(prompt: str, status: Status) -> None:
    """The program reads these objects with the meaning that they have here."""
    assert read_task(at(1, prompt), "t").status is status
