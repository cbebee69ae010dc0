"""What blocks on the network or a disk: each errand runs in a thread of its own and reports to the run's loop.

Daemon threads that only report back, so that a deadline or a signal never waits for a socket.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flux_cli.api.backoff import backoff
from flux_cli.api.client import Client
from flux_cli.api.task import Status, Task
from flux_cli.engine.job import Job
from flux_cli.errors import BadResponseError, FluxError, ServiceDownError
from flux_cli.pictures import image_prompt
from flux_cli.pictures.download import DownloadError, OnBytes, Retry
from flux_cli.pictures.saving import Saved, Saver, Transfer

MAX_LARGE_BODIES = 4
"""Requests under way at once whose image prompts are read only then, up to 20 MiB each."""
LOOK_SECONDS = 30.0
"""How long one status request may take."""
PROGRESS_SECONDS = 0.1
"""How often a download reports its bytes."""

SAVE_ATTEMPTS = 5
"""How often a picture is tried, and its URL asked for once more, before it is given up."""

OnTrouble = Callable[[str], None]
"""Gets what went wrong and will be tried again."""

_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True)
class Delivered:
    """A saved picture, the task as last seen, and why the original that was asked for is missing."""

    task: Task
    saved: Saved
    lacking: FluxError | None = None


class UnsendableError(FluxError):
    """A request's image prompt cannot be read any more."""


class _StoppedError(Exception):
    """Ends a download that nobody waits for any more."""


class Errands:
    """Starts errands, from the thread that calls `handle`; their reports are called there."""

    def __init__(self, client: Client, saver: Saver) -> None:
        self._client = client
        self._saver = saver
        self._reports: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._large_bodies = threading.BoundedSemaphore(MAX_LARGE_BODIES)
        self._stopped = threading.Event()

    def submit(self, job: Job, accepted: Callable[[str], None], failed: Callable[[Exception], None]) -> None:
        """Send a job's request once; report the task's id, or what `Client.submit` raises, or UnsendableError."""
        self._start(partial(self._submit, job), accepted, failed)

    def look(
        self,
        jobs: Sequence[Job],
        looked: Callable[[dict[str, Task | FluxError]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Ask how up to 20 tasks stand; report it, or what `Client.fetch_many` raises."""
        ids = [job.task_id or "" for job in jobs]
        self._start(lambda: self._client.fetch_many(ids, LOOK_SECONDS), looked, failed)

    def save(
        self,
        job: Job,
        on_bytes: OnBytes,
        on_trouble: OnTrouble,
        saved: Callable[[Delivered], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Save a finished task's picture.

        Report its bytes and what is tried again; at the end where it is, or what `Saver.save` raises.
        """
        last = 0.0

        def progress(received: int, total: int | None) -> None:
            nonlocal last
            if self._stopped.is_set():
                raise _StoppedError
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                self._reports.put(lambda: on_bytes(received, total))

        def trouble(message: str) -> None:
            self._reports.put(lambda: on_trouble(message))

        assert job.task is not None and job.target is not None  # noqa: S101, PT018 - only such jobs are saved
        transfer = Transfer(job.target, job.recorded, job.n)
        self._start(
            partial(deliver, self._client, self._saver, job.task, transfer, progress, trouble), saved, failed
        )

    def stop(self) -> None:
        """Let downloads end without a report."""
        self._stopped.set()

    def wake(self) -> None:
        """Let `handle` return; safe in a signal handler."""
        self._reports.put(lambda: None)

    def handle(self, seconds: float = 0.0) -> None:
        """Wait so long for a report, and call all that have come."""
        with contextlib.suppress(queue.Empty):
            if seconds > 0:
                self._reports.get(timeout=seconds)()
            while True:
                self._reports.get_nowait()()

    def _submit(self, job: Job) -> str:
        with contextlib.ExitStack() as stack:
            body = job.request or {}
            if job.image_prompt is not None or "image_prompt" in body:
                stack.enter_context(self._large_bodies)
            if job.image_prompt is not None:
                try:
                    image = image_prompt.load_checked(job.image_prompt)
                except FluxError as error:
                    unsendable = UnsendableError(error.message, error.hint)
                    unsendable.exit_code = error.exit_code
                    raise unsendable from error
                body = {**body, "image_prompt": image.encoded()}
            return self._client.submit(body, job.dispatch)

    def _start(
        self,
        work: Callable[[], _Outcome],
        done: Callable[[_Outcome], None],
        failed: Callable[[Exception], None],
    ) -> None:
        def errand() -> None:
            try:
                outcome = work()
            except _StoppedError:
                pass
            except Exception as error:
                self._reports.put(partial(failed, error))
            else:
                self._reports.put(partial(done, outcome))

        threading.Thread(target=errand, daemon=True).start()


def deliver(
    client: Client | None, saver: Saver, task: Task, transfer: Transfer, on_bytes: OnBytes, on_trouble: OnTrouble
) -> Delivered:
    """Save a picture with a few attempts. Raises DownloadError or LocalFileError if it cannot be saved now."""
    refreshed = False
    attempt = 1
    with contextlib.closing(transfer):
        while True:
            try:
                return Delivered(task, saver.save(task, transfer, on_bytes))
            except FluxError as error:
                again = isinstance(error, DownloadError) and error.kind is not Retry.FINAL
                expired = isinstance(error, DownloadError) and error.kind is Retry.EXPIRED and client is not None
                if not again or attempt == SAVE_ATTEMPTS or (expired and refreshed):
                    if transfer.saved is not None:
                        return Delivered(task, transfer.saved, error)
                    raise
                if not expired:
                    on_trouble(error.message)
            attempt += 1
            if expired and client is not None:
                task, refreshed = _refreshed(client, task, on_bytes, on_trouble), True
            else:
                _pause(backoff(attempt - 1), on_bytes)


def _refreshed(client: Client, task: Task, on_bytes: OnBytes, on_trouble: OnTrouble) -> Task:
    for attempt in range(1, SAVE_ATTEMPTS + 1):
        try:
            fresh = client.fetch(task.task_id)
        except (ServiceDownError, BadResponseError) as error:
            if attempt == SAVE_ATTEMPTS:
                raise
            on_trouble(error.message)
            _pause(backoff(attempt), on_bytes)
        else:
            if fresh.status is Status.FINISHED:
                return fresh
            break
    raise DownloadError("its URL expired, and the service gives no other")


def _pause(seconds: float, on_bytes: OnBytes) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        on_bytes(0, None)
        time.sleep(min(0.1, left))
