"""What the service's response about a task means, read as tolerantly as the service is loose."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

FINISHED_WORDS = frozenset({"finished", "completed"})
FAILED_WORDS = frozenset({"failed", "error", "cancelled", "canceled"})

MAX_ERROR_CHARACTERS = 2000
"""A reason for a failure is cut here: it is shown to people."""


class Status(StrEnum):
    """What is known of a submission. The first three are the service's words, the last two our own."""

    PROCESSING = "processing"
    FINISHED = "finished"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Sent, and no usable response came: it may have been accepted, and billed."""
    UNSENT = "unsent"
    """Never left this machine."""


def wait_command(task_id: str | None, flags: str = "") -> str:
    """Return the command that goes on with a task, safe to paste whatever the id holds.

    `flags` are what it needs to reach the same service, with a space before them, or nothing.
    """
    quoted = shlex.quote(task_id or "")
    return f"flux-cli wait{flags} -- {quoted}" if quoted.startswith("-") else f"flux-cli wait {quoted}{flags}"


@dataclass(frozen=True)
class Task:
    """A task as the service last described it.

    Attributes:
        task_id: The id that was asked for.
        status: `PROCESSING`, `FINISHED` (then `image_url` is set) or `FAILED` (then `error` is set).
        percentage: 0 to 100, or None where the service gives no usable number. May go backwards between answers.
        error: The service's reason for a failure.
        response: The object as it came.
    """

    task_id: str
    status: Status
    response: Mapping[str, object]
    percentage: float | None = None
    task_type: str | None = None
    image_url: str | None = None
    original_image_url: str | None = None
    error: str | None = None


def read_task(response: Mapping[str, object], task_id: str) -> Task:
    """Read a result or status object of `/fetch`, `/fetch-many` or a webhook.

    An `image_url` says that a task is done, whatever the status word, unless that word says failed; a word that
    is not known means that it still runs, and so does `finished` as long as there is no `image_url`.

    Raises:
        ValueError: The object says nothing about a task.
    """
    word = _text(response.get("status"))
    word = word.lower() if word else None
    image_url = _text(response.get("image_url"))
    percentage = read_percentage(response.get("percentage"))
    error = read_error(response)
    if word in FAILED_WORDS or (error and not (word or image_url or percentage is not None)):
        status, error = Status.FAILED, error or "the service gave no reason"
    elif image_url:
        status, error, percentage = Status.FINISHED, None, 100.0
    elif word or percentage is not None or response.get("task_id") == task_id:
        status, error = Status.PROCESSING, None
    else:
        raise ValueError("the response says nothing about a task")
    return Task(
        task_id=task_id,
        status=status,
        response=response,
        percentage=percentage,
        task_type=_text(response.get("task_type")),
        image_url=image_url,
        original_image_url=_text(response.get("original_image_url")),
        error=error,
    )


def read_percentage(value: object) -> float | None:
    """Return a percentage clamped to 0–100 from a number or a text like `40` or `40%`, else None."""
    if isinstance(value, str):
        try:
            value = float(value.strip().removesuffix("%"))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return min(100.0, max(0.0, number)) if math.isfinite(number) else None


def read_error(response: object) -> str | None:
    """Return the reason in an error response: `errors[].msg`, `error` or `message`, as text, else None."""
    if not isinstance(response, Mapping):
        return None
    errors = response.get("errors")
    reasons = [_reason(each) for each in errors] if isinstance(errors, list) else [_reason(errors)]
    found = [reason for reason in reasons if reason] or [
        reason for reason in (_reason(response.get("error")), _reason(response.get("message"))) if reason
    ][:1]
    return "; ".join(found)[:MAX_ERROR_CHARACTERS] or None


def _reason(value: object) -> str | None:
    if isinstance(value, Mapping):
        return next((text for key in ("msg", "message", "error") if (text := _text(value.get(key)))), None)
    return _text(value)


def _text(value: object) -> str | None:
    """Return a text that can be written anywhere (JSON can smuggle in halves of characters), None for no text."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip() or None
