"""Long-lived threads for everything that blocks on the network or a disk.

An operation runs in a worker and reports back; its report is handled in the thread that calls `wait`. The workers
are daemons whose operations have time limits, so that neither a deadline nor a signal ever waits for a socket.
"""

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flux_cli.api.connections import Abort, abortable

ABANDON_SECONDS = 5.0
"""How long to wait for the report of an aborted operation: a DNS lookup cannot be aborted."""
MAX_WAIT_SECONDS = 0.5
"""The longest wait between checks for signals: a signal that arrives just before a wait does not end it."""
PAUSE_SECONDS = 1.0
"""A wait that ends, or begins, this much too late means that the process was stopped for a while."""
RESUME_SECONDS = 2.0
"""The time that operations get after such a pause to read what arrived during it."""
FEW_THREADS, GROWTH, GROWTH_SECONDS = 16, 8, 0.01
"""How many threads start at once, how many more start at a time, and the pause between these steps."""
START_AGAIN_SECONDS = 1.0
"""The pause after a thread could not be started."""


@dataclass(eq=False)
class Operation:
    """A piece of blocking work.

    Attributes:
        work: Runs in a worker, with this operation as its argument.
        done: Is called with the result, in the thread that calls `wait`.
        failed: Is called there with the exception instead.
        seconds: The time limit; `extend` starts it again. None for no limit.
        overdue: Returns the exception for an operation that never reported.
    """

    work: Callable[["Operation"], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    seconds: float | None
    overdue: Callable[[], Exception]
    abort: Abort = field(default_factory=Abort)
    ends_at: float = float("inf")
    reported: bool = False

    def extend(self) -> None:
        """Start the time limit again: the operation made progress."""
        if self.seconds is not None:
            self.ends_at = time.monotonic() + self.seconds


class Workers:
    """The threads of one run. Everything but an operation's own work happens in the thread that calls `wait`."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Operation] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._arrived = threading.Lock()
        """Released when a report arrives. Before Python 3.13, `SimpleQueue.get` never returns if its timeout
        passes while a signal handler runs: after Ctrl-Z and fg."""
        self._arrived.acquire()
        self._running: set[Operation] = set()
        self._idle = 0
        self._failed_at = float("-inf")
        self._may_grow_at = 0.0
        self._starved_since: float | None = None
        self._waited_at = time.monotonic()
        self._processor = _random_processor()
        self.threads = 0
        self.stopped = threading.Event()
        """Set when results are no longer needed; operations may check it."""

    def reserve(self, count: int) -> int:
        """Make threads available for `count` operations; return how many are, at most `count`.

        Beyond the first few the number of threads grows slowly: short operations can share threads, and many
        threads that wait for the GIL cost more than they gain.
        """
        now = time.monotonic()
        room = max(FEW_THREADS - self.threads, GROWTH if now >= self._may_grow_at else 0)
        for _ in range(min(room, count - self._idle)):
            if now - self._failed_at < START_AGAIN_SECONDS or not self._add_thread():
                break
            self._may_grow_at = now + GROWTH_SECONDS
        if self.threads or self._starved_since is None:
            self._starved_since = None if self.threads else now
        return min(self._idle, count)

    def _add_thread(self) -> bool:
        try:
            threading.Thread(target=self._serve, daemon=True).start()
        except RuntimeError:  # the limit on processes: continue with the existing threads
            self._failed_at = time.monotonic()
            return False
        self.threads += 1
        self._idle += 1
        return True

    def start(self, operation: Operation) -> None:
        """Start an operation; `reserve` has made a thread available for it."""
        self._idle -= 1
        operation.extend()
        self._running.add(operation)
        self._todo.put(operation)

    @property
    def starved_seconds(self) -> float:
        """How long it has been impossible to start even one thread."""
        return 0.0 if self._starved_since is None else time.monotonic() - self._starved_since

    def post(self, report: Callable[[], None]) -> None:
        """Have `report` called by the thread that waits; safe in any thread and in a signal handler."""
        self._reports.put(report)
        with contextlib.suppress(RuntimeError):  # another report has released it
            self._arrived.release()

    def wake(self) -> None:
        """Let `wait` return."""
        self.post(lambda: None)

    def wait(self, seconds: float) -> None:
        """Wait for a report, at most this long, and handle all reports that have arrived."""
        now = time.monotonic()
        self._allow_for_pause(now - self._waited_at)
        ends_at = min((operation.ends_at for operation in self._running), default=float("inf"))
        timeout = min(seconds, max(0.0, ends_at - now), MAX_WAIT_SECONDS)
        self._arrived.acquire(timeout=timeout)
        self._allow_for_pause(time.monotonic() - now - timeout)
        while self.reports_waiting:
            self._reports.get_nowait()()
        self._end_overdue()
        self._waited_at = time.monotonic()

    @property
    def reports_waiting(self) -> bool:
        """Whether reports have arrived that have not been handled."""
        return not self._reports.empty()

    def stop(self) -> None:
        """Abort all running operations and let the threads end."""
        self.stopped.set()
        for operation in self._running:
            operation.abort.abort()
        for _ in range(self.threads):
            self._todo.put(_STOP)

    def _serve(self) -> None:
        _pin_to(self._processor)
        while (operation := self._todo.get()) is not _STOP:
            try:
                with abortable(operation.abort):
                    result = operation.work(operation)
            except Exception as error:
                # What an aborted socket raises would be misleading.
                late = operation.abort.aborted and not self.stopped.is_set()
                self._report(operation, operation.failed, operation.overdue() if late else error)
            else:
                self._report(operation, operation.done, result)

    def _report(self, operation: Operation, handle: Callable[[Any], None], value: Any) -> None:
        def report() -> None:
            self._idle += 1
            if not operation.reported:
                operation.reported = True
                self._running.discard(operation)
                handle(value)

        self.post(report)

    def _allow_for_pause(self, late: float) -> None:
        if late > PAUSE_SECONDS:
            earliest = time.monotonic() + RESUME_SECONDS
            for operation in self._running:
                operation.ends_at = max(operation.ends_at, earliest)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for operation in [each for each in self._running if now >= each.ends_at]:
            if not operation.abort.aborted:
                operation.abort.abort()
                operation.ends_at = now + ABANDON_SECONDS
            else:
                operation.reported = True
                self._running.discard(operation)
                operation.failed(operation.overdue())


def _random_processor() -> int | None:
    """Return a random one of the processors that this process may use; None if threads should not be pinned."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()  # not in a free-threaded Python
    if not has_lock or not hasattr(os, "sched_getaffinity"):
        return None
    try:
        processors = sorted(os.sched_getaffinity(0))
    except OSError:
        return None
    return processors[int.from_bytes(os.urandom(2)) % len(processors)]


def _pin_to(processor: int | None) -> None:
    """Pin this thread to a processor; the processes that the program starts are not affected.

    Only one worker at a time holds the GIL. On several processors each system call passes it to a worker on
    another one: that took 80 context switches and 3.4 ms per task of a batch, against 45 and 2.6 ms on one. No
    batch became slower, not even while other processes kept all processors busy.
    """
    if processor is not None:
        with contextlib.suppress(OSError):  # no longer available to this process
            os.sched_setaffinity(0, {processor})


_STOP = Operation(lambda _: None, lambda _: None, lambda _: None, None, lambda: Exception())
