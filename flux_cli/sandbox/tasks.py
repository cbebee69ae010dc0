"""A task of the sandbox, and the service's description of it at a given time.

A task's percentage is computed from its age and its duration. So it progresses even while no server is running,
and all servers report the same percentage.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from flux_cli.sandbox.faults import FaultSet, parse_prompt

TASK_TYPE = "flux-imagine"
MODERATED_AT = 0.1
"""The share of its duration after which a moderated task fails."""
FAILURES = ("fail", "moderated", "hostile-text", "failed-status")
"""The faults that make a task fail."""

HOSTILE_TEXT = (
    "[bold red]no[/bold red] [/foo] [link=https://example.com]click[/link] "
    "\x1b[2J\x1b]0;owned\x07\x9b31m back\x08\rover\nnext line \u202egnp.exe\u2066 \x00 %s {0} 'quoted\""
)
"""A reason that must be escaped before it is printed on a terminal."""


@dataclass(frozen=True)
class Submission:
    """An accepted request, as it is stored.

    Attributes:
        task_id: A UUID, or digits.
        submitted: Unix time, in seconds.
        seconds: The task's duration.
        seed: The request's seed, or the one chosen for it.
        body: The request without its image prompt.
        image_prompt: The SHA-256 of the image prompt's bytes, in hex, or None.
    """

    task_id: str
    submitted: float
    seconds: float
    seed: int
    body: Mapping[str, object]
    image_prompt: str | None = None

    @cached_property
    def faults(self) -> FaultSet:
        """The faults in its prompt."""
        return parse_prompt(str(self.body["prompt"]))

    def ends_at(self, faults: FaultSet) -> float:
        """Return the Unix time at which the task finishes or fails; infinity if it never does."""
        share = MODERATED_AT if "moderated" in faults else 1.0
        return math.inf if "never" in faults else self.submitted + share * self.seconds

    def has_ended(self, faults: FaultSet, now: float) -> bool:
        """Return whether the task has finished or failed at `now`."""
        return now >= self.ends_at(faults)

    def has_picture(self, faults: FaultSet, now: float) -> bool:
        """Return whether the task has a picture at `now`."""
        return self.has_ended(faults, now) and not any(name in faults for name in (*FAILURES, "no-image"))


class RawJson(str):
    """JSON text to insert into a response unchanged."""

    __slots__ = ()


def to_json(value: object) -> str:
    """Return a value as JSON, with `RawJson` in it unchanged."""
    found: list[RawJson] = []

    def marked(value: object) -> object:
        if isinstance(value, RawJson):
            found.append(value)
            return f"\x00raw {len(found) - 1}\x00"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(marked(value))
    for index, raw in enumerate(found):
        text = text.replace(f'"\\u0000raw {index}\\u0000"', raw)
    return text


def json_id(submission: Submission, faults: FaultSet) -> object:
    """Return a task's ID as it appears in JSON."""
    return int(submission.task_id) if "number-id" in faults else submission.task_id


def describe(submission: Submission, faults: FaultSet, now: float, urls: tuple[str, str]) -> dict[str, object]:
    """Return the object that `/fetch` and the webhooks send for a task.

    Args:
        submission: The task.
        faults: Its faults and those of the server.
        now: Unix time, in seconds.
        urls: The URLs of the picture and of the original.
    """
    task = {"task_id": json_id(submission, faults), "task_type": TASK_TYPE}
    if not submission.has_ended(faults, now):
        return task | {"status": "processing"} | _progress(submission, faults, now)
    if any(name in faults for name in FAILURES):
        return task | {"status": faults.argument("failed-status", "WORD", "failed")} | _failure(faults)
    result = _result(submission, faults, now, urls)
    if "nested-result" in faults:
        return {"task_id": task["task_id"], faults.argument("nested-result", "KEY", "data"): {**task, **result}}
    return task | result


def _result(submission: Submission, faults: FaultSet, now: float, urls: tuple[str, str]) -> dict[str, object]:
    word = "completed" if "completed" in faults else faults.argument("finished-status", "WORD", "finished")
    status = {} if "no-status" in faults else {"status": word, "percentage": 100}
    late = now < submission.ends_at(faults) + float(faults.argument("late-image", "SECONDS", "0"))
    if "no-image" in faults or late:
        return status or {"status": word}
    image, original = urls
    if "image-url" in faults:
        image = original = faults.argument("image-url", "URL")
    if "url-list" in faults:
        return {faults.argument("url-list", "KEY", "image_urls"): [image, original]} | status
    if "no-original" in faults:
        return {"image_url": image} | status
    return {"original_image_url": original, "image_url": image} | status


def _progress(submission: Submission, faults: FaultSet, now: float) -> dict[str, object]:
    share = max(0.0, now - submission.submitted) / submission.seconds if submission.seconds else math.inf
    if "never" in faults:
        share = 1 - math.exp(-share)
    if "percentage-backwards" in faults:
        share = 1.2 * share if share < 0.5 else 0.1 + 1.8 * (share - 0.5)
    progress: dict[str, object] = {"percentage": min(99, int(100 * share))}
    if "string-percentage" in faults:
        progress["percentage"] = str(progress["percentage"])
    if "percentage" in faults:
        progress["percentage"] = RawJson(faults.argument("percentage", "JSON"))
    if "no-percentage" in faults:
        del progress["percentage"]
    if "status" in faults:
        progress["status"] = faults.argument("status", "WORD")
    return progress


def _failure(faults: FaultSet) -> dict[str, object]:
    reason = "the prompt asked for this failure"
    if "moderated" in faults:
        reason = "Content Moderated: the prompt or the picture was rejected by moderation"
    elif "hostile-text" in faults:
        reason = HOSTILE_TEXT
    return reason_in(faults.argument("fail", "FIELD", "errors"), reason)


def reason_in(field: str, reason: str) -> dict[str, object]:
    """Return a reason in one of the forms that services use."""
    forms: dict[str, dict[str, object]] = {
        "errors": {"errors": [{"msg": reason}]},
        "detail-list": {"detail": [{"loc": ["body", "prompt"], "msg": reason}]},
        "none": {},
    }
    return forms.get(field, {field: reason})


def task_seconds(faults: FaultSet, default: float) -> float:
    """Return how many seconds a task with these faults takes."""
    return float(faults.argument("slow", "SECONDS") or faults.argument("seconds", "SECONDS") or default)
