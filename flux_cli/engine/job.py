"""A task on its way from request to file, how it ended, and who watches."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flux_cli.api.request import Body
from flux_cli.api.task import Status, Task
from flux_cli.api.transport import Dispatch
from flux_cli.engine.polling import Pace
from flux_cli.errors import ExitCode

if TYPE_CHECKING:
    from flux_cli.pictures.naming import Target


@dataclass(eq=False)
class Job:
    """One task to be submitted, or one that was and is to be waited for.

    Attributes:
        target: Where its picture goes; None to wait and not to download.
        request: The body to send, with the image prompt in it; None for a task that exists already.
        recorded: What the history keeps of the request: no secret, the image prompt described.
        image_prompt: The path or URL of an image prompt that is read only when the request is sent, since many of
            them would take much memory; None where the body holds it, or there is none.
        n: Its place among its siblings, from 1; `{n}` in a template.
        task_id: The service's id, once there is one.
        number: Its number in the history, where it has one.
        age: Seconds since the submission when the job was made, where that is known; else None.
        batch: The batch it belongs to, `row`, its row there, and `line`, where that row starts in its file.
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
    """The last answer of the service; given with a task that has just been looked at."""
    dispatch: Dispatch = field(default_factory=Dispatch)
    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    """When work on it began here, by the monotonic clock."""
    tries: int = 0
    """Submissions that certainly did not arrive, or looks that failed in a row."""
    trouble: str | None = None
    """What went wrong last, as long as nothing has gone right since."""
    waited: float = 0.0
    """Seconds spent at the service's wish after a 429."""

    @property
    def prompt(self) -> str:
        """The prompt where it is known, else the task's id: what people recognise it by."""
        return str(self.recorded.get("prompt") or self.task_id or "")

    def seconds(self) -> float:
        """Return the task's age in seconds, as far as it is known here."""
        return time.monotonic() - self.began + (self.age or 0.0)


@dataclass(frozen=True)
class Result:
    """How a task stands when its job ends; the JSON object of a task, and what to tell people.

    `content` is the picture itself where it goes to standard output. `resumable` says that a paid task lives on,
    and can be waited for.
    """

    status: Status
    exit_code: ExitCode = ExitCode.OK
    task: Task | None = None
    task_id: str | None = None
    path: Path | None = None
    original_path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    request: Mapping[str, object] = field(default_factory=dict)
    elapsed: float | None = None
    error: str | None = None
    hint: str | None = None
    resumable: bool = False

    def as_json(self) -> dict[str, object]:
        """Return the object that `--json` prints: all keys, always."""
        task = self.task
        return {
            "task_id": self.task_id,
            "task_type": task.task_type if task else None,
            "status": self.status.value,
            "percentage": task.percentage if task else None,
            "image_url": task.image_url if task else None,
            "original_image_url": task.original_image_url if task else None,
            "path": str(self.path) if self.path else None,
            "original_path": str(self.original_path) if self.original_path else None,
            "model": self.request.get("model"),
            "prompt": self.request.get("prompt"),
            "seed": self.request.get("seed"),
            "elapsed": None if self.elapsed is None else round(self.elapsed, 3),
            "error": self.error,
            "exit_code": int(self.exit_code),
            "raw": task.response if task else None,
        }


class Observer(Protocol):
    """Who is told what happens, from one thread, in order."""

    def submitted(self, job: Job) -> None:
        """The service accepted the job: it has a task id, and costs money."""

    def waiting(self, job: Job) -> None:
        """The service answered that the task still runs, or was asked for the first time."""

    def trouble(self, job: Job, message: str) -> None:
        """Something failed that will be tried again."""

    def unrecorded(self, job: Job, message: str) -> None:
        """What happened could not be written to the history: nothing but this run knows of it."""

    def downloading(self, job: Job, received: int, total: int | None) -> None:
        """So many bytes of the picture are here."""

    def ended(self, job: Job, result: Result) -> None:
        """The job is over."""
