"""The progress of a run: a bar for each of a few tasks, or one for all; without a terminal, lines."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from flux_cli.api.task import Status
from flux_cli.engine.events import Downloading, Ended, Event, Progress, Retrying, Submitted, Submitting
from flux_cli.engine.job import Job
from flux_cli.ui import console
from flux_cli.ui.live import LiveDisplay
from flux_cli.ui.part import Part

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flux_cli.batch.plan import RowCounts
    from flux_cli.engine.result import Result

_Item = TypeVar("_Item")

MAX_BARS = 8
"""With more tasks than this, one summary bar is shown instead."""
STATE_WIDTH, TIME_WIDTH, GAP = len("submitting"), len("0:00:00"), 1
MIN_NAME_WIDTH, MIN_BAR_WIDTH = 8, 6
TASKS_SHOWN = 4
"""How many of the running tasks are shown below a summary bar."""
RETRY_SECONDS = 5.0
"""How long the reason for a retry is shown."""
RATE_TASKS = 100
"""The rate is measured over this many tasks."""


class TaskLines(Part):
    """Prints a line when a task is submitted, and one when it is finished."""

    def handle(self, event: Event) -> None:
        """Print the line, if the event has one."""
        if isinstance(event, Submitted):
            console.note(f"submitted {event.job.task_id}: {console.shortened(event.job.prompt, 60)}")
        elif isinstance(event, Ended) and _is_finished(event.result):
            console.note(f"finished {event.job.task_id}{_took(event.result)}")


class CountedLines(Part):
    """Prints a line when a task is finished, with the number of ended tasks. `name` returns the name of a job."""

    def __init__(self, counts: "RowCounts", name: Callable[[Job], str]) -> None:
        self._counts = counts
        self._name = name

    def handle(self, event: Event) -> None:
        """Print the line, if the event has one."""
        if isinstance(event, Ended) and _is_finished(event.result):
            count = f"{self._counts.ended}/{self._counts.total}"
            name = self._name(event.job)
            console.note(f"{count} finished {name}{_took(event.result)}: {event.job.task_id}")


@dataclass
class _Bar:
    """The state of one task's bar; `total` is None if the progress is not known."""

    label: str
    name: str
    state: str = "waiting"
    completed: float = 0.0
    total: float | None = None
    started: float = field(default_factory=time.monotonic)

    def line(self, columns: int) -> "RenderableType":
        """Return the bar with name, state and time.

        The widths depend only on the label and the terminal. A narrow terminal omits the time first, then the bar.
        """
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        rest = columns - STATE_WIDTH - GAP - (len(self.label) + GAP if self.label else 0)
        with_time = rest >= TIME_WIDTH + MIN_NAME_WIDTH + MIN_BAR_WIDTH + 2 * GAP
        rest -= (TIME_WIDTH + GAP) * with_time
        with_bar = rest >= MIN_NAME_WIDTH + MIN_BAR_WIDTH + GAP
        name_width = (rest - GAP) * 3 // 7 if with_bar else max(1, rest)
        cells: list[tuple[RenderableType, int]] = [(Text(self.label), len(self.label))] if self.label else []
        cells.append((Text(self.name, no_wrap=True, overflow="ellipsis"), name_width))
        if with_bar:
            cells.append((ProgressBar(total=self.total, completed=self.completed), rest - GAP - name_width))
        cells.append((Text(self.state, justify="right", style="cyan"), STATE_WIDTH))
        if with_time:
            cells.append((Text(clock(time.monotonic() - self.started), justify="right"), TIME_WIDTH))
        return _row(cells)


