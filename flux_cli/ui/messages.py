"""Messages about tasks: errors, warnings, and how to resume."""

import shlex
from collections.abc import Callable, Sequence

from flux_cli.api.task import Status, short_id, wait_command
from flux_cli.engine.events import Ended, Event, Retrying, Unrecorded
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.ui import console
from flux_cli.ui.part import Part
from flux_cli.ui.printer import ResultPrinter


class Messages(Part):
    """Prints errors and warnings. A message that applies to several tasks is printed once.

    `prefix` returns the beginning of messages about a job, such as the row of a batch.
    """

    def __init__(self, prefix: Callable[[Job], str] = lambda _: "") -> None:
        self._prefix = prefix
        self._printed: set[str] = set()
        self._unrecorded: set[Job] = set()

    def handle(self, event: Event) -> None:
        """Print the event's message, if it has one."""
        if isinstance(event, Retrying):
            self._once(console.warning, f"{event.message}; retrying")
        elif isinstance(event, Unrecorded):
            self._warn_of_unrecorded(event.job, event.message)
        elif isinstance(event, Ended):
            if event.result.error is not None:
                self._error(event.job, event.result)
            if event.result.warning is not None:
                console.warning(f"{self._prefix(event.job)}{event.result.warning}")

    def _once(self, say: Callable[[str], None], text: str) -> None:
        if text not in self._printed:
            self._printed.add(text)
            say(text)

    def _warn_of_unrecorded(self, job: Job, message: str) -> None:
        """Print the full task ID, even with `--quiet`: it is recorded nowhere else."""
        if job.task_id is None:
            self._once(console.warning, message)
        elif job not in self._unrecorded:
            self._unrecorded.add(job)
            console.warning_despite_quiet(f"{self._prefix(job)}{message}; task {job.task_id} is missing there")

    def _error(self, job: Job, result: Result) -> None:
        if result.concerns_all or result.status in (Status.UNSENT, Status.UNKNOWN):
            self._once(console.error, result.error or "")  # most likely the same for every task
        elif job.task_id is None:
            self._once(console.error, f"{self._prefix(job)}{result.error}")
        else:
            console.error(f"{self._prefix(job)}{task_error(result)}")
        if result.hint:
            self._once(console.hint, result.hint)


class ResumeHints(Part):
    """Prints, at the end of a run, how to get the pictures of tasks that are charged and not saved."""

    def __init__(self, jobs: Sequence[Job], flags: str, printer: ResultPrinter) -> None:
        """`flags` are what a later command needs to reach the same service, with a space before them, or empty."""
        self._flags = flags
        self._printer = printer
        self._running = dict.fromkeys(job for job in jobs if job.task_id is not None)
        self._unsaved: list[Job] = []
        self._only_on_stdout: list[Job] = []
        self._unrecorded: set[Job] = set()

    def handle(self, event: Event) -> None:
        """Collect a task that is charged and not saved."""
        if isinstance(event, Unrecorded):
            self._unrecorded.add(event.job)
        elif isinstance(event, Ended) and event.job.task_id is not None:
            self._running.pop(event.job, None)
            result = event.result
            if result.resumable:
                self._unsaved.append(event.job)
            elif result.content is not None:
                self._only_on_stdout.append(event.job)
            elif result.status is Status.PROCESSING and result.error is None:
                self._running[event.job] = None

    def close(self) -> None:
        """Print the hints. The printer must be closed already."""
        stdout_failed = self._printer.failure is not None
        for command in self._commands([*self._unsaved, *(self._only_on_stdout if stdout_failed else [])]):
            console.hint(f"already charged; resume with: {command}")
        if stdout_failed or not console.quiet:
            for command in self._commands([*self._running]):  # after `--no-wait` or `wait --any`
                console.hint(f"get the picture with: {command}")

    def _commands(self, jobs: list[Job]) -> list[str]:
        """Return the commands that get these tasks: one for all, if the history has them."""
        recorded = [job for job in jobs if job.number is not None and job not in self._unrecorded]
        commands = []
        if len(recorded) > 1:
            commands = [f"flux-cli wait --all{self._flags}"]
            jobs = [job for job in jobs if job not in recorded]
        if jobs:
            commands.append(resume_command([job.task_id or "" for job in jobs], self._flags))
        return commands


def task_error(result: Result) -> str:
    """Return the message about a task that has failed, or that has not been saved."""
    failed = " failed" if result.status is Status.FAILED else ""
    return f"task {short_id(result.task_id)}{failed}: {result.error}"


def resume_command(task_ids: Sequence[str], flags: str) -> str:
    """Return the command that resumes tasks, with their IDs quoted for a shell."""
    if len(task_ids) == 1:
        return wait_command(task_ids[0], flags)
    return f"flux-cli wait{flags} -- {' '.join(map(shlex.quote, task_ids))}"
