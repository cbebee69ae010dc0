"""A task of the sandbox, and the service's description of it at a given time.

A task's percentage is computed from its age and its duration. So it progresses even while no server is running,
and all servers report the same percentage.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from flux_cli.sandbox.faults import Faults

MODERATED_AT = 0.1
"""The share of its duration after which a moderated task fails."""
FAILURES = ("fail", "moderated", "hostile-text", "failed-status")
"""The faults that make a task fail."""

HOSTILE_TEXT = (
    "[bold red]no[/bold red] [/foo] [link=https://example.com]click[/link] "
    "\x1b[2J\x1b]0;owned\x07\x9b31m back\x08\rover\nnext line \u202egnp.exe\u2066 \x00 %s {0} 'quoted\""
)
"""A reason that must be escaped before it is printed on a terminal."""


_MARK = uuid4().hex
_MARKED = re.compile(f'"{_MARK}(.*?){_MARK}"')


@dataclass(frozen=True)
class Task:
    """An accepted request.

    It was submitted at a Unix time and takes some seconds. Its seed is that of the request or was chosen for it.
    Its body is without the image prompt, of whose bytes `image_prompt` is the SHA-256 in hex. Its faults are those
    of the prompt and of the server.
    """

    task_id: str
    submitted: float
    seconds: float
    seed: int
    body: Mapping[str, object]
    faults: Faults
    image_prompt: str | None = None

    @property
    def json_id(self) -> object:
        """Its ID as it appears in JSON."""
        return int(self.task_id) if "number-id" in self.faults else self.task_id

    @property
    def end(self) -> float:
        """The Unix time at which it finishes or fails; infinity if it never does."""
        share = MODERATED_AT if "moderated" in self.faults else 1.0
        return math.inf if "never" in self.faults else self.submitted + share * self.seconds

    @property
    def fails(self) -> bool:
        """Whether it fails at its end."""
        return any(name in self.faults for name in FAILURES)

    def has_picture(self, now: float) -> bool:
        """Return whether there is a picture at a Unix time."""
        return now >= self.end and not self.fails and "no-image" not in self.faults


@dataclass
class RawJson:
    """JSON text to insert into a response unchanged."""

    text: str


def to_json(value: object) -> str:
    """Return a value as JSON, with `RawJson` in it unchanged."""
    text = json.dumps(value, default=lambda raw: f"{_MARK}{raw.text}{_MARK}")
    return _MARKED.sub(lambda match: str(json.loads(f'"{match[1]}"')), text)


def describe(task: Task, now: float, urls: tuple[str, str]) -> dict[str, object]:
    """Return the object that `/fetch` and the webhooks send for a task at a Unix time.

    `urls` are those of the picture and of the original.
    """
    faults = task.faults
    usual = {"task_id": task.json_id, "task_type": "flux-imagine"}
    if now < task.end:
        return usual | {"status": "processing"} | _progress(task, now)
    if task.fails:
        return usual | {"status": faults.get("failed-status", "failed")} | _failure(faults)
    result = usual | _result(task, now, urls)
    if "nested-result" in faults:
        return {"task_id": task.json_id, faults["nested-result"] or "data": result}
    return result


def _result(task: Task, now: float, urls: tuple[str, str]) -> dict[str, object]:
    faults = task.faults
    word = "completed" if "completed" in faults else faults.get("finished-status", "finished")
    status = {} if "no-status" in faults else {"status": word, "percentage": 100}
    if "no-image" in faults or now < task.end + float(faults.get("late-image", "0")):
        return status or {"status": word}
    image, original = (faults["image-url"],) * 2 if "image-url" in faults else urls
    if "url-list" in faults:
        return {faults["url-list"] or "image_urls": [image, original]} | status
    if "no-original" in faults:
        return {"image_url": image} | status
    return {"original_image_url": original, "image_url": image} | status


def _progress(task: Task, now: float) -> dict[str, object]:
    faults = task.faults
    share = max(0.0, now - task.submitted) / task.seconds if task.seconds else math.inf
    if "never" in faults:
        share = 1 - math.exp(-share)
    if "percentage-backwards" in faults:
        share = 1.2 * share if share < 0.5 else 0.1 + 1.8 * (share - 0.5)
    progress: dict[str, object] = {"percentage": min(99, int(100 * share))}
    if "string-percentage" in faults:
        progress["percentage"] = str(progress["percentage"])
    if "percentage" in faults:
        progress["percentage"] = RawJson(faults["percentage"])
    if "no-percentage" in faults:
        del progress["percentage"]
    if "status" in faults:
        progress["status"] = faults["status"]
    return progress


def _failure(faults: Faults) -> dict[str, object]:
    reason = "the prompt asked for this failure"
    if "moderated" in faults:
        reason = "Content Moderated: the prompt or the picture was rejected by moderation"
    elif "hostile-text" in faults:
        reason = HOSTILE_TEXT
    return reason_in(faults.get("fail") or "errors", reason)


def reason_in(field: str, reason: str) -> dict[str, object]:
    """Return a reason in one of the forms that services use."""
    forms: dict[str, dict[str, object]] = {
        "errors": {"errors": [{"msg": reason}]},
        "detail-list": {"detail": [{"loc": ["body", "prompt"], "msg": reason}]},
        "none": {},
    }
    return forms.get(field, {field: reason})
