"""The description of a task at a given time, with and without faults."""

import json

import pytest

from flux_cli.sandbox.faults import FAULTS, REASON_FIELDS, Stage, faults_in
from flux_cli.sandbox.tasks import HOSTILE_TEXT, Task, describe, to_json

REASON = "the prompt asked for this failure"
PICTURE, ORIGINAL = URLS = ("http://cdn/t.png", "http://cdn/t-original.png")
TASK = {"task_id": "t", "task_type": "flux-imagine"}
FAILED = TASK | {"status": "failed"}
RESULT = TASK | {"original_image_url": ORIGINAL, "image_url": PICTURE, "status": "finished", "percentage": 100}


def at(share: float, prompt: str) -> dict[str, object]:
    """Return the JSON object of a task after this share of its duration."""
    task = Task("t", 1000.0, 10.0, 1, {}, faults_in(prompt))
    found: dict[str, object] = json.loads(to_json(describe(task, 1000 + 10 * share, URLS)))
    return found


def result(*missing: str, **changes: object) -> dict[str, object]:
    return {name: value for name, value in {**RESULT, **changes}.items() if name not in missing}


def running(percentage: object, status: str = "processing") -> dict[str, object]:
    return TASK | {"status": status, "percentage": percentage}


OTHER_FORMS = ("errors", "detail-list", "none")
NO_URLS = result("image_url", "original_image_url")
DESCRIPTIONS = [
    ("", 0.4, running(40)),
    ("[[status In Progress]]", 0.4, running(40, "In Progress")),
    ("[[no-percentage]]", 0.4, TASK | {"status": "processing"}),
    ("[[string-percentage]]", 0.4, running("40")),
    ('[[percentage {"a": ["]", 1]}]]', 0.4, running({"a": ["]", 1]})),
    ("[[never]]", 1000, running(99)),
    *(("", share, running(percentage)) for share, percentage in ((0, 0), (0.375, 37), (0.875, 87))),
    *(
        ("[[percentage-backwards]]", share, running(percentage))
        for share, percentage in ((0, 0), (0.25, 30), (0.375, 44), (0.5, 10), (0.875, 77))
    ),
    ("", 1, RESULT),
    ("[[no-status]]", 1, result("status", "percentage")),
    ("[[completed]]", 1, result(status="completed")),
    ("[[finished-status ALL Done]]", 1, result(status="ALL Done")),
    ("[[no-image]]", 1, NO_URLS),
    ("[[late-image 30]]", 1, NO_URLS),
    ("[[late-image 30]]", 4, RESULT),
    ("[[no-original]]", 1, result("original_image_url")),
    ("[[image-url not a URL]]", 1, result(image_url="not a URL", original_image_url="not a URL")),
    ("[[url-list]]", 1, NO_URLS | {"image_urls": list(URLS)}),
    ("[[url-list image_url]]", 1, NO_URLS | {"image_url": list(URLS)}),
    ("[[nested-result]]", 1, {"task_id": "t", "data": RESULT}),
    ("[[nested-result task]]", 1, {"task_id": "t", "task": RESULT}),
    ("[[fail]]", 1, FAILED | {"errors": [{"msg": REASON}]}),
    ("[[fail errors]]", 1, FAILED | {"errors": [{"msg": REASON}]}),
    ("[[fail detail-list]]", 1, FAILED | {"detail": [{"loc": ["body", "prompt"], "msg": REASON}]}),
    ("[[fail none]]", 1, FAILED),
    *((f"[[fail {name}]]", 1, FAILED | {name: REASON}) for name in REASON_FIELDS if name not in OTHER_FORMS),
    ("[[failed-status Timed Out]]", 1, FAILED | {"status": "Timed Out", "errors": [{"msg": REASON}]}),
    ("[[hostile-text]]", 1, FAILED | {"errors": [{"msg": HOSTILE_TEXT}]}),
    ("[[moderated]]", 0.05, running(5)),
    (
        "[[moderated]]",
        0.1,
        FAILED | {"errors": [{"msg": "Content Moderated: the prompt or the picture was rejected by moderation"}]},
    ),
]
ELSEWHERE = "slow seconds data-url protocol-relative host-relative unknown-task number-id spaced-id"
"""Faults of other modules than this one."""


@pytest.mark.parametrize(("prompt", "share", "expected"), DESCRIPTIONS)
def test_description(prompt: str, share: float, expected: dict[str, object]) -> None:
    assert at(share, prompt) == expected


def test_text_that_is_not_python_s_json() -> None:
    """It is inserted unchanged; a hostile reason has everything that must not reach a terminal."""
    task = Task("t", 0, 10, 1, {}, {"percentage": "1e400"})
    assert '"percentage": 1e400' in to_json(describe(task, 5, URLS))
    assert {"\x1b", "\x9b", "\r", "\n", "\u202e", "\x00"} <= set(HOSTILE_TEXT)


def test_every_fault_is_tested() -> None:
    """Each row of this stage appears above, or is tested over HTTP."""
    tested = {name for prompt, _, _ in DESCRIPTIONS for name in faults_in(prompt)} | set(ELSEWHERE.split())
    assert tested == {name for name, fault in FAULTS.items() if fault.stage is Stage.TASK}
