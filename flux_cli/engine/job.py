"""A job: one task, from its request to its file."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flux_cli.api.request import Body
from flux_cli.api.task import Task
from flux_cli.api.transport import Dispatch
from flux_cli.engine.polling import Pace

if TYPE_CHECKING:
    from flux_cli.pictures.naming import Target
    from flux_cli.pictures.saving import Transfer


@dataclass(eq=False)
class Job:
    """One task to submit, or one submitted earlier to wait for.

    Attributes:
        target: Where its picture goes; None to wait without downloading.
        request: The body to send; None for a task that exists already.
        recorded: The request as it is recorded: without secrets, and with a description of the image prompt.
        image_prompt: The path or URL of an image prompt that is read when the request is sent, to save memory;
            None if the body contains it, or there is none.
        n: The number of its picture in the command, from 1; `{n}` in a template.
        task_id: The service's ID, once there is one.
        number: The number of its record in the history, if it has one.
        age: Seconds between the submission and the creation of the job, if known.
        batch: The batch that it belongs to; `row` is its key there, and `line` its line in the batch's file.
        task: The service's last response; given with a task whose status was just checked.
    """

    target: "Target | None"
    request: Body | None = None
    recorded: Mapping[str, object] = field(default_factory=dict)
    image_prompt: str | None = None
    n: int = 1
    task_id: str | None = None
    number: int | None = None
    age: float | None = None
    batch: str | None = None
    row: str | None = None
    line: int | None = None
    task: Task | None = None

    # The run sets the fields below.
    dispatch: Dispatch = field(default_factory=Dispatch)
    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    """When the run took the job from its source, or the service accepted it, by the run's clock."""
    attempts: int = 0
    """Submissions that were certainly not accepted, or status checks that failed, in a row."""
    last_error: str | None = None
    """The last error, unless an attempt has succeeded since."""
    waited: float = 0.0
    """Seconds spent in rate-limit backoff, or waiting for a network, before the submission was accepted."""
    transfer: "Transfer | None" = None
    """The download, from its first attempt on."""
    download_attempts: int = 0
    download_began: float | None = None
    expired_since: float | None = None
    """When the picture's URL first got a 403, 404 or 410."""
    finished_since: float | None = None
    """When the service first reported `finished` without an image URL."""

    @property
    def prompt(self) -> str:
        """The prompt, or the task ID if the prompt is unknown, for display."""
        return str(self.recorded.get("prompt") or self.task_id or "")

    @property
    def known_start(self) -> bool:
        """Whether it is known when the task was submitted."""
        return self.request is not None or self.age is not None

    def age_at(self, now: float | None = None) -> float:
        """Return the task's age in seconds, as far as it is known, at a time of the run's clock (default: now)."""
        return (time.monotonic() if now is None else now) - self.began + (self.age or 0.0)
