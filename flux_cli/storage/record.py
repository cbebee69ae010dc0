"""A submission as the history keeps it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux_cli.api.task import Status

SANDBOX = "sandbox"
"""The name of the embedded sandbox in `Record.service`: its URL differs from run to run."""
STDOUT = "-"
"""`Record.path` of a picture that went to stdout."""


@dataclass(frozen=True)
class Record:
    """One submission.

    Attributes:
        number: Its number in its history file, counting up.
        created: When it was recorded, just before it was sent (Unix time, seconds).
        service: The API's URL, or `sandbox`.
        status: What is known of it.
        request: The body, without the webhook secret and with an image prompt described instead of held.
        path: The saved picture; `-` if it went to stdout.
        ended: When it was seen to have ended, saved or failed (Unix time), or None.
        batch: The batch that it belongs to, and `row`, its row there.
        sha256: The digest of the saved picture, in hexadecimal.
        adopted: Whether it is a copy of another host's record.
        file: The name of its history file.
    """

    number: int
    created: float
    service: str
    status: Status
    task_id: str | None
    model: str | None
    prompt: str | None
    request: Mapping[str, Any]
    image_url: str | None = None
    original_image_url: str | None = None
    path: str | None = None
    original_path: str | None = None
    error: str | None = None
    exit_code: int | None = None
    ended: float | None = None
    batch: str | None = None
    row: str | None = None
    sha256: str | None = None
    adopted: bool = False
    file: str = ""

    @property
    def age(self) -> float:
        """Seconds since it was recorded."""
        return max(0.0, time.time() - self.created)

    @property
    def unsaved(self) -> bool:
        """Whether its picture may still be had: the task is running, or finished without a file."""
        return bool(self.task_id) and self.path is None and self.status in (Status.PROCESSING, Status.FINISHED)
