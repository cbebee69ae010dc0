"""The progress of many tasks: one bar, the counts, and the oldest running tasks."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from flux_cli.api.task import Status
from flux_cli.engine.events import Downloading, Ended, Event, Progress, Retrying, Submitted
from flux_cli.engine.job import Job
from flux_cli.ui import console
from flux_cli.ui.live import LiveDisplay
from flux_cli.ui.part import Part
from flux_cli.ui.task_bars import clock, is_finished, progress_line, took

if TYPE_CHECKING:
    from rich.console import RenderableType

TASKS_SHOWN = 4
RETRY_SECONDS = 5.0
"""How long the reason for a retry is shown."""
RATE_TASKS = 100
"""The rate is measured over this many tasks."""


class Counts(Protocol):
    """The numbers of tasks by state."""

    @property
    def total(self) -> int:
        """All tasks, including those that ended before this run."""

    @property
    def running(self) -> int:
        """Tasks that the service has accepted and that have not ended."""

    @property
    def ended(self) -> int:
        """Tasks that need nothing more."""

    @property
    def failed(self) -> int:
        """Tasks that failed."""

    @property
    def unknown(self) -> int:
        """Submissions whose outcome is unknown."""


class TaskCounts(Part):
    """Counts the tasks of one run."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended = self.failed = self.unknown = 0
        self._running: set[Job] = set()

    @property
    def running(self) -> int:
        """Tasks that the service has accepted and that have not ended."""
        return len(self._running)

    def handle(self, event: Event) -> None:
        """Update the counts."""
        if isinstance(event, Submitted | Progress):
            self._running.add(event.job)
        elif isinstance(event, Ended):
            self._running.discard(event.job)
            self.ended += 1
            self.failed += event.result.status is Status.FAILED
            self.unknown += event.result.status is Status.UNKNOWN


class CountedLines(Part):
    """Prints a line when a task is finished, with the number of ended tasks. `name` returns the name of a job."""

    def __init__(self, counts: Counts, name: Callable[[Job], str]) -> None:
        self._counts = counts
        self._name = name

    def handle(self, event: Event) -> None:
        """Print the line, if the event has one."""
        if isinstance(event, Ended) and is_finished(event.result):
            count = f"{self._counts.ended}/{self._counts.total}"
            elapsed = took(event.result.elapsed)
            console.note(f"{count} finished {self._name(event.job)}{elapsed}: {event.job.task_id}")


class SummaryBar(Part):
    """Shows a bar for all tasks together, and a few of them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._running: dict[Job, float] = {}
        self._start = time.monotonic()
        self._ends: deque[float] = deque(maxlen=RATE_TASKS)
        self._retry = ("", float("-inf"))
        self._live = LiveDisplay(self._render)
        self._live.start()

    def handle(self, event: Event) -> None:
        """Update the bar."""
        job = event.job
        if isinstance(event, Submitted):
            self._running[job] = 0.0
        elif isinstance(event, Progress):
            percentage = job.task.percentage if job.task else None
            self._running[job] = max(self._running.get(job, 0.0), percentage or 0.0)
        elif isinstance(event, Downloading):
            self._running[job] = 100.0
        elif isinstance(event, Retrying):
            self._retry = (event.message, time.monotonic())
        elif isinstance(event, Ended):
            self._running.pop(job, None)
            if is_finished(event.result):
                self._ends.append(time.monotonic())

    def close(self) -> None:
        """Remove the bar."""
        self._live.stop()

    def _render(self, columns: int, lines: int) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        shown: list[RenderableType] = [self._bar(columns)]
        shown.append(Text(self._summary(), no_wrap=True, overflow="ellipsis"))
        message, at = self._retry
        if time.monotonic() - at < RETRY_SECONDS:
            shown.append(
                Text(f"retrying: {console.clean(message)}", no_wrap=True, overflow="ellipsis", style="red")
            )
        room = min(TASKS_SHOWN, lines - 1 - len(shown))
        # A copy, since the run's thread changes the original. The oldest: an order by progress would change often.
        for job, percentage in list(self._running.items())[: max(0, room)]:
            state = f"{percentage:.0f}%" if percentage < 100 else "saving"
            age = clock(time.monotonic() - job.began)
            name = console.clean(job.prompt)
            shown.append(progress_line(self._label(job), name, percentage, 100.0, state, columns, age))
        return Group(*shown)

    def _label(self, job: Job) -> str:
        """Return the number of a job, since all may have the same prompt; empty for a row of a batch."""
        total = str(self._counts.total)
        return "" if job.line is not None else f"{job.n:>{len(total)}}/{total}"

    def _bar(self, columns: int) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        counts = self._counts
        digits = len(str(counts.total))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=max(1, columns - 2 * digits - 2))
        table.add_column(width=2 * digits + 1, no_wrap=True)
        bar = ProgressBar(total=max(1, counts.total), completed=counts.ended, complete_style="green")
        table.add_row(bar, Text(f"{counts.ended}/{counts.total}", style="green", justify="right"))
        return table

    def _summary(self) -> str:
        counts = self._counts
        parts = [f"{counts.running} running" if counts.running else "submitting"]
        parts += [f"{counts.failed} failed"] if counts.failed else []
        parts += [f"{counts.unknown} unknown"] if counts.unknown else []
        parts.append(f"{clock(time.monotonic() - self._start)} elapsed")
        if rate := self._rate():
            parts.append(f"{rate:.1f} per second" if rate >= 1 else f"{rate * 60:.1f} per minute")
            parts.append(f"{clock((counts.total - counts.ended) / rate)} left")
        return ", ".join(parts)

    def _rate(self) -> float:
        """Return the tasks finished per second, or 0 if too few are finished."""
        if len(self._ends) < 2:
            return 0.0
        full = len(self._ends) == RATE_TASKS  # the first ones end together, so until then count from the start
        return (len(self._ends) - full) / max(0.001, time.monotonic() - (self._ends[0] if full else self._start))
