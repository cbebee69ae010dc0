"""What a response about a task means.

Responses are read for their meaning, since the service is looser than its document.
"""

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin

from flux_cli.api.reasons import CONTAINERS, nested, read_error, read_reason, read_text

# The service's own words, then those of the model's vendor and of gateways; compared without case, spaces and
# punctuation. Any other word means that the task is still running.
RUNNING_WORDS = frozenset(
    {"pending", "staged", "starting", "processing", "retry", "retrying"}
    | {"queued", "inqueue", "inprogress", "running", "started", "waiting", "submitted"}
)
FINISHED_WORDS = frozenset(
    {"finished", "completed", "complete", "ready", "succeeded", "success", "successful", "done"}
)
NOT_FOUND_WORDS = frozenset({"notfound", "tasknotfound"})
FAILED_WORDS = NOT_FOUND_WORDS | {
    *("failed", "fail", "failure", "error", "errored", "rejected", "cancelled", "canceled", "aborted"),
    *("expired", "timedout", "timeout", "moderated", "requestmoderated", "contentmoderated"),
}

_URL_KEYS = ("image_url", "image_urls", "images")
"""A task with one of these is finished, whatever its status word is (unless it is a failure)."""
_WEAK_URL_KEYS = ("image", "sample", "output", "url", "urls", *CONTAINERS)
"""These hold the picture only if the status word says so: a running task may have a URL for other purposes."""
_MAX_WORD_CHARACTERS = 60


class Status(StrEnum):
    """The state of a submission. The first three are the service's, the last two our own."""

    PROCESSING = "processing"
    FINISHED = "finished"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Sent, but no usable response arrived: it may have been accepted and charged."""
    UNSENT = "unsent"
    """Never left this machine."""


SHORT_ID = 8
"""How much of a task ID is shown to people; every command takes it as a prefix."""


def short_id(task_id: str | None) -> str:
    """Return the beginning of a task ID, for people."""
    return (task_id or "-")[:SHORT_ID]


def wait_command(task_id: str | None, flags: str = "") -> str:
    """Return the command that resumes a task, safe to paste whatever characters its ID has.

    `flags` select the same service; they begin with a space, or are empty.
    """
    quoted = shlex.quote(task_id or "")
    return f"flux-cli wait{flags} -- {quoted}" if quoted.startswith("-") else f"flux-cli wait {quoted}{flags}"


@dataclass(frozen=True)
class Task:
    """A task as the service last described it.

    A finished one has an `image_url`, a failed one an `error`. The `percentage`, 0 to 100, may decrease. `word` is
    the status word as received, at most 60 characters; `message` is a text next to that of a running task.
    """

    task_id: str
    status: Status
    response: Mapping[str, object]
    percentage: float | None = None
    task_type: str | None = None
    image_url: str | None = None
    original_image_url: str | None = None
    error: str | None = None
    word: str | None = None
    message: str | None = None

    @property
    def finished_without_url(self) -> bool:
        """Whether the service says that the task is finished, but gives no picture.

        With a percentage below 100, a word like `success` is about the response and not about the task.
        """
        done = self.percentage is None or self.percentage >= 100
        return self.status is Status.PROCESSING and done and normal_word(self.word) in FINISHED_WORDS

    @property
    def remark(self) -> str | None:
        """What a timeout message quotes: a status word that is unknown here, and any message next to it."""
        unknown = self.word is not None and normal_word(self.word) not in RUNNING_WORDS
        return ": ".join(filter(None, [f'status "{self.word}"' if unknown else None, self.message])) or None


def is_task_id(text: str) -> bool:
    """Return whether a text can be a task ID: 1 to 200 visible ASCII characters. The service's own are UUIDs."""
    return 1 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text


def read_task_id(response: object) -> str | None:
    """Return the task ID in a response, also one level down; None if there is no usable one.

    A mere `id` counts only in a response without errors: there it may be the ID of the request.
    """
    if isinstance(response, list) and len(response) == 1:
        response = response[0]
    if not isinstance(response, Mapping):
        return None
    levels = [response, *nested(response)]
    values = [value for level in levels for name, value in level.items() if normal_word(name) == "taskid"]
    if read_error(response) is None:
        values += [level.get("id") for level in levels]
    return next((task_id for value in values if (task_id := clean_task_id(value))), None)


