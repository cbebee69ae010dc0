"""Submissions: committed before they are sent, and resubmitted only if certainly not accepted."""

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

from flux_cli.api import transport
from flux_cli.api.client import SUBMIT_SECONDS, ForbiddenError, RateLimitedError
from flux_cli.api.task import Status
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine.events import Retrying, Submitted
from flux_cli.engine.job import Job
from flux_cli.engine.polling import FIRST_SECONDS
from flux_cli.engine.result import Result
from flux_cli.engine.store import Accepted, Postponed
from flux_cli.engine.workers import Operation
from flux_cli.errors import (
    FluxError,
    LocalFileError,
    NotAllowedError,
    OutcomeUnknownError,
    ServiceDownError,
    StoreBusyError,
    UsageError,
)
from flux_cli.pictures import image_prompt

if TYPE_CHECKING:
    from flux_cli.engine.run import Run

MAX_LARGE_BODIES = 4
"""Requests with image prompts, up to 20 MiB each, that are in flight at once."""
SUBMIT_ATTEMPTS = 4
"""How often to send a submission that is certainly not accepted, while the service has not accepted any."""
MAX_FAILURES = 5
"""Nothing more is sent after so many consecutive failures that do not depend on the request, and after one that
certainly concerns all of them, such as a rejected key."""


class _UnsendableError(Exception):
    """A request's image prompt can no longer be read, for this reason."""

    def __init__(self, reason: FluxError) -> None:
        super().__init__(reason)
        self.reason = reason


