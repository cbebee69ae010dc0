"""Handles the events of a run: progress and messages on stderr, results on stdout.

Each part handles the events it needs. No part depends on another, and an exception in one does not affect others.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from flux_cli.engine.events import Event, NotDeliveredError
from flux_cli.engine.job import Job
from flux_cli.errors import ExitCode, SignalReceived
from flux_cli.ui import console, saved
from flux_cli.ui.messages import Messages, ResumeHints
from flux_cli.ui.part import Part
from flux_cli.ui.printer import ResultPrinter
from flux_cli.ui.summary_bar import CountedLines, Counts, SummaryBar, TaskCounts
from flux_cli.ui.task_bars import MAX_BARS, TaskBars, TaskLines

if TYPE_CHECKING:
    from flux_cli.options import PictureOptions


class Reporter:
    """Passes each event to its parts.

    Those in `first` only collect events: they get each one before the others, whose output may be interrupted.
    They are closed last, to print what the user can do next. `printer` is one of the others.
    """

    def __init__(self, first: Sequence[Part], others: Sequence[Part], printer: ResultPrinter) -> None:
        self._first = first
        self._others = others
        self._printer = printer
        self._failed: set[Part] = set()

    def handle(self, event: Event) -> None:
        """Pass an event to each part.

        Raises:
            NotDeliveredError: The picture could not be written to stdout.
        """
        self._each([*self._first, *self._others], lambda part: part.handle(event))

    def close(self) -> None:
        """Remove the display, and print the remaining results and hints."""
        self._each([*self._others, *self._first], lambda part: part.close())

    def exit_code(self, code: ExitCode) -> ExitCode:
        """Return the command's exit code: `code` of its tasks or, if they succeeded, that of a failed stdout."""
        failure = self._printer.failure
        return failure if failure is not None and code == ExitCode.OK else code

    def _each(self, parts: Sequence[Part], action: Callable[[Part], None]) -> None:
        """Call `action` with every part, even if it raises for one of them."""
        to_raise: BaseException | None = None
        for part in parts:
            try:
                action(part)
            except (NotDeliveredError, KeyboardInterrupt, SignalReceived) as error:
                to_raise = error
            except Exception as error:
                self._warn_of(part, error)
        if to_raise is not None:
            raise to_raise

    def _warn_of(self, part: Part, error: Exception) -> None:
        if part not in self._failed:
            self._failed.add(part)
            console.warning_despite_quiet(f"unexpected {type(error).__name__} in {type(part).__name__}: {error}")


def display(jobs: Sequence[Job]) -> list[Part]:
    """Return the parts that show the progress: bars on a terminal, otherwise lines; none with `--quiet`."""
    if console.quiet:
        return []
    if not console.is_terminal(sys.stderr):
        return [TaskLines()]
    if len(jobs) <= MAX_BARS:
        return [TaskBars(jobs)]
    counts = TaskCounts(len(jobs))
    return [counts, SummaryBar(counts)]


@contextlib.contextmanager
def reporting(
    jobs: Sequence[Job],
    *,
    flags: str,
    service: str,
    json: bool = False,
    force: bool = False,
    actions: "PictureOptions | None" = None,
    prints: bool = True,
) -> Iterator[Reporter]:
    """Yield the reporter of a run over these jobs, and close it at the end.

    Args:
        jobs: In the order in which their results are to be printed.
        flags: What a later command needs to reach the same service, with a space before them, or empty.
        service: The name of the service, for sidecars.
        force: Whether a sidecar may replace a file.
        actions: What to do with saved pictures.
        prints: Whether results go to stdout; a picture for `-o -` always does.
    """
    preview = saved.previewer() if actions and actions.preview else None
    printer = ResultPrinter(jobs, json=json, preview=preview, only_content=not prints)
    parts: list[Part] = [*display(jobs), Messages()]
    if actions and actions.sidecar:
        parts.append(saved.Sidecars(service=service, force=force))
    parts.append(printer)
    first: list[Part] = [ResumeHints(jobs, flags, printer)]
    if actions and actions.viewer:
        first.append(saved.Viewer())
    with contextlib.closing(Reporter(first, parts, printer)) as reporter:
        yield reporter


@contextlib.contextmanager
def batch_reporting(
    counts: Counts, name: str, *, service: str, json: bool, force: bool, sidecar: bool
) -> Iterator[Reporter]:
    """Yield the reporter of a batch's run, and close it at the end.

    Results are printed in the order in which rows end: a batch can be large. `name` is the name of its file. The
    caller updates `counts` before each event.
    """

    def row(job: Job) -> str:
        return f"{name}:{job.line}"

    printer = ResultPrinter(None, json=json)
    parts: list[Part] = []
    if not console.quiet:
        parts.append(SummaryBar(counts) if console.is_terminal(sys.stderr) else CountedLines(counts, row))
    parts.append(Messages(lambda job: f"{row(job)}: "))
    if sidecar:
        parts.append(saved.Sidecars(service=service, force=force))
    parts.append(printer)
    with contextlib.closing(Reporter([], parts, printer)) as reporter:
        yield reporter
