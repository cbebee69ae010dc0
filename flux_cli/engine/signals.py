"""Being asked to end: as an exception anywhere, and while money is at stake, at a moment that loses nothing."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from flux_cli.errors import SignalReceived

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SignalReceived(number)


def install() -> None:
    """Let SIGTERM and SIGHUP raise SignalReceived, as SIGINT raises KeyboardInterrupt, unless they are ignored.

    So every `finally` on the way out runs: cursors come back, temporary files go.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise SignalReceived(number)

    _set(dict.fromkeys(_NAMES[1:], handle))


def ignore() -> None:
    """Let no signal change the exit code any more: everything has been told, and Python is about to end."""
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextlib.contextmanager
def deferred(wake: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Collect the first signal as an exception in the list instead of raising it, and call `wake`; raise a second.

    An exception that arrives between two statements could drop a task that has just been paid for.
    """
    pending: list[BaseException] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if pending:
            raise _exception(number)
        pending.append(_exception(number))
        wake()

    before = _set(dict.fromkeys(_NAMES, handle))
    try:
        yield pending
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


_Handler = Callable[[int, FrameType | None], object]


def _set(handlers: dict[str, _Handler]) -> dict[str, "_Handler | int | None"]:
    """Set handlers, but not for signals that the system lacks or the caller's shell chose to ignore (nohup)."""
    before: dict[str, _Handler | int | None] = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[name] = signal.signal(number, handler)
    return before