def clean_task_id(value: object) -> str | None:
    """Return a task ID from a JSON value: a text, perhaps with spaces around it, or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = read_text(value)
    return text if text and is_task_id(text) else None


def read_task(response: Mapping[str, object], task_id: str, api_url: str = "") -> Task:
    """Read a result or status object of `/fetch`, `/fetch-many` or a webhook.

    A picture's URL means that the task is finished, whatever the status word, unless that word is a failure. An
    unknown word means that it is still running; so does a finished one as long as there is no URL. A URL without
    scheme or host is relative to `api_url`. Raises ValueError if the object describes no task.
    """
    fields: dict[str, Any] = dict(response)
    for level in nested(response):
        fields |= {name: value for name, value in level.items() if value is not None}
    word = read_text(fields.get("status")) or read_text(fields.get("state"))
    plain = normal_word(word)
    percentage = read_percentage(fields.get("percentage"))
    url = _picture_url(fields, _URL_KEYS)
    if url is None and plain in FINISHED_WORDS:
        url = _picture_url(fields, _WEAK_URL_KEYS)
    error = read_error(response)
    refused = is_refusal(fields)
    original = _picture_url(fields, ("original_image_url",))
    if plain in FAILED_WORDS or (not url and (_ends(plain, percentage, error) or (not word and refused))):
        described = f' (status "{word[:_MAX_WORD_CHARACTERS]}")' if word else ""
        error = read_reason(response) or f"the service gave no reason{described}"
        status, message = Status.FAILED, None
    elif url:
        status, percentage, error, message = Status.FINISHED, 100.0, None, None
    elif word or percentage is not None or clean_task_id(fields.get("task_id")) == task_id:
        status, error, message = Status.PROCESSING, None, read_reason(response)
    else:
        raise ValueError(read_reason(response) or "it describes no task")
    return Task(
        task_id=task_id,
        status=status,
        response=response,
        percentage=percentage,
        task_type=read_text(fields.get("task_type")),
        image_url=url and resolve_url(url, api_url),
        original_image_url=original and resolve_url(original, api_url),
        error=error,
        word=word and word[:_MAX_WORD_CHARACTERS],
        message=message,
    )


def is_refusal(fields: Mapping[str, object]) -> bool:
    """Return whether a response says that it is an error without naming one."""
    return fields.get("error") is True or any(fields.get(name) is False for name in ("success", "ok", "status"))


def _ends(plain: str, percentage: float | None, error: str | None) -> bool:
    """Return whether an error without a URL is the end of the task: a running one may state an error, too."""
    return error is not None and (plain in FINISHED_WORDS or (not plain and percentage is None))


def read_percentage(value: object) -> float | None:
    """Return a percentage clamped to 0–100 from a number or a text like `40` or `40%`, else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return min(100.0, max(0.0, number)) if math.isfinite(number) else None


def resolve_url(url: str, api_url: str) -> str:
    """Return a picture's URL with scheme and host, https if the API is https.

    `data:` URIs stay as they are; a text that is no URL does, too.
    """
    if url[:5].lower() == "data:" or not api_url:
        return url
    try:
        url = urljoin(f"{api_url}/", url)
    except ValueError:
        return url
    if api_url.startswith("https:"):
        url = re.sub(r"^http://([^/?#]*?)(:80)?(?=[/?#]|$)", r"https://\1", url, flags=re.IGNORECASE)
    return url


def recorded_url(url: str | None) -> str | None:
    """Return a picture's URL as it is recorded: a `data:` URL is the picture itself, and is cut."""
    return f"{url[:60]}…" if url and url[:5].lower() == "data:" else url


def _picture_url(fields: Mapping[str, object], keys: tuple[str, ...]) -> str | None:
    return next((url for key in keys for url in _urls(fields.get(key))), None)


def _urls(value: object) -> Iterator[str]:
    """Yield the URLs in a text, an object that holds one, or a list of either."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, Mapping):
            each = each.get("url") or each.get("image_url")
        if text := read_text(each):
            yield text


def normal_word(value: object) -> str:
    """Return a status word as the sets of words have it; empty for anything but a text."""
    return re.sub(r"[\W_]+", "", value).lower() if isinstance(value, str) else ""
