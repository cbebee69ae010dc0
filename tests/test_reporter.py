"""The handler of a run's events: what reaches stdout and stderr, and that no failure in it stops a run."""

import io
import json
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pyte
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
from flux_cli.ui.progress import SummaryBar, TaskBars, clock, tracked
from flux_cli.ui.reporter import Reporter, batch_reporting, display, reporting
from tests.conftest import wait_until

Capture = pytest.CaptureFixture[str]


def jobs(count: int) -> list[Job]:
    """Return submitted jobs that the history knows."""
    return [
        Job(None, recorded={"prompt": f"kite {n}"}, task_id=f"{n}a5b8f64-1b78", number=n, n=n)
        for n in range(1, count + 1)
    ]


def finished(job: Job) -> Result:
    """Return the result of a job whose picture was saved."""
    return Result(
        Status.FINISHED, path=Path(f"{job.n}.png"), task_id=job.task_id, request=job.recorded, elapsed=3.21
    )


def failed(job: Job, reason: str = "prompt was moderated") -> Result:
    """Return the result of a job whose task failed."""
    return Result(Status.FAILED, ExitCode.TASK_FAILED, task_id=job.task_id, error=reason)


def timed_out(job: Job) -> Result:
    """Return the result of a job whose task still runs."""
    return Result(
        Status.PROCESSING, ExitCode.GAVE_UP_WAITING, task_id=job.task_id, error="timed out", resumable=True
    )


def report(
    some: Sequence[Job],
    *events: object,
    quiet: bool = False,
    as_json: bool = False,
    actions: PictureOptions | None = None,
) -> Reporter:
    """Handle events and close the reporter."""
    with (
        mock.patch.object(console, "quiet", quiet),
        reporting(some, flags="", service="sandbox", json=as_json, actions=actions) as reporter,
    ):
        for event in events:
            reporter.handle(event)  # type: ignore[arg-type] # events, but `object` reads better above
    return reporter


def test_paths_are_printed_in_the_order_of_submission(capfd: Capture) -> None:
    """The second picture waits for the first one; what is over at the end of the run is printed anyway."""
    first, second, third, fourth = some = jobs(4)
    with reporting(some, flags="", service="sandbox") as reporter:
        reporter.handle(Ended(second, finished(second)))
        assert capfd.readouterr().out == ""
        reporter.handle(Ended(first, finished(first)))
        assert capfd.readouterr().out == "1.png\n2.png\n"
        reporter.handle(Ended(fourth, finished(fourth)))
        assert capfd.readouterr().out == ""
    assert capfd.readouterr().out == "4.png\n"
    assert third


def test_lines_of_a_task_without_a_terminal(capfd: Capture) -> None:
    """One line when it is submitted, one when it is finished, and each reason to retry once."""
    one, two = some = jobs(2)
    report(
        some,
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
    assert capfd.readouterr().err.splitlines() == [
        "submitted 1a5b8f64-1b78: kite 1",
        "submitted 2a5b8f64-1b78: kite 2",
        "warning: HTTP 503; retrying",
        "finished 1a5b8f64-1b78 in 3.2 s",
        "finished 2a5b8f64-1b78 in 3.2 s",
    ]


def test_quiet_prints_errors_and_how_to_resume_only(capfd: Capture) -> None:
    """No progress, no warnings, and no hint about tasks of `--no-wait`."""
    one, two, three = some = jobs(3)
    report(
        some,
        Submitted(one),
        Retrying(one, "HTTP 503"),
        Ended(one, failed(one)),
        Ended(two, timed_out(two)),
        Ended(three, Result(Status.PROCESSING, task_id=three.task_id)),
        quiet=True,
    )
    assert capfd.readouterr().err.splitlines() == [
        "error: task 1a5b8f64 failed: prompt was moderated",
        "error: task 2a5b8f64: timed out",
        "hint: already charged; resume with: flux-cli wait 2a5b8f64-1b78",
    ]


def test_one_hint_resumes_many_tasks(capfd: Capture) -> None:
    """`wait --all` gets what the history knows; tasks that it does not know are named."""
    some = jobs(5)
    some[3] = replace(some[3], number=None)
    lost = some[4]
    report(some, Unrecorded(lost, "cannot write the history"), *(Ended(job, timed_out(job)) for job in some))
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("hint:")] == [
        "hint: already charged; resume with: flux-cli wait --all",
        "hint: already charged; resume with: flux-cli wait -- 4a5b8f64-1b78 5a5b8f64-1b78",
    ]
    assert lines[0] == "warning: cannot write the history; task 5a5b8f64-1b78 is missing there"


