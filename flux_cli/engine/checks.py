"""Status checks, several tasks per request, and what the run does with each status."""

from functools import partial
from typing import TYPE_CHECKING

from flux_cli.api.backoff import backoff
from flux_cli.api.client import MAX_FETCH_MANY, RateLimitedError, UnknownTaskError
from flux_cli.api.task import Status, Task
from flux_cli.engine.events import Progress, Retrying
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.engine.store import Finished
from flux_cli.engine.workers import Operation
from flux_cli.errors import BadResponseError, ExitCode, FluxError, ServiceDownError

if TYPE_CHECKING:
    from flux_cli.engine.run import Run

MAX_CHECKS = 4
"""Status requests in flight at once."""
CHECK_SECONDS = 30.0
"""How long one status check may take."""
MAX_CHECK_PAUSE_SECONDS = 60.0
"""The longest pause between status checks, even if the service asks for more."""
NEW_TASK_SECONDS = 3.0
"""How long after its submission a task may be unknown to the service."""
FINISHED_WITHOUT_URL_SECONDS = 20.0
"""How long to keep polling a finished task that has no image URL."""


class Checks:
    """The status checks of a run. Only `Operation.work` runs in a worker, here and in the other stages."""

    def __init__(self, run: "Run") -> None:
        self._run = run

    def start_due(self, now: float) -> None:
        """Start the checks that are due, within the limits on requests and threads."""
        while (
            self._run.queues.checks < MAX_CHECKS
            and self._run.workers.reserve(1)
            and (group := self._run.queues.take_due(now, self._run.throttle.failed_checks))
        ):
            self._start(group, now)

    def _start(self, group: list[Job], now: float) -> None:
        ids = [job.task_id or "" for job in group]

        def check(_: Operation) -> dict[str, Task | FluxError]:
            return self._run.client.fetch_many(ids, CHECK_SECONDS)

        def overdue() -> Exception:
            return ServiceDownError(f"no complete response within {CHECK_SECONDS:.0f} s", "try again later")

        checked = partial(self._checked, group, now)
        self._run.workers.start(Operation(check, checked, checked, CHECK_SECONDS + 1, overdue))

    def _checked(self, group: list[Job], sent: float, outcome: dict[str, Task | FluxError] | Exception) -> None:
        self._run.queues.checks -= 1
        pause, now = 0.0, self._run.clock()
        if isinstance(outcome, RateLimitedError):
            retry_after = min(MAX_CHECK_PAUSE_SECONDS, outcome.retry_after or 0.0)
            pause = self._run.throttle.check_failed(now, sent, retry_after)
            self._run.queues.running.update(
                {job: max(at, now + pause) for job, at in self._run.queues.running.items()}
            )
        elif isinstance(outcome, ServiceDownError):
            pause = self._run.throttle.check_failed(now, sent)
        else:
            self._run.throttle.checked()
        # The whole group waits equally long, so that one request can check it again.
        pause = max(pause, backoff(1 + max(0, max(job.attempts for job in group) - MAX_FETCH_MANY.bit_length())))
        for job in group:
            found = outcome if isinstance(outcome, Exception) else outcome[job.task_id or ""]
            if isinstance(found, Task):
                self.handle_status(job, found)
            else:
                self._check_failed(job, found, now + pause)

    def handle_status(self, job: Job, task: Task) -> None:
        """Act on the status that the service reports for a task."""
        was_finished = job.task is not task and job.task is not None and job.task.status is Status.FINISHED
        job.task, job.attempts, now = task, 0, self._run.clock()
        if task.status is Status.PROCESSING:
            self._still_running(job, task, now)
        elif task.status is Status.FAILED:
            self._run.endings.end(job, Result(task.status, ExitCode.TASK_FAILED, error=task.error))
        elif job.target is None:
            self._run.endings.end(job, Result(task.status))
        else:
            job.last_error = job.last_error if was_finished else None
            self._run.queues.move(job, self._run.queues.to_save, now)
            if not was_finished:  # charged and finished, but not saved until there is a path
                self._run.outbox.change(Finished(job, task))

    def _still_running(self, job: Job, task: Task, now: float) -> None:
        job.last_error = None
        job.pace.update(job.age_at(now), task.percentage)
        self._run.queues.move(job, self._run.queues.running, now + job.pace.delay(known_start=job.known_start))
        if self._run.settings.check_once:
            self._run.endings.end_running(job)
            return
        if not task.finished_without_url:
            self._run.outbox.emit(Progress(job))
            return
        job.finished_since = now if job.finished_since is None else job.finished_since
        if now - job.finished_since >= FINISHED_WITHOUT_URL_SECONDS:
            error = "the service reports it as finished, but without an image URL"
            self._run.endings.end(job, Result(Status.FAILED, ExitCode.TASK_FAILED, error=error))

    def _check_failed(self, job: Job, error: Exception, again_at: float) -> None:
        if not isinstance(error, FluxError):
            raise error
        new = job.request is not None and job.age_at(self._run.clock()) < NEW_TASK_SECONDS
        unknown = isinstance(error, UnknownTaskError)
        passing = isinstance(error, ServiceDownError | BadResponseError) or (new and unknown)
        if passing and not self._run.settings.check_once:
            job.attempts += 1
            job.last_error = error.message
            self._run.queues.move(job, self._run.queues.running, again_at)
            self._run.outbox.emit(Retrying(job, error.message))
        elif unknown:
            self._run.endings.end_rejected(job, Status.FAILED, error)
        else:
            self._run.endings.end_unfinished(job, error)
