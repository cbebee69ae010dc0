"""From request to file, for one task or many: submit, poll, download, and never pay twice.

One loop in the calling thread makes every decision and owns the store and the handler. Everything that blocks runs
in workers that only report back, so that neither a deadline nor a signal waits for a socket.

A job passes three stages: `Submissions`, `Checks` and `Downloads`. Each takes it from a queue, starts an operation
for it, and moves it to the next stage's queue (see `Queues`) or ends it (`Endings`). All that is recorded or
reported of it goes through the `Outbox`: the commit first, then the events.

However a run ends, it first waits briefly for submissions in flight, then handles each response that has arrived,
and then commits the task IDs or reports them.
"""

import contextlib
import time
from collections.abc import Callable, Iterable

from flux_cli.api.client import Client
from flux_cli.api.task import Status
from flux_cli.engine.checks import MAX_CHECKS, Checks
from flux_cli.engine.downloads import Downloads
from flux_cli.engine.endings import Endings
from flux_cli.engine.events import Handler, Progress, Submitting
from flux_cli.engine.job import Job
from flux_cli.engine.outbox import Outbox
from flux_cli.engine.queues import Queues, Source
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.signals import Interrupts
from flux_cli.engine.store import Store
from flux_cli.engine.submissions import Submissions
from flux_cli.engine.throttle import Throttle
from flux_cli.engine.workers import GROWTH_SECONDS, Workers
from flux_cli.errors import ExitCode, ServiceDownError, worst
from flux_cli.pictures.saving import Saver
from flux_cli.storage.files import remove_live

SETTLE_SECONDS, HURRY_SECONDS = 2.0, 0.5
"""How long to wait for responses to submissions at a deadline or a signal, and after a second signal.

Each response may have the ID of a charged task."""
NO_THREAD_SECONDS = 10.0
"""How long a run continues if it cannot start a single worker."""


