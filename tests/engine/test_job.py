"""What is known of a job, and what is printed of its end."""

import time
from pathlib import Path

import pytest

from flux_cli.api.task import Status, read_task
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode
from tests.engine.kit import finished


@pytest.mark.parametrize(
    ("job", "prompt", "known_start", "seconds"),
    [
        (Job(None, began=93.0), "", False, 7.0),
        (Job(None, began=93.0, task_id="a", age=0.0), "a", True, 7.0),
        (Job(None, began=93.0, task_id="a", age=5.0, recorded={"prompt": "kite"}), "kite", True, 12.0),
        (Job(None, began=93.0, request={}), "", True, 7.0),
    ],
)
def test_what_is_known_of_a_job(
    monkeypatch: pytest.MonkeyPatch, job: Job, prompt: str, known_start: bool, seconds: float
) -> None:
    """Its age counts from the submission, if that is known."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert (job.prompt, job.known_start, job.age_at(), job.age_at(101.0)) == (
        *(prompt, known_start, seconds),
        seconds + 1,
    )


def test_the_object_of_a_result() -> None:
    empty = Result(Status.UNSENT, ExitCode.LOCAL_FILE, error="disk full").as_json()
    assert {name: value for name, value in empty.items() if value is not None} == {
        "status": "unsent",
        "error": "disk full",
        "exit_code": 6,
    }
    response = {
        **finished(),
        "original_image_url": "https://cdn.test/o.png",
        "percentage": 100,
        "task_type": "imagine",
    }
    request = {"prompt": "kite", "model": "flux-pro", "seed": 7}
    task, path, original = read_task(response, "a"), Path("x.png"), Path("o.png")
    full = Result(Status.FINISHED, ExitCode.OK, task, "a", path, original, request=request, elapsed=2.00049)
    told = {
        "task_id": "a",
        "path": "x.png",
        "original_path": "o.png",
        "elapsed": 2.0,
        "exit_code": 0,
        "raw": response,
    }
    assert full.as_json() == {**dict.fromkeys(empty), **response, **request, **told}
