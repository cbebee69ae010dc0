"""From request to file, for one task or many: submit, poll, download, and never pay twice.

One loop in the calling thread makes every decision and owns the store and the handler. Everything that blocks runs
in workers that only report back, so that neither a deadline nor a signal waits for a socket.

Every way out of a run first lets submissions in flight settle, then handles each response that has arrived, then
commits the task IDs or reports them, and only then ends.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from flux_cli.api.backoff import backoff
from flux_cli.api.client import MAX_FETCH_MANY, Client, RateLimitedError, UnknownTaskError
from flux_cli.api.task import Status, Task
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine.downloads import FINISHED_WITHOUT_URL_SECONDS, NextAttempt, next_attempt
from flux_cli.engine.endings import Endings
from flux_cli.engine.events import Downloading, Handler, Progress, Retrying, Submitted, Submitting
from flux_cli.engine.job import Job, Result
from flux_cli.engine.operations import Operations, UnsendableError
from flux_cli.engine.outbox import Outbox
from flux_cli.engine.polling import FIRST_SECONDS
from flux_cli.engine.queues import Inbox, Listed, Queues, Source
from flux_cli.engine.signals import Interrupts
from flux_cli.engine.store import Accepted, Finished, Postponed, Store
from flux_cli.engine.throttle import Throttle
from flux_cli.engine.workers import Workers
from flux_cli.errors import (
    BadResponseError,
    ExitCode,
    FluxError,
    OutcomeUnknownError,
    ServiceDownError,
    StoreBusyError,
    UsageError,
    worst,
)
from flux_cli.pictures.saving import Saved, Saver
from flux_cli.storage.files import remove_live

SUBMIT_ATTEMPTS = 4
"""How often a submission that certainly was not accepted is sent, before the service has accepted anything."""
MAX_FAILURES = 5
"""Submissions in a row that may fail for a reason that the next one shares, before no more are sent."""
MAX_CHECK_PAUSE_SECONDS = 60.0
"""The longest that no status is checked, however long the service asks for."""
MAX_CHECKS = 4
"""Status requests in flight at once."""
MIN_DOWNLOADS, MAX_DOWNLOADS = 8, 128
"""Downloads at once: half of the tasks in flight, within these limits."""
NEW_TASK_SECONDS = 3.0
"""So soon after its submission a task that the service does not know may still appear."""
SETTLE_SECONDS, HURRY_SECONDS = 2.0, 0.5
"""How long responses to submissions are waited for at a deadline or a signal, and after a second signal.

