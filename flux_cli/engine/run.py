"""From request to file, for one task or many: submit, wait, download, and never pay twice.

One loop in the calling thread owns every decision, the history and the observer. Whatever blocks on the network
runs in daemon threads that only report back, so that a deadline or a signal never waits for a socket.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from flux_cli.api.backoff import BACKOFF_MAX, backoff
from flux_cli.api.client import MAX_FETCH_MANY, Client, RateLimitedError, UnknownTaskError
from flux_cli.api.task import Status, Task
from flux_cli.api.transport import NotSentError
from flux_cli.engine.commits import Ledger
from flux_cli.engine.job import Job, Observer, Result
from flux_cli.engine.polling import FIRST_SECONDS
from flux_cli.engine.queues import GATHER_SECONDS, Coming, UnderWay
from flux_cli.engine.signals import deferred
from flux_cli.engine.throttle import Throttle
from flux_cli.engine.workers import Delivered, Errands, UnsendableError
from flux_cli.errors import (
    BadResponseError,
    ExitCode,
    FluxError,
    LocalFileError,
    OutcomeUnknownError,
    ServiceDownError,
    UsageError,
    worst,
)
from flux_cli.pictures.download import DownloadError, Retry
from flux_cli.pictures.saving import Saver
from flux_cli.storage.files import remove_live
from flux_cli.storage.history import History

SUBMIT_TRIES = 4
"""How often a submission that certainly did not arrive is tried in all."""
MAX_FAILURES = 5
"""So often in a row a submission may fail for a reason that the next one shares, before no more are made."""
MAX_LOOK_PAUSE_SECONDS = 60.0
"""The longest that a service is not asked how tasks stand, however long it asks for."""
MAX_LOOKS, MAX_DOWNLOADS = 4, 8
"""Status requests and downloads under way at once."""
NEWBORN_SECONDS = 3.0
"""So soon after its submission a task that the service does not know yet may still turn up."""
SETTLE_SECONDS = 2.0
"""How long answers to submissions are waited for at a deadline or a signal: each is the id of a paid task."""


@dataclass(frozen=True)
class Plan:
    """How a run goes about its jobs.

    Attributes:
        service: The name of the service in the history: its URL, or `sandbox`.
        wait: False ends each job as soon as it is accepted.
        timeout: Seconds for the whole run, or None.
        concurrency: The most tasks that are submitted or running at once.
        patience: Seconds that one submission waits in all while the service asks to slow down or, once it has
            accepted something, cannot be reached.
        picture_patience: Seconds that one picture waits in all, beyond the tries of its download, for a server
            that cannot be reached.
    """

    service: str
    wait: bool = True
    timeout: float | None = None
    concurrency: int = 16
    patience: float = 60.0
    picture_patience: float = 0.0


class Run:
    """One run over some jobs. All but what runs in threads happens in the thread that calls `run`."""

    def __init__(
        self, client: Client, saver: Saver, history: History | None, observer: Observer, plan: Plan
    ) -> None:
        self._ledger = Ledger(history, plan.service, observer)
        self._observer = observer
        self._plan = plan
        self._errands = Errands(client, saver)
        self._jobs = UnderWay()
        self._codes: set[ExitCode] = set()
        self._throttle = Throttle(plan.concurrency)
        self._stopper: FluxError | None = None  # why nothing more is submitted
        self._heard = False  # the service has accepted something in this run

    def run(self, jobs: Iterable[Job]) -> ExitCode:
        """Take jobs to their ends, tell the observer of each, and return the exit code that speaks for all.

        Jobs are taken from the iterable only as fast as there is room for them.

        Raises:
            KeyboardInterrupt, SignalReceived: Asked to end; the observer has been told of every job under way.
        """
        deadline = None if self._plan.timeout is None else time.monotonic() + self._plan.timeout
        with deferred(self._errands.wake) as asked_to_end:
            try:
                coming = Coming(jobs)
                while True:
                    if deadline is not None and time.monotonic() >= deadline:
                        self._give_up(coming)
                    self._submit_all(self._admitted(coming))
                    if not coming and not self._jobs:
                        self._ledger.close()
                        return worst(self._codes)
                    self._start_due()
                    self._handle_next(deadline, coming)
                    if asked_to_end:
                        self._let_submissions_settle()
                        raise asked_to_end[0]
            except BaseException as error:  # whatever it is: no paid task goes unmentioned
                self._abandon(error)
                raise
            finally:
                self._errands.stop()
                remove_live()

    # The loop's steps

    def _admitted(self, coming: Coming) -> list[Job]:
        """Take in jobs while there is room; return those that may be submitted now, earlier ones first."""
        now = time.monotonic()
        admitted: list[Job] = []
        if self._stopper is not None:
            for job in list(self._jobs.to_submit):
                del self._jobs.to_submit[job]
                self._end_unsent(job, self._stopper)
        for job, due in self._jobs.to_submit.items():
            if due <= now and self._admits(len(admitted), now):
                admitted.append(job)
        while coming.next is not None and self._has_room(coming.next, len(admitted), now):
            job = next(iter(coming))
            job.began = now
            if job.task is not None:
                self._seen(job, job.task)
            elif job.task_id is not None:
                self._jobs.running[job] = now
                self._ledger.tell(self._observer.waiting, job)
            elif self._stopper is not None:
                self._end_unsent(job, self._stopper)
            else:
                self._jobs.to_submit[job] = now
                admitted.append(job)
        return admitted

    def _admits(self, more: int, now: float) -> bool:
        return self._throttle.admits(self._jobs.in_flight + more, len(self._jobs.submitting) + more, now)

    def _has_room(self, job: Job, admitted: int, now: float) -> bool:
        backlog = max(0, len(self._jobs.to_save) + len(self._jobs.saving) - 4 * MAX_DOWNLOADS)
        if job.task_id is not None or self._stopper is not None:
            return self._jobs.in_flight + admitted + backlog < self._plan.concurrency
        again = len(self._jobs.to_submit) > admitted  # some wait to be sent again: they come first
        return not again and self._admits(admitted + backlog, now)

    def _submit_all(self, jobs: list[Job]) -> None:
        """Write down what has happened and what is about to be sent, in one commit; tell of it; then send it.

        What cannot be written down is not sent, nor is anything after it; what is under way goes on.
        """
        failure = self._ledger.commit(jobs)
        if failure is not None:
            self._stopper = failure
            for job in jobs:
                del self._jobs.to_submit[job]
                self._end_unsent(job, failure)
            self._ledger.commit(jobs := [])
        self._ledger.tell_news()
        now = time.monotonic()
        for job in jobs:
            del self._jobs.to_submit[job]
            self._jobs.submitting[job] = now
            self._errands.submit(job, partial(self._accepted, job), partial(self._not_accepted, job))

    def _start_due(self) -> None:
        now = time.monotonic()
        while self._jobs.looks < MAX_LOOKS and (group := self._jobs.due(now, self._throttle.failed_looks)):
            looked = partial(self._looked, group, now)
            self._errands.look(group, looked, looked)
        while self._jobs.to_save and len(self._jobs.saving) < MAX_DOWNLOADS:
            job = self._jobs.to_save.popleft()
            self._jobs.saving.add(job)
            self._errands.save(
                job,
                partial(self._downloading, job),
                partial(self._troubled, job),
                partial(self._saved, job),
                partial(self._not_saved, job),
            )

    def _handle_next(self, deadline: float | None, coming: Coming) -> None:
        """Wait for the next report of a thread or the next time at which something is due; handle all reports."""
        now = time.monotonic()
        times = [due for due in self._jobs.to_submit.values() if due > now]
        if (self._jobs.to_submit or coming) and self._throttle.quiet_until > now:
            times.append(self._throttle.quiet_until)
        if self._jobs.looks < MAX_LOOKS:
            times += [at + (GATHER_SECONDS if at <= now else 0.0) for at in self._jobs.running.values()]
        if deadline is not None:
            times.append(deadline)
        # Never without a limit: Windows delivers no Ctrl-C to a wait that has none.
        self._errands.handle(min(60.0, min(times, default=now + 60.0) - now))

    def _let_submissions_settle(self) -> None:
        """Call off what has not left, and give answers that are on their way a moment to arrive."""
        until = time.monotonic() + SETTLE_SECONDS
        while any(not job.dispatch.cancel() for job in self._jobs.submitting):
            if (left := until - time.monotonic()) <= 0:
                break
            self._errands.handle(left)

    # What the loop does with the reports

    def _accepted(self, job: Job, task_id: str) -> None:
        del self._jobs.submitting[job]
        job.task_id, job.tries, job.trouble, self._heard = task_id, 0, None, True
        job.request = {}  # an image prompt in it can be large, and is not needed again
        self._ledger.note(job, lambda history, number: history.accepted(number, task_id))
        self._ledger.tell(self._observer.submitted, job)
        self._throttle.accepted(self._jobs.accepted + 1)
        if self._plan.wait:
            job.began = time.monotonic()
            self._jobs.running[job] = job.began + FIRST_SECONDS
        else:
            self._end(job, Result(Status.PROCESSING))

    def _not_accepted(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        sent, now = self._jobs.submitting.pop(job), time.monotonic()
        if isinstance(error, UnsendableError):
            self._end(job, Result(Status.UNSENT, error.exit_code, error=error.message, hint=error.hint))
            return
        wait: float | None = None
        if isinstance(error, RateLimitedError):
            wait = self._throttle.refused(now, sent, self._jobs.accepted, error.retry_after or 0.0)
        elif (
            isinstance(error, NotSentError)
            and not error.permanent
            and (self._heard or job.tries + 1 < SUBMIT_TRIES)
        ):
            wait = self._throttle.unreachable(now, sent)
        if wait is not None and job.waited + wait <= self._plan.patience:
            job.waited += wait
            self._send_again(job, now + wait, error)
            return
        if not isinstance(error, UsageError):  # which is about this request alone
            self._throttle.failed(now, sent)
            if self._throttle.failures >= MAX_FAILURES:
                # What is unknown of that one is not so of those that are not sent.
                self._stopper = (
                    ServiceDownError(f"submissions keep failing: {error.what}")
                    if isinstance(error, OutcomeUnknownError)
                    else error
                )
        if isinstance(error, OutcomeUnknownError):
            status = Status.UNKNOWN
        else:
            status = Status.UNSENT if isinstance(error, NotSentError) else Status.FAILED
        self._end(job, Result(status, error.exit_code, error=error.message, hint=error.hint))

    def _send_again(self, job: Job, when: float, error: FluxError) -> None:
        job.tries += 1
        job.trouble = error.message
        job.dispatch = type(job.dispatch)()
        self._jobs.to_submit[job] = when
        # Until then it is certain that it was not accepted; should this process end, it is not in doubt.
        self._ledger.note(job, lambda history, number: history.ended(number, Status.UNSENT, error=error.message))
        self._ledger.tell(self._observer.trouble, job, error.message)

    def _looked(self, group: list[Job], sent: float, outcome: dict[str, Task | FluxError] | Exception) -> None:
        self._jobs.looks -= 1
        self._jobs.looking.difference_update(group)
        pause, now = 0.0, time.monotonic()
        if isinstance(outcome, RateLimitedError):
            pause = self._throttle.look_failed(now, sent, min(MAX_LOOK_PAUSE_SECONDS, outcome.retry_after or 0.0))
            self._jobs.running = {job: max(at, now + pause) for job, at in self._jobs.running.items()}
        elif isinstance(outcome, ServiceDownError):
            pause = self._throttle.look_failed(now, sent)
        else:
            self._throttle.looked()
        # All of a group wait equally long, so that they are asked for together again.
        pause = max(pause, backoff(1 + max(0, max(job.tries for job in group) - MAX_FETCH_MANY.bit_length())))
        for job in group:
            seen = outcome if isinstance(outcome, Exception) else outcome[job.task_id or ""]
            if isinstance(seen, Task):
                self._seen(job, seen)
            else:
                self._not_seen(job, seen, pause)

    def _seen(self, job: Job, task: Task) -> None:
        job.task, job.tries, job.trouble = task, 0, None
        if task.status is Status.FAILED:
            self._end(job, Result(task.status, ExitCode.TASK_FAILED, error=task.error))
        elif task.status is Status.PROCESSING:
            job.pace.saw(job.seconds(), task.percentage)
            known_start = job.request is not None or job.age is not None
            self._jobs.running[job] = time.monotonic() + job.pace.delay(known_start=known_start)
            self._ledger.tell(self._observer.waiting, job)
        elif job.target is None:
            self._end(job, Result(task.status))
        else:
            # Paid for and finished: from here on it counts as unsaved until there is a path.
            self._ledger.note(job, lambda history, number: history.ended(number, task.status, **_urls(task)))
            self._jobs.to_save.append(job)

    def _not_seen(self, job: Job, error: Exception, pause: float) -> None:
        newborn = job.request is not None and job.seconds() < NEWBORN_SECONDS
        passing = isinstance(error, ServiceDownError | BadResponseError)
        if passing or (newborn and isinstance(error, UnknownTaskError)):
            job.tries += 1
            job.trouble = str(error)
            self._jobs.running[job] = time.monotonic() + pause
            self._ledger.tell(self._observer.trouble, job, str(error))
        elif isinstance(error, UnknownTaskError):
            self._end(job, Result(Status.FAILED, error.exit_code, error=error.message, hint=error.hint))
        elif isinstance(error, FluxError):
            self._end_resumable(job, error.exit_code, error.message, error.hint)
        else:
            raise error

    def _downloading(self, job: Job, received: int, total: int | None) -> None:
        self._ledger.tell(self._observer.downloading, job, received, total)

    def _troubled(self, job: Job, message: str) -> None:
        job.trouble = message
        self._ledger.tell(self._observer.trouble, job, message)

    def _saved(self, job: Job, delivered: Delivered) -> None:
        self._jobs.saving.discard(job)
        job.task, saved = delivered.task, delivered.saved
        result = Result(Status.FINISHED, path=saved.path, original_path=saved.original_path, content=saved.content)
        if delivered.lacking is not None:
            why, hint = f"the original: {delivered.lacking.message}", delivered.lacking.hint
            code = _not_saved_code(delivered.lacking)
            result = replace(result, exit_code=code, error=why, hint=hint, resumable=True)
        self._end(job, result)

    def _not_saved(self, job: Job, error: Exception) -> None:
        if not isinstance(error, FluxError):
            raise error
        self._jobs.saving.discard(job)
        pause = min(BACKOFF_MAX, backoff(1) + job.waited)
        transient = isinstance(error, DownloadError) and error.kind is Retry.TRANSIENT
        if transient and job.waited + pause <= self._plan.picture_patience:
            job.waited += pause
            # A look first: the picture may lie elsewhere by then.
            self._jobs.running[job] = time.monotonic() + pause
            self._ledger.tell(self._observer.trouble, job, error.message)
            return
        self._end_resumable(job, _not_saved_code(error), error.message, error.hint)

    # Ends

    def _give_up(self, coming: Coming) -> None:
        """The deadline has passed: end every job, saying what is known of it."""
        self._let_submissions_settle()
        self._errands.handle()
        self._end_unsubmitted(ExitCode.GAVE_UP_WAITING, "gave up before it was sent")
        for job in coming:
            if job.task_id is None:
                self._end(job, Result(Status.UNSENT, ExitCode.GAVE_UP_WAITING, error="gave up before it was sent"))
            else:
                self._end_resumable(job, ExitCode.GAVE_UP_WAITING, "gave up waiting")
        for job in self._jobs.paid:
            if job.trouble:
                self._end_resumable(job, ExitCode.SERVICE_DOWN, f"gave up waiting: {job.trouble}")
            elif job in self._jobs.running or job in self._jobs.looking:
                self._end_resumable(job, ExitCode.GAVE_UP_WAITING, "gave up waiting, the task still runs")
            else:
                self._end_resumable(job, ExitCode.GAVE_UP_WAITING, "gave up while the picture was downloaded")
        self._jobs.clear()

    def _abandon(self, error: BaseException) -> None:
        """End every job under way because the run itself has to end."""
        code = (
            ExitCode.SIGINT
            if isinstance(error, KeyboardInterrupt)
            else getattr(error, "exit_code", ExitCode.UNEXPECTED)
        )
        why = error.message if isinstance(error, FluxError) else "interrupted"
        if not isinstance(error, Exception):  # a bug in a report's handling would only show again
            self._errands.handle()
        self._end_unsubmitted(code, f"{why} before it was sent")
        for job in self._jobs.paid:
            self._end_resumable(job, code, why)
        self._jobs.clear()
        self._ledger.close()

    def _end_unsubmitted(self, code: ExitCode, why: str) -> None:
        for job in [*self._jobs.to_submit, *self._jobs.submitting]:
            if job.dispatch.cancel():
                trouble = job.trouble or ("no connection yet" if job in self._jobs.submitting else None)
                late = code is ExitCode.GAVE_UP_WAITING and trouble
                unsent = ExitCode.SERVICE_DOWN if late else code  # there is no task that could be waited for
                self._end(job, Result(Status.UNSENT, unsent, error=f"{why}: {trouble}" if trouble else why))
            else:
                error = OutcomeUnknownError("no answer had come yet")
                unknown = code if code > ExitCode.OUTCOME_UNKNOWN else error.exit_code  # a signal's code stays
                self._end(job, Result(Status.UNKNOWN, unknown, error=error.message, hint=error.hint))

    def _end_unsent(self, job: Job, why: FluxError) -> None:
        self._end(job, Result(Status.UNSENT, why.exit_code, error=f"not sent: {why.message}", hint=why.hint))

    def _end_resumable(self, job: Job, code: ExitCode, error: str, hint: str | None = None) -> None:
        status = job.task.status if job.task else Status.PROCESSING
        self._end(job, Result(status, code, error=error, hint=hint, resumable=True))

    def _end(self, job: Job, bare: Result) -> None:
        result = Result(
            status=bare.status,
            exit_code=bare.exit_code,
            task=job.task,
            task_id=job.task_id,
            path=bare.path,
            original_path=bare.original_path,
            content=bare.content,
            request=job.recorded,
            elapsed=time.monotonic() - job.began if self._plan.wait else None,
            error=bare.error,
            hint=bare.hint,
            resumable=bare.resumable,
        )
        if result.status is not Status.PROCESSING:
            self._ledger.note(
                job, lambda history, number: history.ended(number, result.status, **_columns(result))
            )
        self._ledger.tell(self._observer.ended, job, result)
        self._codes.add(result.exit_code)


def _not_saved_code(error: FluxError) -> ExitCode:
    return ExitCode.LOCAL_FILE if isinstance(error, LocalFileError) else ExitCode.SERVICE_DOWN


def _urls(task: Task | None) -> dict[str, str | int | None]:
    if task is None:
        return {}
    return {"image_url": task.image_url, "original_image_url": task.original_image_url}


def _columns(result: Result) -> dict[str, str | int | None]:
    path = str(result.path.absolute()) if result.path else "-" if result.content is not None else None
    original = str(result.original_path.absolute()) if result.original_path else None
    return {
        **_urls(result.task),
        "path": path,
        "original_path": original,
        "error": result.error,
        "exit_code": int(result.exit_code),
    }
