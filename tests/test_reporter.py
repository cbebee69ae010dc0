"""The handler of a run's events: what reaches stdout and stderr, and that no failure in it stops a run."""

import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from flux_cli.api.task import Status, Task
from flux_cli.batch.plan import RowCounts
from flux_cli.engine.events import (
    Downloading,
    Ended,
    Event,
    NotDeliveredError,
    Progress,
    Retrying,
    Submitted,
    Submitting,
    Unrecorded,
)
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode
from flux_cli.options import PictureOptions
from flux_cli.ui import console, preview
from flux_cli.ui.live import LiveDisplay
from flux_cli.ui.progress import SummaryBar, TaskBars, TaskLines, clock, tracked
from flux_cli.ui.reporter import batch_reporting, progress_parts, reporting
from tests.conftest import wait_until
from tests.screen import Emulator


def jobs(count: int) -> list[Job]:
    """Return submitted jobs that the history knows."""
    return [
        Job(None, recorded={"prompt": f"kite {n}"}, task_id=f"{n}a5b8f64-1b78", number=n, n=n)
        for n in range(1, count + 1)
    ]


def finished(job: Job) -> Result:
    return Result(
        Status.FINISHED, path=Path(f"{job.n}.png"), task_id=job.task_id, request=job.recorded, elapsed=3.21
    )


def failed(job: Job) -> Result:
    return Result(Status.FAILED, ExitCode.TASK_FAILED, task_id=job.task_id, error="prompt was moderated")


def timed_out(job: Job) -> Result:
    return Result(
        Status.PROCESSING, ExitCode.GAVE_UP_WAITING, task_id=job.task_id, error="timed out", resumable=True
    )


Report = Callable[..., tuple[list[str], list[str], ExitCode]]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    """Handle events and close the reporter; return the lines on stdout and stderr, and the exit code."""

    def run(
        some: Sequence[Job], *events: Event, quiet: bool = False, **actions: bool
    ) -> tuple[list[str], list[str], ExitCode]:
        options = PictureOptions(**actions)
        with (
            mock.patch.object(console, "quiet", quiet),
            reporting(some, flags="", service="sandbox", actions=options) as reporter,
        ):
            for event in events:
                reporter.handle(event)
        out, err = capfd.readouterr()
        return out.splitlines(), err.splitlines(), reporter.exit_code(ExitCode.OK)

    return run


def raising(error: BaseException) -> mock.Mock:
    return mock.Mock(side_effect=error)


def test_paths_are_printed_in_the_order_of_submission(capfd: pytest.CaptureFixture[str]) -> None:
    first, second, _, fourth = some = jobs(4)
    with reporting(some, flags="", service="sandbox") as reporter:
        for job, printed in ((second, ""), (first, "1.png\n2.png\n"), (fourth, "")):
            reporter.handle(Ended(job, finished(job)))
            assert capfd.readouterr().out == printed
    assert capfd.readouterr().out == "4.png\n"


def test_lines_of_a_task_without_a_terminal(report: Report) -> None:
    one, two = some = jobs(2)
    events = (
        Submitting(one),
        Submitted(one),
        Submitted(two),
        Progress(one),
        Retrying(one, "HTTP 503"),
        Retrying(two, "HTTP 503"),
        Downloading(one, 5, 10),
        Ended(one, finished(one)),
        Ended(two, finished(two)),
    )
    _, err, _ = report(some, *events)
    assert err == [
        "submitted 1a5b8f64-1b78: kite 1",
        "submitted 2a5b8f64-1b78: kite 2",
        "warning: HTTP 503; retrying",
        "finished 1a5b8f64-1b78 in 3.2 s",
        "finished 2a5b8f64-1b78 in 3.2 s",
    ]