class Run:
    """One run over some jobs. Everything but the operations happens in the thread that calls `run`."""

    def __init__(
        self,
        client: Client,
        saver: Saver,
        store: Store | None,
        handle: Handler,
        settings: RunSettings,
        *,
        workers: Workers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.saver = saver
        self.workers = workers or Workers()
        self.clock = clock
        self.settings = settings
        self.interrupts = Interrupts(self.workers.wake)
        self.outbox = Outbox(store, handle, self.interrupts, clock)
        self.queues = Queues()
        self.endings = Endings(self.queues, self.outbox, settings.wait, clock)
        self.throttle = Throttle(settings.concurrency)
        self._submissions = Submissions(self)
        self._checks = Checks(self)
        self._downloads = Downloads(self)
        self._deadline = float("inf")
        self.on_stopping: Callable[[int], None] = lambda _: None
        """Called after a first signal with the number of downloads that are finished first."""

    @property
    def stopping(self) -> bool:
        """Whether a signal has requested the end; safe in any thread."""
        return self.interrupts.first is not None

    @property
    def hurry(self) -> bool:
        """Whether a second signal arrived, in the run or shortly after it."""
        return self.interrupts.hurry

    def run(self, jobs: Iterable[Job] | Source) -> ExitCode:
        """Run all jobs, emit their events, and return the worst exit code.

        A job is taken from `jobs` only when there is room for it.

        Raises:
            KeyboardInterrupt, SignalReceived: A signal requested the end; every job that was started has ended.
            Exception: What the handler of the events raised, if all jobs have ended without a worse exit code.
        """
        if self.settings.timeout is not None:
            self._deadline = self.clock() + self.settings.timeout
        with self.interrupts.deferred():
            try:
                source = jobs if isinstance(jobs, Source) else Source(jobs)
                self._loop(source)
                self.outbox.close()
                if self.interrupts.first is not None:
                    raise self.interrupts.first
            except BaseException as error:
                self._abandon(error)
                raise
            finally:
                self.workers.stop()
                remove_live()
        code = worst(self.endings.codes | self.outbox.exit_codes)
        if code == ExitCode.OK and self.outbox.handler_error is not None:
            raise self.outbox.handler_error
        return code

    def _loop(self, source: Source) -> None:
        while True:
            if self.clock() >= self._deadline:
                self._settle()
                self.endings.time_out(source)
            if not self._submissions.send(self._admitted(source)):
                continue  # the jobs that wait end before anything else is waited for
            if source.exhausted and not self.queues:
                return
            if self.settings.first_only and self.endings.saved_any:
                self.queues.clear()
                return
            now = self.clock()
            self._checks.start_due(now)
            self._downloads.start_due(now)
            self._wait(source)
            if self.interrupts.first is not None:
                self._finish_downloads()
                raise self.interrupts.first

    def _admitted(self, source: Source) -> list[Job]:
        """Take jobs while there is room; return those that may be submitted now, earlier ones first."""
        now = self.clock()
        admitted = self._submissions.due(now)
        while source.next is not None and self._has_room(source.next, len(admitted), now):
            job = source.take()
            job.began = now
            if job.task is not None:
                self._checks.handle_status(job, job.task)
            elif job.task_id is not None:
                self.queues.move(job, self.queues.running, now)
                self.outbox.emit(Progress(job))
            elif self._submissions.stop_reason is not None:
                self.endings.end_rejected(job, Status.UNSENT, self._submissions.stop_reason)
            else:
                self.queues.move(job, self.queues.to_submit, now)
                self.outbox.emit(Submitting(job))
                admitted.append(job)
        return admitted[: self.workers.reserve(len(admitted))]

    def _has_room(self, job: Job, admitted: int, now: float) -> bool:
        backlog = self._downloads.backlog
        if job.task_id is not None or self._submissions.stop_reason is not None:
            return self.queues.in_flight + admitted + backlog < self.settings.concurrency
        resubmissions = len(self.queues.to_submit) > admitted  # they come first
        return not resubmissions and self._submissions.admits(admitted + backlog, now)

    def _wait(self, source: Source) -> None:
        """Wait until a worker reports or something is due; handle all reports."""
        now = self.clock()
        free = self.workers.reserve(1) > 0  # otherwise a report comes first
        may_check = free and self.queues.checks < MAX_CHECKS
        times = list(self.queues.next_times(now, may_check=may_check, may_save=free and self._downloads.has_room))
        if (self.queues.to_submit or source.next is not None) and self.throttle.quiet_until > now:
            times.append(self.throttle.quiet_until)
        if self.outbox.retry_at is not None:
            times.append(self.outbox.retry_at)
        times += [self._deadline] if free else [self._deadline, now + GROWTH_SECONDS]
        if self.workers.starved_seconds > NO_THREAD_SECONDS:
            raise ServiceDownError("cannot start a thread", "raise the limit on processes (ulimit -u, pids.max)")
        self.workers.wait(max(0.0, min(60.0, min(times) - now)))

    # The end of a run

    def _settle(self, wait: Callable[[float], None] | None = None) -> None:
        """Cancel what has not been sent, and wait briefly for the responses to the rest."""
        wait = wait or self.workers.wait
        began = self.clock()
        while any(not job.dispatch.cancel() for job in self.queues.submitting):
            left = began + (HURRY_SECONDS if self.interrupts.hurry else SETTLE_SECONDS) - self.clock()
            if left <= 0:
                break
            wait(left)
        wait(0)

    def _finish_downloads(self) -> None:
        if not self.settings.finish_downloads:
            return
        self.on_stopping(len(self.queues.saving))
        while self.queues.saving and not self.interrupts.hurry:
            self.workers.wait(60)
            self.outbox.commit()

    def _abandon(self, error: BaseException) -> None:
        """End every job because the run itself ends. No exception here may lose an ID."""

        def wait(seconds: float) -> None:
            with contextlib.suppress(Exception):  # one failing report must not stop the others
                self.workers.wait(seconds)

        self._settle(wait)
        while self.workers.reports_waiting:
            wait(0)
        self.endings.abandon(error)
        self.outbox.close()
