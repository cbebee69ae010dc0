"""The progress of a few tasks: one progress bar per task on a terminal, otherwise one line per step."""

import time
from collections.abc import Iterable, Iterator, Sequence
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

    from flux_cli.engine.result import Result

_Item = TypeVar("_Item")

MAX_BARS = 8
"""With more tasks than this, one summary bar is shown instead."""
STATE_WIDTH, TIME_WIDTH, GAP = len("submitting"), len("0:00:00"), 1
MIN_NAME_WIDTH, MIN_BAR_WIDTH = 8, 6


class TaskLines(Part):
    """Prints a line when a task is submitted, and one when it is finished."""

    def handle(self, event: Event) -> None:
        """Print the line, if the event has one."""
        if isinstance(event, Submitted):
            console.note(f"submitted {event.job.task_id}: {console.shortened(event.job.prompt, 60)}")
        elif isinstance(event, Ended) and is_finished(event.result):
            console.note(f"finished {event.job.task_id}{took(event.result.elapsed)}")


@dataclass
class _Bar:
    """The state of one task's bar; `total` is None if the progress is not known."""

    label: str
    name: str
    state: str = "waiting"
    completed: float = 0.0
    total: float | None = None
    started: float = field(default_factory=time.monotonic)


class TaskBars(Part):
    """Shows a progress bar for each task until the task ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        count = len(jobs)
        self._bars = {
            job: _Bar(f"{number}/{count}" if count > 1 else "", console.clean(job.prompt))
            for number, job in enumerate(jobs, 1)
        }
        self._live = LiveDisplay(self._render)
        self._live.start()

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
        return Group(*(_line(bar, columns) for bar in bars[: max(1, lines - 1)]))


def _line(bar: _Bar, columns: int) -> "RenderableType":
    seconds = int(time.monotonic() - bar.started)
    return progress_line(bar.label, bar.name, bar.completed, bar.total, bar.state, columns, clock(seconds))


def progress_line(
    label: str, name: str, completed: float, total: float | None, state: str, columns: int, elapsed: str
) -> "RenderableType":
    """Return one line: label, name, bar, state and time. The widths depend only on the label and the terminal.

    A narrow terminal omits the time first, then the bar.
    """
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    rest = columns - STATE_WIDTH - GAP - (len(label) + GAP if label else 0)
    with_time = rest >= TIME_WIDTH + MIN_NAME_WIDTH + MIN_BAR_WIDTH + 2 * GAP
    rest -= (TIME_WIDTH + GAP) * with_time
    with_bar = rest >= MIN_NAME_WIDTH + MIN_BAR_WIDTH + GAP
    name_width = (rest - GAP) * 3 // 7 if with_bar else max(1, rest)
    cells: list[tuple[RenderableType, int]] = [(Text(label), len(label))] if label else []
    cells.append((Text(name, no_wrap=True, overflow="ellipsis"), name_width))
    if with_bar:
        cells.append((ProgressBar(total=total, completed=completed), rest - GAP - name_width))
    cells.append((Text(state, justify="right", style="cyan"), STATE_WIDTH))
    if with_time:
        cells.append((Text(elapsed, justify="right"), TIME_WIDTH))
    table = Table.grid(padding=(0, GAP, 0, 0))
    for _, width in cells:
        table.add_column(width=width, no_wrap=True)
    table.add_row(*(cell for cell, _ in cells))
    return table


def is_finished(result: "Result") -> bool:
    """Return whether a task is finished and nothing failed afterwards."""
    return result.status is Status.FINISHED and result.error is None


def took(seconds: float | None) -> str:
    """Return ` in 3.2 s`, or nothing if the time is not known."""
    return "" if seconds is None else f" in {seconds:.1f} s"


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
        return _line(bar, columns)

    live = LiveDisplay(render)
    live.start()
    try:
        for item in items:
            yield item
            bar.completed += 1
    finally:
        live.stop()