def test_quiet_prints_errors_and_how_to_resume_only(report: Report) -> None:
    """No progress, no warnings, and no hint about tasks of `--no-wait`."""
    one, two, three, four = some = jobs(4)
    events = (
        Submitted(one),
        Retrying(one, "HTTP 503"),
        Ended(one, failed(one)),
        Ended(two, timed_out(two)),
        Ended(three, Result(Status.PROCESSING, task_id=three.task_id)),
        Ended(four, replace(finished(four), warning="4.png contains a JPEG")),
    )
    _, err, _ = report(some, *events, quiet=True)
    assert err == [
        "error: task 1a5b8f64 failed: prompt was moderated",
        "error: task 2a5b8f64: timed out",
        "hint: already charged; resume with: flux-cli wait 2a5b8f64-1b78",
    ]
    _, err, _ = report(some, *events[-1:])
    assert "warning: 4.png contains a JPEG" in err


def test_one_hint_resumes_many_tasks(report: Report) -> None:
    """`wait --all` gets what the history knows; tasks that it does not know are named."""
    some = jobs(5)
    some[3] = replace(some[3], number=None)
    lost = Unrecorded(some[4], "cannot write the history")
    _, err, _ = report(some, lost, *(Ended(job, timed_out(job)) for job in some))
    assert [line for line in err if line.startswith("hint:")] == [
        "hint: already charged; resume with: flux-cli wait --all",
        "hint: already charged; resume with: flux-cli wait -- 4a5b8f64-1b78 5a5b8f64-1b78",
    ]
    assert err[0] == "warning: cannot write the history; task 5a5b8f64-1b78 is missing there"


def test_an_error_that_holds_for_all_is_printed_once(report: Report) -> None:
    """Without a task ID the messages are the same."""
    some = [Job(None) for _ in range(4)]
    result = Result(Status.UNSENT, ExitCode.NOT_ALLOWED, error="not sent: no credits left", hint="buy some")
    _, err, _ = report(some, *(Ended(job, result) for job in some))
    assert err == ["error: not sent: no credits left", "hint: buy some"]


def test_messages_of_a_batch_name_the_row(capfd: pytest.CaptureFixture[str]) -> None:
    """Except for what holds for all rows; results are printed as they come, with their rows."""
    rows = jobs(4)
    for line, job in enumerate(rows, 2):
        job.row, job.line = f"row-{line}", line
    one, two, three, four = rows
    three.task_id = four.task_id = None
    rejected = Result(Status.FAILED, ExitCode.USAGE, error="the service rejected the request: width")
    unsent = Result(Status.UNSENT, ExitCode.SERVICE_DOWN, error="not sent: DNS lookup failed")
    counts = RowCounts(total=400, done=12)
    with batch_reporting(counts, "rows.csv", service="x", json=True, force=False, sidecar=False) as reporter:
        for job, result in ((two, finished(two)), (one, failed(one)), (three, rejected), (four, unsent)):
            reporter.handle(Ended(job, result))
    out, err = capfd.readouterr()
    assert [json.loads(line)["line"] for line in out.splitlines()] == [3, 2, 4, 5]
    assert err.splitlines() == [
        "12/400 finished rows.csv:3 in 3.2 s: 2a5b8f64-1b78",
        "error: rows.csv:2: task 1a5b8f64 failed: prompt was moderated",
        "error: rows.csv:4: the service rejected the request: width",
        "error: not sent: DNS lookup failed",
    ]


