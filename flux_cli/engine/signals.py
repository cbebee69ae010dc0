"""Signals that end the program: they raise an exception, but are deferred during a run so that nothing is lost."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from flux_cli.errors import SignalReceived

REPEAT_SECONDS = 0.3
"""SIGTERM or SIGHUP so soon after the first signal is the same request: GNU timeout sends two."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_Handler = Callable[[int, FrameType | None], object]


def install() -> None:
    """Let SIGTERM and SIGHUP raise SignalReceived, as SIGINT raises KeyboardInterrupt, unless they are ignored.

    So every `finally` block runs, which restores the cursor and removes temporary files.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise SignalReceived(number)

    _set(dict.fromkeys(_NAMES[1:], handle))


def ignore() -> None:
    """Ignore signals, which could change the exit code: everything is printed, and Python is about to exit."""
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class Interrupts:
    """The signals that arrived during a run. None of them raises, except inside `raising` from the second one on.

    An exception that arrives between two statements could drop a task that was just charged.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._errors: list[BaseException] = []
        self._first_at = 0.0
        self._may_raise = False

    @property
    def first(self) -> BaseException | None:
        """The exception for the first signal."""
        return self._errors[0] if self._errors else None

    @property
    def hurry(self) -> bool:
        """Whether a second signal arrived, after which nothing more is waited for."""
        return len(self._errors) > 1

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Collect signals instead of raising them; afterwards a repeated one is ignored."""
        before = _set(dict.fromkeys(_NAMES, self._arrived))
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), self._late if self._errors else handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Let a second signal raise: the block may be writing to a stdout that nobody reads."""
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        repeated = self._errors and time.monotonic() - self._first_at < REPEAT_SECONDS
        if repeated and number != signal.SIGINT:
            return
        if not self._errors:
            self._first_at = time.monotonic()
        self._errors.append(_exception(number))
        self._wake()
        if self._may_raise and self.hurry:
            raise self._errors[-1]

    def _late(self, number: int, _frame: FrameType | None) -> None:
        self._errors.append(_exception(number))
        if time.monotonic() - self._first_at >= REPEAT_SECONDS:
            raise self._errors[-1]


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SignalReceived(number)


def _set(handlers: dict[str, _Handler]) -> dict[str, "_Handler | int | None"]:
    """Set handlers, except for signals that the system lacks or the caller's shell chose to ignore (nohup)."""
    before: dict[str, _Handler | int | None] = {}
    if threading.current_thread() is not threading.main_thread():
        return before  # Python allows no other thread to set them
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[name] = signal.signal(number, handler)
    return before