class TaskBars(Part):
    """Shows a progress bar for each task until the task ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        count = len(jobs)
        self._bars = {
            job: _Bar(f"{number}/{count}" if count > 1 else "", console.clean(job.prompt))
            for number, job in enumerate(jobs, 1)
        }
        self._live = LiveDisplay(self._render)

    def handle(self, event: Event) -> None:
        """Update the task's bar."""
        bar = self._bars.get(event.job)
        if bar is None:
            return
        if isinstance(event, Submitting):
            bar.state = "submitting"
        elif isinstance(event, Submitted):
            bar.state = "running"
        elif isinstance(event, Progress):
            percentage = event.job.task.percentage if event.job.task else None
            bar.state = "running"
            if percentage is not None:
                # A percentage may decrease between two responses; a bar never does.
                bar.total, bar.completed = 100.0, max(bar.completed, percentage)
                bar.state = f"{bar.completed:.0f}%"
        elif isinstance(event, Retrying):
            bar.state = "retrying"
        elif isinstance(event, Downloading):
            bar.state, bar.total, bar.completed = "saving", event.total, event.received
        elif isinstance(event, Ended):
            del self._bars[event.job]

    def close(self) -> None:
        """Remove the bars."""
        self._live.stop()

    def _render(self, columns: int, lines: int) -> "RenderableType":
        from rich.console import Group

        bars = list(self._bars.values())  # a copy: the run's thread changes the original
        return Group(*(bar.line(columns) for bar in bars[: max(1, lines - 1)]))


class TaskCounts(Part):
    """Counts the tasks of one run, as `RowCounts` does those of a batch."""

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


class SummaryBar(Part):
    """Shows a bar for all tasks together, the counts, and the oldest running tasks."""

    def __init__(self, counts: "TaskCounts | RowCounts") -> None:
        self._counts = counts
        self._running: dict[Job, float] = {}
        self._start = time.monotonic()
        self._ends: deque[float] = deque(maxlen=RATE_TASKS)
        self._retry = ("", float("-inf"))
        self._live = LiveDisplay(self._render)

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
            if _is_finished(event.result):
                self._ends.append(time.monotonic())

    def close(self) -> None:
        """Remove the bar."""
        self._live.stop()

    def _render(self, columns: int, lines: int) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        shown = [self._bar(columns), Text(self._summary(), no_wrap=True, overflow="ellipsis")]
        message, at = self._retry
        if time.monotonic() - at < RETRY_SECONDS:
            reason = f"retrying: {console.clean(message)}"
            shown.append(Text(reason, no_wrap=True, overflow="ellipsis", style="red"))
        room = min(TASKS_SHOWN, lines - 1 - len(shown))
        # A copy, since the run's thread changes the original. The oldest: an order by progress would change often.
        for job, percentage in list(self._running.items())[: max(0, room)]:
            state = f"{percentage:.0f}%" if percentage < 100 else "saving"
            bar = _Bar(self._label(job), console.clean(job.prompt), state, percentage, 100.0, job.began)
            shown.append(bar.line(columns))
        return Group(*shown)

    def _label(self, job: Job) -> str:
        """Return the number of a job, since all may have the same prompt; empty for a row of a batch."""
        total = str(self._counts.total)
        return "" if job.line is not None else f"{job.n:>{len(total)}}/{total}"

    def _bar(self, columns: int) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        counts = self._counts
        width = 2 * len(str(counts.total)) + 1
        bar = ProgressBar(total=max(1, counts.total), completed=counts.ended, complete_style="green")
        text = Text(f"{counts.ended}/{counts.total}", style="green", justify="right")
        return _row([(bar, max(1, columns - width - GAP)), (text, width)])

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


def _row(cells: "Sequence[tuple[RenderableType, int]]") -> "RenderableType":
    from rich.table import Table

    table = Table.grid(padding=(0, GAP, 0, 0))
    for _, width in cells:
        table.add_column(width=width, no_wrap=True)
    table.add_row(*(cell for cell, _ in cells))
    return table


def _is_finished(result: "Result") -> bool:
    """Return whether a task is finished and nothing failed afterwards."""
    return result.status is Status.FINISHED and result.error is None


def _took(result: "Result") -> str:
    """Return ` in 3.2 s`, or nothing if the time is not known."""
    return "" if result.elapsed is None else f" in {result.elapsed:.1f} s"


def clock(seconds: float) -> str:
    """Return a time as `0:42`, `12:03` or `3:04:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def tracked(items: Iterable[_Item], name: str, total: int) -> Iterator[_Item]:
    """Yield the items, and show a bar for their number."""
    bar = _Bar("", name, total=float(total))

    def render(columns: int, _lines: int) -> "RenderableType":
        bar.state = f"{bar.completed:.0f}/{total}"
        return bar.line(columns)

    live = LiveDisplay(render)
    try:
        for item in items:
            yield item
            bar.completed += 1
    finally:
        live.stop()
