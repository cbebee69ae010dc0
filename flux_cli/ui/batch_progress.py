"""What people see of a batch: a bar over the tasks nearest their end, a line a finished row, or only errors."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import TYPE_CHECKING

from flux_cli.api.task import Status
from flux_cli.batch.plan import Counts
from flux_cli.engine.job import Job, Result
from flux_cli.ui import console
from flux_cli.ui.pictures import PicturePrinter
from flux_cli.ui.progress import Display, Silence

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

TASKS_SHOWN = 4
TROUBLE_SECONDS = 5.0
"""How long a trouble that will be tried again stays in sight."""
RATE_ROWS = 100
"""The rate is that of the last so many rows."""


class BatchSilence(Silence):
    """Tells of errors only, each with the line of its row."""

    def __init__(self, tally: Counts, name: str, flags: str = "") -> None:
        """`name` is the file's; `flags` are what a later command needs to reach the same service."""
        super().__init__(flags)
        self._tally = tally
        self._name = name
        self._told: set[str] = set()

    def ended(self, job: Job, result: Result) -> None:
        """Tell what went wrong. The rows of unknown outcome are listed at the end."""
        if result.status is Status.UNSENT:
            self._once(console.error, result.error or "")
        elif result.error is not None and result.status is not Status.UNKNOWN:
            name = f"{job.task_id}: " if job.task_id else ""
            console.error(f"{self._where(job)}: {name}{result.error}")
            if result.hint:
                self._once(console.hint, result.hint)
        if result.resumable:
            self.lives_on(job)

    def _where(self, job: Job) -> str:
        return f"{self._name}:{job.line}" if job.line is not None else self._name

    def _once(self, tell: Callable[[str], None], message: str) -> None:
        """Tell what may hold for all the rows, but only once."""
        if message not in self._told:
            self._told.add(message)
            tell(message)


class BatchLines(BatchSilence):
    """A line when a row is finished, and one when the service makes a trouble that it has not made before."""

    def trouble(self, job: Job, message: str) -> None:  # noqa: ARG002 - an observer's signature
        """Tell of it once."""
        self._once(console.warning, f"{message}; trying again")

    def ended(self, job: Job, result: Result) -> None:
        """Tell how it ended."""
        super().ended(job, result)
        self._warn_of_file(result)
        if result.status is Status.FINISHED and result.error is None:
            took = f" in {result.elapsed:.1f} s" if result.elapsed is not None else ""
            count = f"{self._tally.over}/{self._tally.rows}"
            console.note(f"{count} finished {self._where(job)}{took}: {job.task_id}")


class BatchBars(Display, BatchSilence):
    """A bar for the batch, and a few tasks; what is worth keeping is printed above."""

    def __init__(self, tally: Counts, name: str, flags: str = "") -> None:
        super().__init__(tally, name, flags)
        self._console = console.for_bars()
        self._running: dict[Job, float] = {}
        self._began = time.monotonic()
        self._ends: deque[float] = deque(maxlen=RATE_ROWS)
        self._trouble = ("", 0.0)
        self._open()

    def submitted(self, job: Job) -> None:
        """Count the task among the running ones."""
        self._running[job] = 0.0

    def waiting(self, job: Job) -> None:
        """Take note of its percentage."""
        percentage = job.task.percentage if job.task else None
        self._running[job] = max(self._running.get(job, 0.0), percentage or 0.0)

    def downloading(self, job: Job, received: int, total: int | None) -> None:  # noqa: ARG002 - likewise
        """Show it as finished, which for the service it is."""
        self._running[job] = 100.0

    def trouble(self, job: Job, message: str) -> None:  # noqa: ARG002 - an observer's signature
        """Show it for a while."""
        self._trouble = (message, time.monotonic())

    def ended(self, job: Job, result: Result) -> None:
        """Count it; keep a line only of what needs one."""
        self._running.pop(job, None)
        if result.status is Status.FINISHED and result.error is None:
            self._ends.append(time.monotonic())
            if result.warning is not None:
                with self.paused():
                    self._warn_of_file(result)
        else:
            with self.paused():
                super().ended(job, result)

    def _open(self) -> None:
        from flux_cli.ui.below import Below

        self._shown = Below(self._console, self, per_second=8)
        self._shown.start()

    def __rich_console__(self, screen: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = options.max_width
        tally = self._tally
        table = Table.grid(expand=True, padding=(0, 1))
        table.width = width
        table.add_column(ratio=1)
        table.add_column(no_wrap=True)
        table.add_row(
            ProgressBar(total=max(1, tally.rows), completed=tally.over, complete_style="green"),
            Text(f"{tally.over}/{tally.rows}", style="green"),
        )
        yield table
        yield Text(self._counts(), no_wrap=True, overflow="ellipsis", style="dim")
        if time.monotonic() - self._trouble[1] < TROUBLE_SECONDS:
            yield Text(console.clean(self._trouble[0]), no_wrap=True, overflow="ellipsis", style="red")
        room = min(TASKS_SHOWN, options.size.height - 4)
        # A copy, since the loop's thread goes on changing the original.
        for job, percentage in nlargest(max(0, room), list(self._running.items()), key=lambda each: each[1]):
            yield _task_line(job, percentage, width)

    def _counts(self) -> str:
        tally = self._tally
        failed = tally.failed + len(tally.failed_before)
        unknown = len(tally.unknown) + len(tally.unknown_before)
        parts = [f"{tally.running} running"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{unknown} unknown"] if unknown else []
        rate = self._rate()
        if rate:
            parts.append(f"{rate:.1f} a second" if rate >= 1 else f"{rate * 60:.1f} a minute")
            parts.append(f"{_duration((tally.rows - tally.over) / rate)} left")
        return ", ".join(parts)

    def _rate(self) -> float:
        """Return the rows finished in a second, 0 as long as that cannot be told."""
        if len(self._ends) < 2:
            return 0.0
        full = len(self._ends) == RATE_ROWS  # the first ones end together, so until then it is from the start
        return (len(self._ends) - full) / max(0.001, time.monotonic() - (self._ends[0] if full else self._began))


def _task_line(job: Job, percentage: float, width: int) -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 1))
    table.width = width
    table.add_column(ratio=3, no_wrap=True)
    table.add_column(ratio=4)
    table.add_column(no_wrap=True, min_width=4)
    table.add_row(
        Text(console.clean(job.prompt), no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=100, completed=percentage),
        Text(f"{percentage:.0f}%" if percentage < 100 else "saving", justify="right", style="cyan"),
    )
    return table


def _duration(seconds: float) -> str:
    """Return a time as people read it: `0:42`, `12:03`, `3:04:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RowPrinter(PicturePrinter):
    """A printer whose JSON objects say which row they are about."""

    def _as_json(self, job: Job, result: Result) -> dict[str, object]:
        row = {"row": job.row, "line": job.line} if job.row is not None else {}
        return {**row, **super()._as_json(job, result)}


@contextlib.contextmanager
def batch_observer(tally: Counts, name: str, *, quiet: bool, flags: str = "") -> Iterator[BatchSilence]:
    """Yield the observer that fits: silence if asked for, bars on a terminal, else lines."""
    if quiet:
        yield BatchSilence(tally, name, flags)
    elif console.is_terminal(sys.stderr):
        bars = BatchBars(tally, name, flags)
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield BatchLines(tally, name, flags)
