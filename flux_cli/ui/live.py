"""A live display: lines at the end of the terminal that are redrawn while a command runs."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
"""A terminal that becomes narrower during a drawing truncates its lines instead of wrapping them."""
_ERASE = "\r\x1b[K\n\x1b[J\x1b[A"
"""Erases from the cursor's line on, in two steps: tmux keeps a copy of what `J` erases from the first cell."""
_PAUSE_SECONDS = 0.125
_STOP_SECONDS = 0.5
"""How long Ctrl-Z waits for a drawing in progress, which a terminal paused by Ctrl-S may block for a long time."""
BAR_STYLES = {
    "bar.back": "bright_black",
    "bar.complete": "cyan",
    "bar.finished": "green",
    "bar.pulse": "cyan",
}
"""Colours that are readable on dark and light backgrounds; some of rich's own are not."""

Render = Callable[[int, int], "RenderableType"]
"""Returns what to show, for a terminal with this many columns and lines."""


class LiveDisplay:
    """Redraws lines at the end of the terminal repeatedly, in its own thread, until `stop`.

    Between two drawings the cursor is at the display's first cell, and each drawing erases everything from there
    on. Unlike rich's own Live, it does not count lines, because a resized terminal wraps them differently.

    Everything else that `console` writes appears above the display. Nothing is drawn while the command is a
    background job of a shell.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._console: Console | None = None
        self._shown: str | None = None
        """The drawing that is on the terminal."""
        self._cursor_hidden = False
        self._failure: Exception | None = None
        self._handles_ctrl_z = False
        console.live_display = self
        self._handle_ctrl_z()
        try:
            # The thread imports rich, which takes 90 ms, so that the first request need not wait for it.
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:  # the system allows no more threads
            self._failure = error

    def stop(self) -> None:
        """Erase the display and show the cursor again. Does nothing the second time."""
        with self._lock:
            if self._ended.is_set():
                return
            try:
                console.stderr.flush()  # a signal may have interrupted a drawing
                self._erase()
            except BaseException:  # a second signal: the cursor must not stay hidden
                _write_directly(_SHOW_CURSOR)
                raise
            finally:
                self._ended.set()
                console.live_display = None
        if self._handles_ctrl_z:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        if self._failure is not None:
            console.warning(f"cannot show the progress: {type(self._failure).__name__}: {self._failure}")

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Erase the display while something else is written."""
        with self._lock:
            was_shown = self._shown is not None
            console.stderr.flush()
            self._erase(show_cursor=False)
            try:
                yield
            finally:
                if was_shown:
                    self.redraw()

    def redraw(self) -> None:
        """Draw now, if anything has changed."""
        with self._lock:
            if self._ended.is_set() or self._failure is not None:
                return
            if not _in_foreground():
                self._shown = None  # the shell's prompt is there now: nothing to erase
                return
            try:
                frame = self._frame()
            except Exception as error:  # it must end neither this thread nor the run
                self._failure = error
                self._erase()
                return
            if frame != self._shown:
                self._shown, self._cursor_hidden = frame, True
                console.write_terminal(_HIDE_CURSOR + _ERASE + _NO_WRAP + frame + _WRAP)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.redraw()
            self._ended.wait(_PAUSE_SECONDS)

    def _frame(self) -> str:
        from rich.console import Console
        from rich.theme import Theme

        columns, lines = _terminal_size()
        if self._console is None:
            # Explicit, because rich would otherwise read its own environment variables (TTY_COMPATIBLE etc.).
            self._console = Console(
                file=console.stderr,
                force_terminal=True,
                force_interactive=False,
                force_jupyter=False,
                legacy_windows=False,
                no_color=not console.wants_colour(sys.stderr),
                highlight=False,
                theme=Theme(BAR_STYLES),
            )
        # A full last column leaves a pending line break.
        self._console.size = (max(1, columns - 1), lines)
        with self._console.capture() as capture:
            self._console.print(self._render(columns - 1, lines))
        drawn = capture.get().rstrip("\n").split("\n")[: max(1, lines - 1)]
        up = f"\x1b[{len(drawn) - 1}A" if len(drawn) > 1 else ""
        return "\n".join(drawn) + "\r" + up

    def _erase(self, *, show_cursor: bool = True) -> None:
        text = _ERASE if self._shown is not None else ""
        self._shown = None
        if show_cursor and self._cursor_hidden:
            self._cursor_hidden = False
            text += _SHOW_CURSOR
        if text and _in_foreground():
            _write_directly(text)

    # Ctrl-Z

    def _handle_ctrl_z(self) -> None:
        if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:  # not if the caller's shell chose to ignore it
            signal.signal(signal.SIGTSTP, self._suspend)
            self._handles_ctrl_z = True

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        """Leave a clean terminal to the shell, stop, and draw again once continued in the foreground."""
        locked = self._lock.acquire(timeout=_STOP_SECONDS)
        try:
            self._erase()
            signal.signal(number, signal.SIG_DFL)
            # To this thread: the call returns after the process was stopped and continued.
            signal.pthread_kill(threading.get_ident(), number)
            signal.signal(number, self._suspend)
        finally:
            if locked:
                self._lock.release()


def _write_directly(text: str) -> None:
    """Write to the terminal without sys.stderr, whose write a signal may have interrupted."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), text.encode())


def _in_foreground() -> bool:
    """Return whether this process may draw: it is not a background job of a shell."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # not the controlling terminal, or no such call on this system
        return True


def _terminal_size() -> tuple[int, int]:
    """Return the columns and lines of stderr's terminal; COLUMNS and LINES may describe another one."""
    try:
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns, lines = shutil.get_terminal_size()
    return columns or 80, lines or 24
