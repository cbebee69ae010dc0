"""How the jobs of a run end: their results, exit codes, last changes and last events."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from flux_cli.api.task import Status
from flux_cli.engine.events import Ended
from flux_cli.engine.job import Job
from flux_cli.engine.outbox import Outbox
from flux_cli.engine.queues import Queues, Source
from flux_cli.engine.result import Result
from flux_cli.engine.store import Closed
from flux_cli.errors import ExitCode, FluxError, OutcomeUnknownError
from flux_cli.pictures.saving import Saved

TIMED_OUT = ExitCode.GAVE_UP_WAITING


class Endings:
    """Ends jobs: removes them from their queues and puts their results into the outbox."""

    def __init__(self, queues: Queues, outbox: Outbox, waits: bool, clock: Callable[[], float]) -> None:
        self._queues = queues
        self._outbox = outbox
        self._waits = waits
        self._clock = clock
        self.codes: set[ExitCode] = set()
        self.saved_any = False

    def end(self, job: Job, outcome: Result) -> None:
        """End a job. Its result is the outcome and what is known about the task."""
        result = replace(
            outcome,
            task=job.task,
            task_id=job.task_id,
            request=job.recorded,
            elapsed=self._clock() - job.began if self._waits else None,
        )
        self._queues.remove(job)
        self.codes.add(result.exit_code)
        self.saved_any |= result.path is not None or result.content is not None
        if job.transfer is not None:
            job.transfer.close()
        if result.content is None:  # otherwise the outbox records it after writing it to stdout
            self._outbox.change(Closed(job, result))
        self._outbox.emit(Ended(job, result))

    def end_saved(self, job: Job, saved: Saved) -> None:
        """End a job whose picture is saved."""
        self.end(job, Result(Status.FINISHED, **vars(saved)))

    def end_unfinished(self, job: Job, error: FluxError) -> None:
        """End a job whose task cannot be checked, or whose picture cannot be saved, now."""
        self.end_resumable(job, error.exit_code, error.message, error.hint)

    def end_rejected(self, job: Job, status: Status, error: FluxError, *, concerns_all: bool = False) -> None:
        """End a job that is not sent, was rejected, has an unknown outcome, or is unknown to the service."""
        result = Result(status, error.exit_code, error=error.message, hint=error.hint, concerns_all=concerns_all)
        self.end(job, result)

    def end_resumable(self, job: Job, code: ExitCode, error: str, hint: str | None = None) -> None:
        """End a job whose task was charged and can be waited for again; its picture may be saved."""
        saved = vars(job.transfer.saved) if job.transfer and job.transfer.saved else {}
        status = Status.FINISHED if saved else job.task.status if job.task else Status.PROCESSING
        self.end(job, Result(status, code, error=error, hint=hint, resumable=True, **saved))

    def end_running(self, job: Job) -> None:
        """End a job whose task is not waited for any longer."""
        remark = f" ({job.task.remark})" if job.task and job.task.remark else ""
        self.end_resumable(job, TIMED_OUT, f"timed out, the task is still running{remark}")

    def time_out(self, source: Source) -> None:
        """End every job because the deadline has passed, with its last known status."""
        reason = "timed out before it was sent"
        self._end_unsubmitted(TIMED_OUT, reason)
        while source.next is not None:
            job = source.take()
            if job.task_id is None:
                self.end(job, Result(Status.UNSENT, TIMED_OUT, error=reason))
            else:
                self.end_resumable(job, TIMED_OUT, "timed out")
        for job in self._queues.charged:
            if job.last_error:
                self.end_resumable(job, ExitCode.SERVICE_DOWN, f"timed out: {job.last_error}")
            elif job in self._queues.running or job in self._queues.checking:
                self.end_running(job)
            else:
                self.end_resumable(job, TIMED_OUT, "timed out during the download")

    def abandon(self, error: BaseException) -> None:
        """End every job because the run itself ends. An exception for one job does not stop the others."""
        code: ExitCode = getattr(error, "exit_code", ExitCode.UNEXPECTED)
        code = ExitCode.SIGINT if isinstance(error, KeyboardInterrupt) else code
        reason = error.message if isinstance(error, FluxError) else "interrupted"
        with contextlib.suppress(Exception):
            self._end_unsubmitted(code, f"{reason} before it was sent")
        for job in self._queues.charged:
            with contextlib.suppress(Exception):
                self.end_resumable(job, code, reason)

    def _end_unsubmitted(self, code: ExitCode, reason: str) -> None:
        for job in [*self._queues.to_submit, *self._queues.submitting]:
            if job.dispatch.cancel():
                cause = job.last_error or ("no connection yet" if job in self._queues.submitting else None)
                # Not `TIMED_OUT`, which means that there is a task to wait for.
                unsent = ExitCode.SERVICE_DOWN if code is TIMED_OUT and cause else code
                self.end(job, Result(Status.UNSENT, unsent, error=f"{reason}: {cause}" if cause else reason))
            else:
                error = OutcomeUnknownError("no response had arrived yet")
                unknown = code if code > ExitCode.OUTCOME_UNKNOWN else error.exit_code  # keep a signal's code
                self.end(job, Result(Status.UNKNOWN, unknown, error=error.message, hint=error.hint))