Each is the ID of a charged task."""
NO_THREAD_SECONDS = 10.0
"""How long a run goes on without being able to start a single worker."""


@dataclass(frozen=True)
class Plan:
    """How a run treats its jobs.

    Attributes:
        wait: False ends each job as soon as it is accepted.
        first_only: End the run as soon as one picture is saved; the other tasks stay as they are.
        timeout: Seconds for the whole run, or None.
        concurrency: The most tasks that are submitted or running at once.
        patience: Seconds that one submission waits in all while the service asks to slow down, while the store is
            busy or, once the service has accepted something, while it cannot be reached.
        picture_patience: Seconds that one picture is tried for; None for as long as the run lasts.
        finish_downloads: After a first signal, finish the downloads that have begun.
    """

    wait: bool = True
    first_only: bool = False
    timeout: float | None = None
    concurrency: int = 16
    patience: float = 60.0
    picture_patience: float | None = None
    finish_downloads: bool = False


class Run:
    """One run over some jobs. Everything but the workers' operations happens in the thread that calls `run`."""

    def __init__(
        self,
        client: Client,
        saver: Saver,
        store: Store | None,
        handle: Handler,
        plan: Plan,
        *,
        workers: Workers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers = workers or Workers()
        self._clock = clock
        self._plan = plan
        self._interrupts = Interrupts(self.workers.wake)
        self._outbox = Outbox(store, handle, self._interrupts, clock)
        self._operations = Operations(client, saver, self.workers, clock)
        self._queues = Queues()
        self._endings = Endings(self._queues, self._outbox, plan.wait, clock)
        self._throttle = Throttle(plan.concurrency)
        self._downloads = min(MAX_DOWNLOADS, max(MIN_DOWNLOADS, plan.concurrency // 2))
        self._stop_reason: FluxError | None = None  # why nothing more is submitted
        self._accepted_any = False
        self._deadline = float("inf")
        self.on_stopping: Callable[[int], None] = lambda _: None
        """Called with the number of downloads that are finished after a first signal (`Plan.finish_downloads`)."""

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to end; safe in any thread."""
        return self._interrupts.first is not None

    @property
    def handler_error(self) -> Exception | None:
        """The first unexpected error of the handler, which ended nothing."""
        return self._outbox.handler_error

    def run(self, jobs: Iterable[Job] | Inbox) -> ExitCode:
        """Take jobs to their ends, emit their events, and return the exit code for all of them.

        Jobs are taken only as fast as there is room for them.

        Raises:
            KeyboardInterrupt, SignalReceived: A signal asked to end; every job taken up has ended.
        """
        if self._plan.timeout is not None:
            self._deadline = self._clock() + self._plan.timeout
        with self._interrupts.deferred():
            try:
                source = jobs if isinstance(jobs, Inbox) else Listed(jobs)
                self._loop(source)
                self._outbox.close(hurry=lambda: self._interrupts.hurry)
                if self._interrupts.first is not None:
                    raise self._interrupts.first
            except BaseException as error:
                self._abandon(error)
                raise
            finally:
                self.workers.stop()
                remove_live()
        return worst(self._endings.codes | self._outbox.exit_codes)

    def _loop(self, source: Source) -> None:
        while True:
            if self._clock() >= self._deadline:
                self._settle()
                self._endings.time_out(source)
            self._submit(self._admitted(source))
            if source.exhausted and not self._queues:
                return
            if self._plan.first_only and self._endings.saved_any:
                self._queues.clear()
                return
            self._start_due()
            self._wait(source)
            if self._interrupts.first is not None:
                self._settle()
                self._finish_downloads()
                raise self._interrupts.first

    # The steps of the loop

    def _admitted(self, source: Source) -> list[Job]:
        """Take up jobs while there is room; return those that may be submitted now, earlier ones first."""
        now = self._clock()
        if self._stop_reason is not None:
            for job in list(self._queues.to_submit):
                self._endings.end_unsent(job, self._stop_reason)
        admitted: list[Job] = []
        for job, due in self._queues.to_submit.items():
            if due <= now and self._admits(len(admitted), now):
                admitted.append(job)
        while source.next is not None and self._has_room(source.next, len(admitted), now):
            job = source.take()
            job.began = now
            if job.task is not None:
                self._checked_one(job, job.task)
            elif job.task_id is not None:
                self._queues.running[job] = now
                self._outbox.emit(Progress(job))
            elif self._stop_reason is not None:
                self._endings.end_unsent(job, self._stop_reason)
            else:
                self._queues.to_submit[job] = now
                self._outbox.emit(Submitting(job))
                admitted.append(job)
        return admitted[: self.workers.reserve(len(admitted))]

    def _admits(self, more: int, now: float) -> bool:
        return self._throttle.admits(self._queues.in_flight + more, len(self._queues.submitting) + more, now)

    def _has_room(self, job: Job, admitted: int, now: float) -> bool:
        backlog = max(0, len(self._queues.to_save) + len(self._queues.saving) - 4 * self._downloads)
        if job.task_id is not None or self._stop_reason is not None:
            return self._queues.in_flight + admitted + backlog < self._plan.concurrency
        resubmissions = len(self._queues.to_submit) > admitted  # they come first
        return not resubmissions and self._admits(admitted + backlog, now)

    def _submit(self, jobs: list[Job]) -> None:
        """Commit what has happened and what is about to be sent, at once; then send it.

        What cannot be committed is not sent, nor is anything after it; tasks in flight continue.
        """
        failure = self._outbox.commit(jobs)
        now = self._clock()
        if failure is not None:
            if isinstance(failure, StoreBusyError) and self._outbox.busy_seconds < self._plan.patience:
                return
            self._stop_reason = failure
            for job in jobs:
                self._endings.end_unsent(job, failure)
            self._outbox.commit()
            return
        if self._interrupts.first is not None:
            return  # it arrived while the events were handled: nothing more is sent
        for job in jobs:
            del self._queues.to_submit[job]
            self._queues.submitting[job] = now
            if not self._operations.submit(job, partial(self._accepted, job), partial(self._not_accepted, job)):
                self._not_accepted(job, NotSentError("no thread is free"))  # `reserve` has made sure of one

    def _start_due(self) -> None:
        now = self._clock()
        while (
            self._queues.checks < MAX_CHECKS
            and self.workers.reserve(1)
            and (group := self._queues.due(now, self._throttle.failed_checks))
        ):
            checked = partial(self._checked, group, now)
            self._operations.check(group, checked, checked)
        for job in [job for job, due in self._queues.to_save.items() if due <= now]:
            if len(self._queues.saving) >= self._downloads or not self.workers.reserve(1):
                break
            del self._queues.to_save[job]
            self._queues.saving.add(job)
            job.download_began = now if job.download_began is None else job.download_began
            self._operations.download(
                job, partial(self._downloading, job), partial(self._saved, job), partial(self._not_saved, job)
            )

    def _wait(self, source: Source) -> None:
        """Wait for the next report of a worker or the next time at which something is due; handle all reports."""
        now = self._clock()
        free = self.workers.reserve(1) > 0  # otherwise a report comes first
        may_check = free and self._queues.checks < MAX_CHECKS
        may_save = free and len(self._queues.saving) < self._downloads
        times = list(self._queues.next_times(now, may_check=may_check, may_save=may_save))
        if (self._queues.to_submit or source.next is not None) and self._throttle.quiet_until > now:
            times.append(self._throttle.quiet_until)
        if self._outbox.retry_at is not None:
            times.append(self._outbox.retry_at)
        times.append(self._deadline)
        if self.workers.starved_seconds > NO_THREAD_SECONDS:
            raise ServiceDownError("cannot start a thread", "raise the limit on processes (ulimit -u, pids.max)")
        self.workers.wait(max(0.0, min(60.0, min(times) - now)))

    def _settle(self, wait: Callable[[float], None] | None = None) -> None:
        """Cancel what was not sent yet, and give responses on their way a moment to arrive."""
        wait = wait or self.workers.wait
        began = self._clock()
        while any(not job.dispatch.cancel() for job in self._queues.submitting):
            left = began + (HURRY_SECONDS if self._interrupts.hurry else SETTLE_SECONDS) - self._clock()
            if left <= 0:
                break
            wait(left)
        wait(0)

    def _finish_downloads(self) -> None:
        if not self._plan.finish_downloads:
            return
        self.on_stopping(len(self._queues.saving))
        while self._queues.saving and not self._interrupts.hurry:
            self.workers.wait(60)
            self._outbox.commit()

    # Reports of the workers

    def _accepted(self, job: Job, task_id: str) -> None:
        job.task_id, job.attempts, job.last_error = task_id, 0, None
        del self._queues.submitting[job]
        job.began = self._clock() if self._plan.wait else job.began
        self._queues.running[job] = job.began + FIRST_SECONDS
        self._outbox.change(Accepted(job, task_id))
        self._outbox.emit(Submitted(job))
        self._throttle.accepted(self._queues.accepted)
        self._accepted_any = True
        job.request = {}  # an image prompt in it can be large, and is not needed again
        if not self._plan.wait:
            self._endings.end(job, Result(Status.PROCESSING))

    def _not_accepted(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        sent, now = self._queues.submitting.get(job, 0.0), self._clock()
        if isinstance(error, UnsendableError):
            self._endings.end_rejected(job, Status.UNSENT, error)
            return
        pause: float | None = None
        if isinstance(error, RateLimitedError):
            pause = self._throttle.refused(now, sent, self._queues.accepted, error.retry_after or 0.0)
        elif isinstance(error, NotSentError) and self._may_resend(job, error):
            pause = self._throttle.unreachable(now, sent)
        if pause is not None and job.waited + pause <= self._plan.patience:
            self._resend(job, pause, now, error)
            return
        if not isinstance(error, UsageError):  # which is about this request alone
            self._throttle.failed(now, sent)
            if self._throttle.failures >= MAX_FAILURES:
                self._stop_reason = self._reason_to_stop(error)
        if isinstance(error, OutcomeUnknownError):
            self._endings.end_rejected(job, Status.UNKNOWN, error)
        else:
            unsent = isinstance(error, NotSentError)
            self._endings.end_rejected(job, Status.UNSENT if unsent else Status.FAILED, error)

    def _may_resend(self, job: Job, error: NotSentError) -> bool:
        return not error.permanent and (self._accepted_any or job.attempts + 1 < SUBMIT_ATTEMPTS)

    def _reason_to_stop(self, error: FluxError) -> FluxError:
        if isinstance(error, OutcomeUnknownError):  # that outcome is unknown, not those of the ones never sent
            return ServiceDownError(f"submissions keep failing: {error.what}")
        return error

    def _resend(self, job: Job, pause: float, now: float, error: FluxError) -> None:
        job.waited += pause
        job.attempts += 1
        job.last_error = error.message
        job.dispatch = Dispatch()
        del self._queues.submitting[job]
        self._queues.to_submit[job] = now + pause
        # Until then it is certain that it was not accepted: if this process ends, its outcome is known.
        self._outbox.change(Postponed(job, error.message))
        self._outbox.emit(Retrying(job, error.message))

    def _checked(self, group: list[Job], sent: float, outcome: dict[str, Task | FluxError] | Exception) -> None:
        self._queues.checks -= 1
        self._queues.checking.difference_update(group)
        pause, now = 0.0, self._clock()
        self._queues.running.update(dict.fromkeys(group, now))
        if isinstance(outcome, RateLimitedError):
            asked = min(MAX_CHECK_PAUSE_SECONDS, outcome.retry_after or 0.0)
            pause = self._throttle.check_failed(now, sent, asked)
            self._queues.running = {job: max(at, now + pause) for job, at in self._queues.running.items()}
        elif isinstance(outcome, ServiceDownError):
            pause = self._throttle.check_failed(now, sent)
        else:
            self._throttle.checked()
        # All of a group wait equally long, so that one request checks them together again.
        pause = max(pause, backoff(1 + max(0, max(job.attempts for job in group) - MAX_FETCH_MANY.bit_length())))
        for job in group:
            found = outcome if isinstance(outcome, Exception) else outcome[job.task_id or ""]
            if isinstance(found, Task):
                self._checked_one(job, found)
            else:
                self._check_failed(job, found, now + pause)

    def _checked_one(self, job: Job, task: Task) -> None:
        self._queues.running.pop(job, None)
        was_finished = job.task is not task and job.task is not None and job.task.status is Status.FINISHED
        job.task, job.attempts, now = task, 0, self._clock()
        if task.status is Status.PROCESSING:
            self._still_running(job, task, now)
        elif task.status is Status.FAILED:
            self._endings.end(job, Result(task.status, ExitCode.TASK_FAILED, error=task.error))
        elif job.target is None:
            self._endings.end(job, Result(task.status))
        else:
            job.last_error = job.last_error if was_finished else None
            self._queues.to_save[job] = now
            if not was_finished:  # charged and finished: not saved until there is a path
                self._outbox.change(Finished(job, task))

    def _still_running(self, job: Job, task: Task, now: float) -> None:
        job.last_error = None
        job.pace.saw(job.seconds(now), task.percentage)
        self._queues.running[job] = now + job.pace.delay(known_start=job.known_start)
        if not task.finished_without_url:
            self._outbox.emit(Progress(job))
            return
        job.finished_since = now if job.finished_since is None else job.finished_since
        if now - job.finished_since >= FINISHED_WITHOUT_URL_SECONDS:
            error = "the service says that it finished, but gives no image URL"
            self._endings.end(job, Result(Status.FAILED, ExitCode.TASK_FAILED, error=error))

    def _check_failed(self, job: Job, error: Exception, again_at: float) -> None:
        if not isinstance(error, FluxError):
            raise error
        new = job.request is not None and job.seconds(self._clock()) < NEW_TASK_SECONDS
        unknown = isinstance(error, UnknownTaskError)
        if isinstance(error, ServiceDownError | BadResponseError) or (new and unknown):
            job.attempts += 1
            job.last_error = error.message
            self._queues.running[job] = again_at
            self._outbox.emit(Retrying(job, error.message))
        elif unknown:
            self._endings.end_rejected(job, Status.FAILED, error)
        else:
            self._endings.end_resumable(job, error.exit_code, error.message, error.hint)

    def _downloading(self, job: Job, received: int, total: int | None) -> None:
        self._outbox.emit(Downloading(job, received, total))

    def _saved(self, job: Job, saved: Saved) -> None:
        self._endings.end_saved(job, saved)

    def _not_saved(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        now = self._clock()
        step, at = next_attempt(job, error, now, self._plan.picture_patience)
        if step is NextAttempt.NONE:
            self._endings.end_not_saved(job, error)
            return
        self._queues.saving.discard(job)
        job.last_error = error.message
        # A status check first: the picture may have a new URL.
        (self._queues.running if step is NextAttempt.CHECK else self._queues.to_save)[job] = at
        self._outbox.emit(Retrying(job, error.message))

    # The end of a run that cannot go on

    def _abandon(self, error: BaseException) -> None:
        """End every job because the run itself has to end; nothing that goes wrong here may lose an ID."""

        def wait(seconds: float) -> None:
            with contextlib.suppress(Exception):  # each report may fail by itself; the first error is reported
                self.workers.wait(seconds)

        self._settle(wait)
        while self.workers.reports_waiting:
            wait(0)
        self._endings.abandon(error)
        self._outbox.close(hurry=lambda: self._interrupts.hurry)
