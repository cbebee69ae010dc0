"""What people see while tasks are on their way: bars on a terminal, plain lines elsewhere, or only errors."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flux_cli.api.task import Status, wait_command
from flux_cli.engine.job import Job, Result
from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from flux_cli.ui.below import Below


class Silence:
    """Tells of errors only, and of paid tasks that live on. The other observers build on it."""

    def __init__(self, flags: str = "") -> None:
        """`flags` are what a later command needs to reach the same service."""
        self._flags = flags
        self._troubled: set[Job] = set()
        self._unrecorded: set[Job] = set()

    def submitted(self, job: Job) -> None:
        """Say nothing."""

    def waiting(self, job: Job) -> None:
        """Say nothing."""

    def trouble(self, job: Job, message: str) -> None:
        """Say nothing."""

    def unrecorded(self, job: Job, message: str) -> None:
        """Tell the task's id, since the history cannot, once."""
        if job not in self._unrecorded:
            self._unrecorded.add(job)
            console.warning(f"{message}; it does not know the task {job.task_id}" if job.task_id else message)

    def downloading(self, job: Job, received: int, total: int | None) -> None:
        """Say nothing."""

    def ended(self, job: Job, result: Result) -> None:
        """Tell what went wrong and how to go on."""
        if result.error is not None:
            name = f"{job.task_id}: " if job.task_id else ""
            console.error(f"{name}{result.error}")
            if result.hint:
                console.hint(result.hint)
        if result.resumable:
            self.lives_on(job)

    def lives_on(self, job: Job) -> None:
        """Tell how to get at a task that is paid for and not saved."""
        console.hint(f"the task is paid for and lives on: {wait_command(job.task_id, self._flags)}")

    def _warn_once(self, job: Job, message: str) -> None:
        if job not in self._troubled:
            self._troubled.add(job)
            console.warning(f"{message}; trying again")

    def _warn_of_file(self, result: Result) -> None:
        if result.warning is not None:
            console.warning(result.warning)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Make room for output on stdout."""
        yield


class Lines(Silence):
    """A line when a task is submitted and one when it ends, and one when the service first makes trouble."""

    def submitted(self, job: Job) -> None:
        """Tell the id."""
        console.note(f"submitted {job.task_id}: {console.shortened(job.prompt, 60)}")

    def trouble(self, job: Job, message: str) -> None:
        """Tell of it once a task; what follows is mostly the same trouble."""
        self._warn_once(job, message)

    def ended(self, job: Job, result: Result) -> None:
        """Tell how it ended."""
        super().ended(job, result)
        if result.error is None and result.status is Status.FINISHED:
            took = f" in {result.elapsed:.1f} s" if result.elapsed is not None else ""
            console.note(f"finished {job.task_id}{took}")
            self._warn_of_file(result)
        elif result.error is None and result.status is Status.PROCESSING:
            console.hint(wait_command(job.task_id, self._flags))


class Display(Silence):
    """Bars below the lines that stay: they are taken away while one is written."""

    _shown: "Below | None" = None

    def close(self) -> None:
        """Remove the bars and give the cursor back."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def unrecorded(self, job: Job, message: str) -> None:
        """Tell the task's id, above the bars."""
        with self.paused():
            super().unrecorded(job, message)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bars away while something is written."""
        self.close()
        try:
            yield
        finally:
            self._open()

    def _open(self) -> None:
        """Show the bars where the cursor is now."""
        raise NotImplementedError


class Bars(Display):
    """A bar a task, gone when it is over; what is worth keeping is printed above."""

    def __init__(self, flags: str = "") -> None:
        super().__init__(flags)
        self._bars: dict[Job, TaskID] = {}
        self._progress = _progress()

    def submitted(self, job: Job) -> None:
        """Start a bar."""
        self._bar(job)

    def waiting(self, job: Job) -> None:
        """Move the bar to the percentage, never back."""
        bar = self._bar(job)
        percentage = job.task.percentage if job.task else None
        if percentage is not None:
            shown = self._progress.tasks[self._progress.task_ids.index(bar)].completed
            self._progress.update(bar, total=100, completed=max(shown, percentage))
        self._progress.update(bar, state="")

    def trouble(self, job: Job, message: str) -> None:
        """Tell of it once, above the bars, and mark the bar."""
        with self.paused():
            self._warn_once(job, message)
        if job.task_id:
            self._progress.update(self._bar(job), state="retrying")

    def downloading(self, job: Job, received: int, total: int | None) -> None:
        """Show the download's own progress."""
        if job.task_id:
            self._progress.update(self._bar(job), total=total, completed=received, state="saving")

    def ended(self, job: Job, result: Result) -> None:
        """Remove the bar; keep a line only of what needs one."""
        if job in self._bars:
            self._progress.remove_task(self._bars.pop(job))
        with self.paused():
            super().ended(job, result)
            self._warn_of_file(result)
            if result.error is None and result.status is Status.PROCESSING:
                console.hint(wait_command(job.task_id, self._flags))

    def _open(self) -> None:
        if self._shown is None and self._bars:
            from flux_cli.ui.below import Below

            self._shown = Below(self._progress.console, self._progress, per_second=10)
            self._shown.start()

    def _bar(self, job: Job) -> "TaskID":
        if job not in self._bars:
            self._bars[job] = self._progress.add_task(console.clean(job.prompt), total=None, state="")
            self._open()
        return self._bars[job]


def _progress() -> "Progress":
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn  # 90 ms
    from rich.table import Column
    from rich.text import Text

    class Prompt(ProgressColumn):
        """The prompt as it is, whatever brackets it holds, cut to the room there is."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class State(ProgressColumn):
        """The percentage, or what goes on instead."""

        def render(self, task: Task) -> Text:
            known = task.total is not None and task.percentage is not None
            text = task.fields["state"] or (f"{task.percentage:.0f}%" if known else "…")
            return Text(text, justify="right", style="cyan")

    return Progress(
        Prompt(table_column=Column(ratio=3, no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=4)),
        State(table_column=Column(no_wrap=True, min_width=4)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        console=console.for_bars(),
        expand=True,
    )


@contextlib.contextmanager
def observer(*, quiet: bool, flags: str = "") -> Iterator[Silence]:
    """Yield the observer that fits: silence if asked for, bars on a terminal, else lines."""
    if quiet:
        yield Silence(flags)
    elif console.is_terminal(sys.stderr):
        bars = Bars(flags)
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield Lines(flags)
