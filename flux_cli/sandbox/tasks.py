"""A task of the sandbox, and what the service says of it at a given time.

Nothing runs while a task "runs": its percentage is its age divided by the time that it takes, so that a task goes
on while no server is up, and any number of servers agree on it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from flux_cli.sandbox.asked import Asked, asked_in

TASK_TYPE = "flux-imagine"
MODERATED_AT = 0.1
"""The share of its time after which a moderated task fails."""

FAILING = ("fail", "moderated", "hostile-text")
"""The faults that end a task in failure."""

HOSTILE_TEXT = (
    "[bold red]no[/bold red] [/foo] [link=https://example.com]click[/link] "
    "\x1b[2J\x1b]0;owned\x07\x9b31m back\x08\rover\nnext line \u202egnp.exe\u2066 \x00 %s {0} 'quoted\""
)
"""A reason for a failure that no terminal should see raw."""


@dataclass(frozen=True)
class Submission:
    """What was accepted, and is kept on disk.

    Attributes:
        task_id: A UUID.
        submitted: When, in seconds since the epoch.
        seconds: How long the task takes.
        seed: The request's seed, or the one that was chosen for it.
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
    def faults(self) -> Asked:
        """The faults that its prompt asks for."""
        return asked_in(str(self.body["prompt"]))

    def ends_at(self, asked: Asked) -> float:
        """Return when the task finishes or fails, in seconds since the epoch; infinity when it never does."""
        share = MODERATED_AT if "moderated" in asked else 1.0
        return math.inf if "never" in asked else self.submitted + share * self.seconds

    def is_over(self, asked: Asked, now: float) -> bool:
        """Say whether the task has finished or failed at `now` (seconds since the epoch)."""
        return now >= self.ends_at(asked)

    def share(self, now: float) -> float:
        """Return how much of its time has passed: 0 at the start, 1 at the end, more after it."""
        return max(0.0, now - self.submitted) / self.seconds if self.seconds else math.inf


@dataclass(frozen=True)
class FileFormat:
    """A picture's format: Pillow's name for it, and the extension and MIME type that are claimed for it."""

    pillow: str
    extension: str
    mime: str


def file_format(asked: Asked) -> FileFormat:
    """Return how a task's pictures are sent."""
    if "jpeg-as-png" in asked:
        return FileFormat("JPEG", "png", "image/png")
    if "webp" in asked:
        return FileFormat("WEBP", "webp", "image/webp")
    if "gif" in asked:
        return FileFormat("GIF", "gif", "image/gif")
    return FileFormat("PNG", "png", "image/png")


def ends_without_picture(asked: Asked) -> bool:
    """Say whether a task with these faults never has a picture."""
    return any(name in asked for name in (*FAILING, "no-image", "never"))


class Verbatim(str):
    """JSON text that is to stand in an answer as it is."""

    __slots__ = ()


def to_json(answer: object) -> str:
    """Return an answer as JSON, `Verbatim` values as they stand."""
    found: list[Verbatim] = []

    def marked(value: object) -> object:
        if isinstance(value, Verbatim):
            found.append(value)
            return f"\x00verbatim {len(found) - 1}\x00"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(marked(answer))
    for index, value in enumerate(found):
        text = text.replace(f'"\\u0000verbatim {index}\\u0000"', value)
    return text


def describe(submission: Submission, asked: Asked, now: float, urls: tuple[str, str]) -> dict[str, object]:
    """Return what `/fetch` and the webhooks say of a task.

    Args:
        submission: The task.
        asked: Its faults, those of the server included.
        now: Seconds since the epoch.
        urls: The picture's URL and the original's.
    """
    told: dict[str, object] = {"task_id": submission.task_id, "task_type": TASK_TYPE}
    if not submission.is_over(asked, now):
        return told | {"status": "processing"} | _progress(submission, asked, now)
    if any(name in asked for name in FAILING):
        return told | {"status": "failed"} | _reason(asked)
    if "no-image" in asked:
        return told | {"status": "finished", "percentage": 100}
    if "image-url" in asked:
        urls = (asked.text("image-url", "URL"),) * 2
    told |= {"original_image_url": urls[1], "image_url": urls[0]}
    if "no-original" in asked:
        del told["original_image_url"]
    if "no-status" in asked:
        return told
    return told | {"status": "completed" if "completed" in asked else "finished", "percentage": 100}


def _progress(submission: Submission, asked: Asked, now: float) -> dict[str, object]:
    share = submission.share(now)
    if "never" in asked:
        share = 1 - math.exp(-share)
    if "percentage-backwards" in asked:
        share = 1.2 * share if share < 0.5 else 0.1 + 1.8 * (share - 0.5)
    told: dict[str, object] = {"percentage": min(99, int(100 * share))}
    if "string-percentage" in asked:
        told["percentage"] = str(told["percentage"])
    if "percentage" in asked:
        told["percentage"] = Verbatim(asked.text("percentage", "JSON"))
    if "no-percentage" in asked:
        del told["percentage"]
    if "status" in asked:
        told["status"] = asked.text("status", "WORD")
    return told


def _reason(asked: Asked) -> dict[str, object]:
    reason = "the sandbox was asked to fail"
    if "moderated" in asked:
        reason = "Content Moderated: the prompt or the picture was refused by moderation"
    elif "hostile-text" in asked:
        reason = HOSTILE_TEXT
    where = asked.argument("fail", "FIELD") or "errors"
    if where == "errors":
        return {"errors": [{"msg": reason}]}
    return {} if where == "none" else {str(where): reason}


def length_of(asked: Asked, default: float) -> float:
    """Return how many seconds a task takes that asks for these faults."""
    for name in ("slow", "seconds"):
        if name in asked:
            return float(asked.text(name, "SECONDS"))
    return default
