"""A task on its way from request to file."""

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
    """One task to be submitted, or one that was submitted and is to be waited for.

    Attributes:
        target: Where its picture goes; None to wait without downloading.
        request: The body to send; None for a task that exists already.
        recorded: What is kept of the request: no secret, the image prompt described.
        image_prompt: The path or URL of an image prompt that is read only when the request is sent, since many of
            them would take much memory; None if the body holds it, or there is none.
        n: Its number among its siblings, from 1; `{n}` in a template.
        task_id: The service's ID, once there is one.
        number: Its number in the history, if it has one.
        age: Seconds between the submission and the creation of the job, if known.
        batch: The batch that it belongs to; `row` is its key there, `line` where it begins in the batch's file.
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

    # The rest belongs to the run.
    dispatch: Dispatch = field(default_factory=Dispatch)
    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    """When the run took the job up, or the service accepted it, by the run's clock."""
    attempts: int = 0
    """Submissions that were certainly not accepted, or status checks that failed, in a row."""
    last_error: str | None = None
    """What went wrong last, unless something has gone right since."""
    waited: float = 0.0
    """Seconds spent in rate-limit backoff, or waiting for a network, before the submission was accepted."""
    transfer: "Transfer | None" = None
    """The download, from its first attempt on."""
    download_attempts: int = 0
    download_began: float | None = None
    expired_since: float | None = None
    """When the picture's URL was first refused with 403, 404 or 410."""
    finished_since: float | None = None
    """When the service first said `finished` without an image URL."""

    @property
    def prompt(self) -> str:
        """The prompt if known, else the task's ID: what people recognise it by."""
        return str(self.recorded.get("prompt") or self.task_id or "")

    @property
    def known_start(self) -> bool:
        """Whether it is known when the task was submitted."""
        return self.request is not None or self.age is not None

    def seconds(self, now: float | None = None) -> float:
        """Return the task's age in seconds at a time of the run's clock, as far as it is known here."""
        return (time.monotonic() if now is None else now) - self.began + (self.age or 0.0)
