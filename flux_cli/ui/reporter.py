"""Handles the events of a run: progress and messages on stderr, results on stdout.

Each part handles the events it needs. No part depends on another, and an exception in one does not affect others.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING

from flux_cli.engine.events import Event, NotDeliveredError
from flux_cli.engine.job import Job
from flux_cli.errors import ExitCode, SignalReceived
from flux_cli.ui import console, saved
from flux_cli.ui.messages import Messages, ResumeHints
from flux_cli.ui.part import Part
from flux_cli.ui.printer import ResultPrinter
from flux_cli.ui.progress import MAX_BARS, CountedLines, SummaryBar, TaskBars, TaskCounts, TaskLines

if TYPE_CHECKING:
    from flux_cli.batch.plan import RowCounts
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
        """Pass an event to each part. Raises NotDeliveredError if the picture for stdout could not be written."""
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
                if part not in self._failed:
                    self._failed.add(part)
                    where = f"{type(error).__name__} in {type(part).__name__}"
                    console.warning_despite_quiet(f"unexpected {where}: {error}")
        if to_raise is not None:
            raise to_raise


def progress_parts(jobs: Sequence[Job]) -> list[Part]:
    """Return the parts that show the progress: bars on a terminal, otherwise lines; none with `--quiet`."""
    if console.quiet:
        return []
    if not console.is_terminal(sys.stderr):
        return [TaskLines()]
    if len(jobs) <= MAX_BARS:
        return [TaskBars(jobs)]
    counts = TaskCounts(len(jobs))
    return [counts, SummaryBar(counts)]


def reporting(
    jobs: Sequence[Job],
    *,
    flags: str,
    service: str,
    json: bool = False,
    force: bool = False,
    actions: "PictureOptions | None" = None,
    prints: bool = True,
) -> AbstractContextManager[Reporter]:
    """Return the reporter of a run, which is closed at the end of the block.

    `jobs` are in the order in which their results are printed; `flags` are what a later command needs to reach the
    same service, with a space before them, or empty. Without `prints`, only a picture for `-o -` goes to stdout.
    """
    preview = saved.previewer() if actions and actions.preview else None
    printer = ResultPrinter(jobs, json=json, preview=preview, only_content=not prints)
    sidecars = [saved.Sidecars(service=service, force=force)] if actions and actions.sidecar else []
    viewers = [saved.Viewer()] if actions and actions.viewer else []
    first = [ResumeHints(jobs, flags, printer), *viewers]
    return closing(Reporter(first, [*progress_parts(jobs), Messages(), *sidecars, printer], printer))


def batch_reporting(
    counts: "RowCounts", name: str, *, service: str, json: bool, force: bool, sidecar: bool
) -> AbstractContextManager[Reporter]:
    """Return the reporter of a batch's run, which is closed at the end of the block.

    Results are printed in the order in which rows end: a batch can be large. `name` is the name of its file. The
    caller updates `counts` before each event.
    """

    def row(job: Job) -> str:
        return f"{name}:{job.line}"

    progress: list[Part] = []
    if not console.quiet:
        progress = [SummaryBar(counts) if console.is_terminal(sys.stderr) else CountedLines(counts, row)]
    printer = ResultPrinter(None, json=json)
    sidecars = [saved.Sidecars(service=service, force=force)] if sidecar else []
    messages = Messages(lambda job: f"{row(job)}: ")
    return closing(Reporter([], [*progress, messages, *sidecars, printer], printer))
