"""How a job ended: what is printed, recorded and counted. Not in `job`, which takes 3 ms to import."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flux_cli.api.redaction import without_webhook_secrets
from flux_cli.api.task import Status, Task
from flux_cli.errors import ExitCode


@dataclass(frozen=True)
class Result:
    """The state of a task when its job ends: the JSON object of a task, and messages for people.

    `content` is the picture itself if it goes to stdout. `resumable` means that the task was charged, its picture
    is not saved, and it can be waited for. `warning` is about the saved file. `concerns_all` means that all other
    submissions would fail for the same reason.
    """

    status: Status
    exit_code: ExitCode = ExitCode.OK
    task: Task | None = None
    task_id: str | None = None
    path: Path | None = None
    original_path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    sha256: str | None = None
    request: Mapping[str, object] = field(default_factory=dict)
    elapsed: float | None = None
    error: str | None = None
    hint: str | None = None
    warning: str | None = None
    resumable: bool = False
    concerns_all: bool = False

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
            "raw": without_webhook_secrets(task.response) if task else None,
        }