class Submissions:
    """Sends the requests of jobs, and handles the responses."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._large_bodies = threading.BoundedSemaphore(MAX_LARGE_BODIES)
        self._accepted_any = False
        self.stop_reason = run.settings.stop_reason
        """Why nothing more is submitted."""

    def admits(self, more: int, now: float) -> bool:
        """Return whether one more may be sent, in addition to `more` that are about to be."""
        return self._run.throttle.admits(
            self._run.queues.in_flight + more, len(self._run.queues.submitting) + more, now
        )

    def due(self, now: float) -> list[Job]:
        """Return the jobs to resubmit now; if nothing more is submitted, end them instead."""
        if self.stop_reason is not None:
            for job in [*self._run.queues.to_submit]:
                self._run.endings.end_rejected(job, Status.UNSENT, self.stop_reason)
        admitted: list[Job] = []
        for job in self._run.queues.to_submit:
            if self.admits(len(admitted), now):
                admitted.append(job)
        return admitted

    def send(self, jobs: list[Job]) -> bool:
        """Commit all changes and the intents to send `jobs` together; then send them.

        If that fails, nothing is sent, and unless the store is only busy, nothing later; tasks in flight continue.

        Returns:
            False if nothing more is sent from now on: `due` ends the jobs that wait.
        """
        failure = self._run.outbox.commit(jobs)
        now = self._run.clock()
        if failure is not None:
            if isinstance(failure, StoreBusyError) and self._run.outbox.busy_seconds < self._run.settings.patience:
                return True
            self.stop_reason = LocalFileError(f"not sent: {failure.message}", failure.hint)
            return False
        if self._run.interrupts.first is not None:
            return True  # a signal arrived while events were handled: nothing more is sent
        for job in jobs:
            self._run.queues.move(job, self._run.queues.submitting, now)
            self._start(job)
        return True

    def _start(self, job: Job) -> None:
        def overdue() -> Exception:
            error = transport.overdue(SUBMIT_SECONDS, job.dispatch)
            return error if isinstance(error, NotSentError) else OutcomeUnknownError(error.message)

        submit = partial(self._submit, job)
        accepted, not_accepted = partial(self._accepted, job), partial(self._not_accepted, job)
        self._run.workers.start(Operation(submit, accepted, not_accepted, SUBMIT_SECONDS, overdue))

    def _submit(self, job: Job, operation: Operation) -> str:
        """Send a job's request once, in a worker."""
        with contextlib.ExitStack() as stack:
            body = job.request or {}
            if job.image_prompt is not None or "image_prompt" in body:
                stack.enter_context(self._large_bodies)
                operation.extend()
            if job.image_prompt is not None:
                try:
                    image = image_prompt.load_checked(job.image_prompt)
                except FluxError as error:
                    raise _UnsendableError(error) from None
                body = {**body, "image_prompt": image.encoded()}
                operation.extend()
            return self._run.client.submit(body, job.dispatch)

    def _accepted(self, job: Job, task_id: str) -> None:
        job.task_id, job.attempts, job.last_error = task_id, 0, None
        job.began = self._run.clock()
        self._run.queues.move(job, self._run.queues.running, job.began + FIRST_SECONDS)
        self._run.outbox.change(Accepted(job, task_id))
        self._run.outbox.emit(Submitted(job))
        self._run.throttle.accepted(self._run.queues.accepted)
        self._accepted_any = True
        job.request = {}  # an image prompt in it can be large
        if not self._run.settings.wait:
            self._run.endings.end(job, Result(Status.PROCESSING))
        elif self._run.settings.check_once:
            self._run.endings.end_running(job)

    def _not_accepted(self, job: Job, error: Exception) -> None:
        if isinstance(error, _UnsendableError):
            self._run.endings.end_rejected(job, Status.UNSENT, error.reason)
            return
        if not isinstance(error, FluxError):
            raise error
        sent, now = self._run.queues.submitting[job], self._run.clock()
        pause: float | None = None
        if isinstance(error, RateLimitedError):
            pause = self._run.throttle.rate_limited(now, sent, self._run.queues.accepted, error.retry_after or 0.0)
        elif isinstance(error, NotSentError) and self._may_resend(job, error):
            pause = self._run.throttle.unreachable(now, sent)
        if pause is not None and job.waited + pause <= self._run.settings.patience:
            self._resend(job, pause, error)
            return
        concerns_all = self._concerns_all(error)
        if not isinstance(error, UsageError):  # which concerns only this request
            self._run.throttle.failed(now, sent)
            if concerns_all or self._run.throttle.failures >= MAX_FAILURES:
                self.stop_reason = self._reason_to_stop(error)
        if isinstance(error, OutcomeUnknownError):
            self._run.endings.end_rejected(job, Status.UNKNOWN, error)
        else:
            unsent = isinstance(error, NotSentError)
            status = Status.UNSENT if unsent else Status.FAILED
            self._run.endings.end_rejected(job, status, error, concerns_all=concerns_all)

    def _may_resend(self, job: Job, error: NotSentError) -> bool:
        return not error.permanent and (self._accepted_any or job.attempts + 1 < SUBMIT_ATTEMPTS)

    def _concerns_all(self, error: FluxError) -> bool:
        """Return whether all other submissions would fail as well."""
        if isinstance(error, NotSentError | ForbiddenError):
            return not self._accepted_any
        return isinstance(error, NotAllowedError)

    def _reason_to_stop(self, error: FluxError) -> FluxError:
        if isinstance(error, OutcomeUnknownError):  # jobs that were never sent have a known outcome
            return ServiceDownError(f"not sent: submissions keep failing: {error.what}")
        return error

    def _resend(self, job: Job, pause: float, error: FluxError) -> None:
        job.waited += pause
        job.attempts += 1
        job.last_error = error.message
        job.dispatch = Dispatch()
        self._run.queues.move(job, self._run.queues.to_submit, self._run.clock())
        if isinstance(error, NotSentError) and not self._accepted_any:
            # Until the service is reached, the same job is tried again: when it fails for good, so do all others.
            self._run.queues.to_submit.move_to_end(job, last=False)
        # Recorded as not accepted, so that its outcome is known if this process ends before it is resubmitted.
        self._run.outbox.change(Postponed(job, error.message))
        self._run.outbox.emit(Retrying(job, error.message))