def test_stdout_rejects_the_picture(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run gets the error before it records the end, and the hint says how to get the picture."""
    (job,) = some = jobs(1)
    result = replace(finished(job), path=None, content=b"\x89PNG")
    monkeypatch.setattr(console, "quiet", True)
    with (
        open("/dev/full", "w") as full,
        mock.patch.object(sys, "stdout", full),
        reporting(some, flags="", service="sandbox") as reporter,
        pytest.raises(NotDeliveredError) as raised,
    ):
        reporter.handle(Ended(job, result))
    assert raised.value.exit_code is reporter.exit_code(ExitCode.OK) is ExitCode.LOCAL_FILE
    assert capfd.readouterr().err.splitlines() == [
        "error: cannot write to stdout: no space left on device",
        "hint: already charged; resume with: flux-cli wait 1a5b8f64-1b78",
    ]


def test_an_id_that_stdout_does_not_take_is_on_stderr(report: Report) -> None:
    (job,) = some = jobs(1)
    with open("/dev/full", "w") as full, mock.patch.object(sys, "stdout", full):
        _, err, _ = report(some, Ended(job, Result(Status.PROCESSING, task_id=job.task_id)), quiet=True)
    assert "flux-cli wait 1a5b8f64-1b78" in err[-1]


def test_a_part_that_fails_stops_nothing(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the display is one warning; the results are printed."""
    monkeypatch.setattr(TaskLines, "handle", raising(ZeroDivisionError("division by zero")))
    one, two = some = jobs(2)
    assert report(some, Ended(one, finished(one)), Ended(two, finished(two))) == (
        ["1.png", "2.png"],
        ["warning: unexpected ZeroDivisionError in TaskLines: division by zero"],
        ExitCode.OK,
    )


def test_a_signal_in_one_part_reaches_the_others_first(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C while an error is printed loses no hint."""
    for method in ("handle", "close"):
        monkeypatch.setattr(TaskLines, method, raising(KeyboardInterrupt()))
    (job,) = some = jobs(1)
    with (
        pytest.raises(KeyboardInterrupt),
        reporting(some, flags="", service="sandbox") as reporter,
        pytest.raises(KeyboardInterrupt),
    ):
        reporter.handle(Ended(job, timed_out(job)))
    assert "resume with: flux-cli wait 1a5b8f64-1b78" in capfd.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_a_sidecar_that_cannot_be_written_is_a_warning(
    report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: bool
) -> None:
    """Every path is printed; the exit code is that of the tasks."""
    some = jobs(2)
    missing = replace(finished(some[0]), path=tmp_path / "gone" / "x.png")
    out, err, code = report(some, Ended(some[0], missing), quiet=quiet, sidecar=True)
    assert (out, code) == ([str(missing.path)], ExitCode.OK)
    assert ("warning: no sidecar: cannot read" in "\n".join(err)) is not quiet
    monkeypatch.setattr("flux_cli.pictures.sidecar.write", raising(OSError(28, "No space left on device")))
    out, err, code = report(some, *(Ended(job, finished(job)) for job in some), quiet=quiet, sidecar=True)
    assert (out, code) == (["1.png", "2.png"], ExitCode.OK)
    assert err.count("warning: no sidecar: no space left on device") == (0 if quiet else 2)
    assert "error:" not in "".join(err)


def test_a_preview_that_fails_is_a_warning(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """textual-image divides by zero if the terminal has no size."""
    monkeypatch.setattr(preview, "show", raising(ZeroDivisionError("integer division or modulo by zero")))
    monkeypatch.setattr("flux_cli.ui.saved.console.is_terminal", lambda stream: stream is sys.stdout)
    (job,) = some = jobs(1)
    out, err, _ = report(some, Ended(job, finished(job)), preview=True)
    assert out == ["1.png"]
    assert "warning: no preview: ZeroDivisionError" in "\n".join(err)


class Terminal(Emulator):
    """A terminal that is this process's stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> None:
        super().__init__(columns)
        self._stream_to_slave = open(self.slave, "w", encoding="utf-8")  # noqa: SIM115 - it stays open
        monkeypatch.setattr(sys, "stderr", self._stream_to_slave)

    def shown(self) -> list[str]:
        while self.read():
            pass
        return self.text


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_bars_show_each_task_from_the_first_moment(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Before it is submitted, while it runs, is retried and saved; the columns keep their places."""
    terminal = Terminal(monkeypatch, columns)
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.setenv("COLUMNS", "200")
    one, _ = some = jobs(2)
    bars = TaskBars(some)
    try:
        draw = bars._live.redraw
        bars.handle(Submitting(one))
        draw()
        first, second = terminal.shown()
        assert first.startswith("1/2 kit")
        assert second.startswith("2/2 kit")
        assert "submitting" in first
        assert "waiting" in second
        one.task = Task("x", Status.PROCESSING, {}, percentage=40.0)
        ends = {first.index("submitting") + len("submitting")}
        for event, state in (
            (Submitted(one), "running"),
            (Progress(one), "40%"),
            (Retrying(one, "HTTP 503"), "retrying"),
            (Downloading(one, 50, 100), "saving"),
        ):
            bars.handle(event)
            draw()
            line = terminal.shown()[0]
            assert state in line
            ends.add(line.index(state) + len(state))
        assert len(ends) == 1
        assert terminal.cursor_hidden
    finally:
        bars.close()
    assert terminal.shown() == []
    assert not terminal.cursor_hidden


def test_a_display_without_a_thread_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may allow no more threads; the run continues."""
    terminal = Terminal(monkeypatch)
    monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    bars = TaskBars(jobs(2))
    bars.close()
    assert terminal.shown() == ["warning: cannot show the progress: RuntimeError: can't start new thread"]


def test_a_display_that_cannot_be_drawn_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    live = LiveDisplay(lambda *_: "drawn")
    live.redraw()
    assert terminal.shown() == ["drawn"]
    live._render = raising(ZeroDivisionError("division by zero"))
    live.redraw()
    live.stop()
    assert terminal.shown() == ["warning: cannot show the progress: ZeroDivisionError: division by zero"]
    assert not terminal.cursor_hidden


def test_what_a_signal_interrupted_is_erased_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a drawing may be in the buffer of stderr: it must not follow, nor hide the cursor again."""
    terminal = Terminal(monkeypatch)
    live = LiveDisplay(lambda *_: "drawn")
    live.redraw()
    sys.stderr.buffer.write(b"\x1b[?25lhalf")
    console.note("a note")
    assert terminal.shown() == ["a note", "drawn"]
    sys.stderr.buffer.write(b"\x1b[?25lhalf")
    live.stop()
    sys.stderr.flush()
    assert terminal.shown() == ["a note"]
    assert not terminal.cursor_hidden


def test_more_than_eight_tasks_share_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts, the reason of a retry for some time, and the oldest tasks in a constant order."""
    terminal = Terminal(monkeypatch)
    some = jobs(12)
    _, bar = parts = progress_parts(some)
    assert isinstance(bar, SummaryBar)

    def handle(*events: Event) -> None:
        for event in events:
            for part in parts:
                part.handle(event)
        bar._live.redraw()

    handle(*map(Submitting, some))
    assert terminal.shown()[0].endswith(" 0/12")
    assert terminal.shown()[1].startswith("submitting, 0:00 elapsed")
    handle(*map(Submitted, some))
    for job, percentage in zip(some, (10.0, 90.0, 30.0, None, 50.0), strict=False):
        job.task = Task(job.task_id or "", Status.PROCESSING, {}, percentage=percentage)
        handle(Progress(job))
    handle(Ended(some[0], failed(some[0])), Downloading(some[2], 5, 10), Retrying(some[4], "HTTP 503"))
    first, second, third, *rows = terminal.shown()
    assert first.endswith(" 1/12")
    assert second.startswith("11 running, 1 failed, 0:00 elapsed")
    assert third == "retrying: HTTP 503"
    assert [row[:12] for row in rows] == [" 2/12 kite 2", " 3/12 kite 3", " 4/12 kite 4", " 5/12 kite 5"]
    assert [row.split()[-2] for row in rows] == ["90%", "saving", "0%", "50%"]
    bar._start -= 1000
    for job in some[1:3]:
        handle(Ended(job, finished(job)))
    assert terminal.shown()[0].endswith(" 3/12")
    summary = r"9 running, 1 failed, 16:4\d elapsed, 0\.1 per minute, 1:15:\d\d left"
    assert re.fullmatch(summary, terminal.shown()[1])
    for part in parts:
        part.close()
    assert terminal.shown() == []


def test_clock() -> None:
    for seconds, text in ((0.9, "0:00"), (59.9, "0:59"), (60, "1:00"), (3599, "59:59"), (11045, "3:04:05")):
        assert clock(seconds) == text


def test_a_bar_for_items(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    items = tracked("abc", "Thumbnails", 3)
    assert next(items) + next(items) == "ab"
    wait_until(lambda: any(line.startswith("Thumbnails") and "1/3" in line for line in terminal.shown()))
    with pytest.raises(ValueError, match="broken"):
        items.throw(ValueError("broken"))  # type: ignore[attr-defined] # it is a generator
    assert terminal.shown() == []