def test_an_error_that_holds_for_all_is_printed_once(capfd: Capture) -> None:
    """Without a task ID the messages are the same."""
    some = [Job(None) for _ in range(4)]
    result = Result(Status.UNSENT, ExitCode.NOT_ALLOWED, error="not sent: no credits left", hint="buy some")
    report(some, *(Ended(job, result) for job in some))
    assert capfd.readouterr().err == "error: not sent: no credits left\nhint: buy some\n"


def test_messages_of_a_batch_name_the_row(capfd: Capture) -> None:
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_stdout_rejects_the_picture(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run gets the error before it records the end, and the hint says how to get the picture."""
    (job,) = some = jobs(1)
    result = replace(finished(job), path=None, content=b"\x89PNG")
    monkeypatch.setattr(console, "quiet", True)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with (
            reporting(some, flags="", service="sandbox") as reporter,
            pytest.raises(NotDeliveredError) as raised,
        ):
            reporter.handle(Ended(job, result))
        assert raised.value.exit_code is reporter.exit_code(ExitCode.OK) is ExitCode.LOCAL_FILE
    assert capfd.readouterr().err.splitlines() == [
        "error: cannot write to stdout: no space left on device",
        "hint: already charged; resume with: flux-cli wait 1a5b8f64-1b78",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_id_that_stdout_does_not_take_is_on_stderr(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--quiet` too."""
    (job,) = some = jobs(1)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        report(some, Ended(job, Result(Status.PROCESSING, task_id=job.task_id)), quiet=True)
    assert "flux-cli wait 1a5b8f64-1b78" in capfd.readouterr().err


def test_a_part_that_fails_stops_nothing(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the display is one warning; the results are printed."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("flux_cli.ui.reporter.TaskLines.handle", broken)
    one, two = some = jobs(2)
    reporter = report(some, Ended(one, finished(one)), Ended(two, finished(two)))
    out, err = capfd.readouterr()
    assert out == "1.png\n2.png\n"
    assert err == "warning: unexpected ZeroDivisionError in TaskLines: division by zero\n"
    assert reporter.exit_code(ExitCode.OK) is ExitCode.OK


def test_a_signal_in_one_part_reaches_the_others_first(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C while an error is printed loses no hint."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flux_cli.ui.reporter.TaskLines.handle", interrupted)
    monkeypatch.setattr("flux_cli.ui.reporter.TaskLines.close", interrupted)
    (job,) = some = jobs(1)
    with (
        pytest.raises(KeyboardInterrupt),
        reporting(some, flags="", service="sandbox") as reporter,
        pytest.raises(KeyboardInterrupt),
    ):
        reporter.handle(Ended(job, timed_out(job)))
    assert "resume with: flux-cli wait 1a5b8f64-1b78" in capfd.readouterr().err


def test_a_sidecar_that_cannot_be_written_is_a_warning(capfd: Capture, tmp_path: Path) -> None:
    """The picture is saved and its path printed; the exit code is that of the tasks."""
    (job,) = some = jobs(1)
    missing = tmp_path / "gone" / "x.png"
    reporter = report(some, Ended(job, replace(finished(job), path=missing)), actions=PictureOptions(sidecar=True))
    out, err = capfd.readouterr()
    assert out == f"{missing}\n"
    assert "warning: no sidecar: cannot read" in err
    assert "error:" not in err
    assert reporter.exit_code(ExitCode.OK) is ExitCode.OK


def test_a_preview_that_fails_is_a_warning(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """textual-image divides by zero if the terminal has no size."""

    def broken(_: Path) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr(preview, "show", broken)
    monkeypatch.setattr("flux_cli.ui.saved.console.is_terminal", lambda stream: stream is sys.stdout)
    (job,) = some = jobs(1)
    report(some, Ended(job, finished(job)), actions=PictureOptions(preview=True))
    out, err = capfd.readouterr()
    assert out == "1.png\n"
    assert "warning: no preview: ZeroDivisionError" in err


def test_a_warning_about_the_saved_file_is_printed(capfd: Capture) -> None:
    """Unless `--quiet`."""
    (job,) = some = jobs(1)
    result = replace(finished(job), warning="1.png contains a JPEG")
    report(some, Ended(job, result))
    assert "warning: 1.png contains a JPEG\n" in capfd.readouterr().err
    report(some, Ended(job, result), quiet=True)
    assert capfd.readouterr().err == ""


class Terminal(io.TextIOWrapper):
    """A pty, and an emulator that shows what was written to it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._reader, writer = os.openpty()
        os.set_blocking(self._reader, False)
        super().__init__(os.fdopen(writer, "wb", 0), encoding="utf-8", write_through=True)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def shown(self) -> list[str]:
        """Return the lines on the screen, without empty ones."""
        try:
            while content := os.read(self._reader, 65536):
                self._stream.feed(content)
        except BlockingIOError:
            pass
        return [line.rstrip() for line in self.screen.display if line.strip()]


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_bars_show_each_task_from_the_first_moment(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Before it is submitted, while it runs, is retried and saved; the columns keep their places."""
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal)
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
        assert terminal.screen.cursor.hidden
    finally:
        bars.close()
    assert terminal.shown() == []
    assert not terminal.screen.cursor.hidden


def test_a_display_without_a_thread_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may allow no more threads; the run continues."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(threading.Thread, "start", refused)
    bars = TaskBars(jobs(2))
    bars.close()
    assert terminal.shown() == ["warning: cannot show the progress: RuntimeError: can't start new thread"]


def test_a_display_that_cannot_be_drawn_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is visible afterwards."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError("division by zero")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    live = LiveDisplay(lambda *_: "drawn")
    live.start()
    live.redraw()
    assert terminal.shown() == ["drawn"]
    live._render = broken
    live.redraw()
    live.stop()
    assert terminal.shown() == ["warning: cannot show the progress: ZeroDivisionError: division by zero"]
    assert not terminal.screen.cursor.hidden


def test_more_than_eight_tasks_share_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts, the reason of a retry for some time, and the oldest tasks in a constant order."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    some = jobs(12)
    counts, bar = parts = display(some)
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
    for job in some[1:3]:
        handle(Ended(job, finished(job)))
    assert terminal.shown()[0].endswith(" 3/12")
    assert re.search(r"9 running, 1 failed, 0:0\d elapsed, [\d.]+ per (second|minute), ", terminal.shown()[1])
    for part in parts:
        part.close()
    assert terminal.shown() == []
    assert counts


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (59.9, "0:59"), (60, "1:00"), (3599, "59:59"), (11045, "3:04:05")]
)
def test_duration(seconds: float, text: str) -> None:
    """Minutes and seconds, with hours if there are any."""
    assert clock(seconds) == text


def test_a_bar_for_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows how many have been yielded, and vanishes, also after an error."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    items = tracked("abc", "Thumbnails", 3)
    assert next(items) + next(items) == "ab"
    wait_until(lambda: any(line.startswith("Thumbnails") and "1/3" in line for line in terminal.shown()))
    with pytest.raises(ValueError, match="broken"):
        items.throw(ValueError("broken"))  # type: ignore[attr-defined] # it is a generator
    assert terminal.shown() == []
