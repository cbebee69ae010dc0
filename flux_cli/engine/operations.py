"""The blocking operations of a run: send a submission, check statuses, download a picture."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial

from flux_cli.api.client import SUBMIT_SECONDS, Client
from flux_cli.api.task import Task
from flux_cli.api.transport import NotSentError, overdue
from flux_cli.engine.job import Job
from flux_cli.engine.workers import Operation, Workers
from flux_cli.errors import FluxError, OutcomeUnknownError, ServiceDownError
from flux_cli.pictures import image_prompt
from flux_cli.pictures.download import DownloadError
from flux_cli.pictures.saving import Saved, Saver, Transfer

MAX_LARGE_BODIES = 4
"""Requests with image prompts, up to 20 MiB each, that are in flight at once."""
CHECK_SECONDS = 30.0
"""How long one status check may take."""
STALL_SECONDS = 30.0
"""How long a download may take for its first byte, and for each further `STALL_BYTES`."""
STALL_BYTES = 4096
PROGRESS_SECONDS = 0.1
"""How often a download reports its bytes."""

_Failed = Callable[[Exception], None]


class UnsendableError(FluxError):
    """A request's image prompt can no longer be read."""


class _StoppedError(Exception):
    """Ends a download whose result is no longer needed."""


class Operations:
    """Starts a run's operations. Every callback runs in the thread that waits for the workers."""

    def __init__(self, client: Client, saver: Saver, workers: Workers, clock: Callable[[], float]) -> None:
        self._client = client
        self._saver = saver
        self._workers = workers
        self._clock = clock
        self._large_bodies = threading.BoundedSemaphore(MAX_LARGE_BODIES)

    def submit(self, job: Job, accepted: Callable[[str], None], failed: _Failed) -> bool:
        """Send a job's request once; report the task's ID, or what `Client.submit` raises, or UnsendableError."""

        def late() -> Exception:
            error = overdue(SUBMIT_SECONDS, job.dispatch)
            return error if isinstance(error, NotSentError) else OutcomeUnknownError(error.message)

        return self._workers.start(Operation(partial(self._submit, job), accepted, failed, SUBMIT_SECONDS, late))

    def check(
        self, jobs: Sequence[Job], checked: Callable[[dict[str, Task | FluxError]], None], failed: _Failed
    ) -> bool:
        """Check the status of up to 20 tasks; report it, or what `Client.fetch_many` raises."""
        ids = [job.task_id or "" for job in jobs]

        def late() -> Exception:
            return ServiceDownError(f"no complete response within {CHECK_SECONDS:.0f} s", "try again later")

        def work(_: Operation) -> dict[str, Task | FluxError]:
            return self._client.fetch_many(ids, CHECK_SECONDS)

        return self._workers.start(Operation(work, checked, failed, CHECK_SECONDS + 1, late))

    def download(
        self,
        job: Job,
        on_bytes: Callable[[int, int | None], None],
        saved: Callable[[Saved], None],
        failed: _Failed,
    ) -> bool:
        """Make one attempt to save a finished task's picture; report its bytes, or what `Saver.save` raises."""
        assert job.task is not None and job.target is not None  # noqa: S101, PT018 - only such jobs are saved
        task, last, marked = job.task, float("-inf"), 0
        transfer = job.transfer = job.transfer or Transfer(job.target, job.recorded, job.n)

        def work(operation: Operation) -> Saved:
            def progress(received: int, total: int | None) -> None:
                nonlocal last, marked
                if self._workers.stopped.is_set():
                    raise _StoppedError
                if received - marked >= STALL_BYTES or received < marked:
                    marked = received
                    operation.extend()
                if received == total:
                    operation.ends_at = float("inf")  # no time limit for writing to the disk
                if (now := self._clock()) - last >= PROGRESS_SECONDS:
                    last = now
                    self._workers.post(partial(on_bytes, received, total))

            return self._saver.save(task, transfer, progress)

        def late() -> Exception:
            return DownloadError(f"it stalled for {STALL_SECONDS:.0f} s")

        return self._workers.start(Operation(work, saved, failed, STALL_SECONDS, late))

    def _submit(self, job: Job, operation: Operation) -> str:
        with contextlib.ExitStack() as stack:
            body = job.request or {}
            if job.image_prompt is not None or "image_prompt" in body:
                stack.enter_context(self._large_bodies)
                operation.extend()
            if job.image_prompt is not None:
                try:
                    image = image_prompt.load_checked(job.image_prompt)
                except FluxError as error:
                    unsendable = UnsendableError(error.message, error.hint)
                    unsendable.exit_code = error.exit_code
                    raise unsendable from error
                body = {**body, "image_prompt": image.encoded()}
                operation.extend()
            return self._client.submit(body, job.dispatch)
