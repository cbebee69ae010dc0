"""From webhooks to files: each event once, confirmed by the service, forwarded, saved, and noted in the history.

The server's thread only hands events over. One loop, in the thread that calls `run`, owns every decision, the
history and the watcher; what blocks on the network runs in daemon threads that report back.
"""

import contextlib
import math
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from flux_cli.api.backoff import backoff
from flux_cli.api.client import Client, UnknownTaskError
from flux_cli.api.status import check_tasks
from flux_cli.api.task import Status, Task
from flux_cli.engine.job import Job, Result
from flux_cli.engine.signals import deferred
from flux_cli.engine.workers import Delivered, deliver
from flux_cli.errors import BadResponseError, ExitCode, FluxError, LocalFileError, worst
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saver, Transfer
from flux_cli.storage.files import remove_live
from flux_cli.storage.history import History
from flux_cli.storage.record import Record
from flux_cli.webhooks.event import Event, forward

MAX_AT_WORK = 8
"""Events that are confirmed and saved at once."""
FORWARD_SECONDS = 15.0
"""How long, at the end, events are still forwarded."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Bodies that may wait: more than 20,000 of the service's. Beyond that the sender is told to try later."""
MAX_REMEMBERED = 10_000
"""Tasks whose last event is kept in mind; the history knows of older ones that they are over."""
CONFIRM_TRIES = 5
"""How often the service is asked about a task that its webhook calls over, and that it itself calls running."""


class Watcher(Protocol):
    """Who is told what happens, from one thread, in order."""

    def event(self, result: Result) -> None:
        """A task stands like this; of one that is over, after its picture was saved. May raise BrokenPipeError."""

    def repeated(self, task: Task) -> None:
        """An event came that was done before."""

    def refused(self, status: int, reason: str) -> None:
        """A request was answered with this status."""

    def trouble(self, message: str) -> None:
        """Something failed that stops nothing."""

    def ending(self) -> None:
        """What is under way will be finished, and nothing new begun."""

    def left(self, task_id: str) -> None:
        """A task is over, and its event was answered, but nothing was done with it."""


@dataclass(frozen=True)
class Orders:
    """What to do with events.

    Attributes:
        target: Where pictures go; None to save none.
        until: After so many tasks that are over it is done; None for never.
        forward_to: The URL that events are posted on to, and `secret`, what goes along.
    """

    target: Target | None
    until: int | None = None
    forward_to: str | None = None
    secret: str | None = None


@dataclass
class _Work:
    """An event that is worked on, and what has come of it so far."""

    event: Event
    job: Job
    task: Task | None = None
    """As the service confirms it."""
    delivered: Delivered | None = None
    error: Exception | None = None


class _Stopped(Exception):  # noqa: N818 - no error: it ends work that is not to be gone on with
    pass


class Listener:
    """Does what events ask for. `deliver`, `refused` and `failed` may be called from any thread.

    Without a client nothing is confirmed: what the body says is believed.
    """

    def __init__(
        self, client: Client | None, saver: Saver, history: History | None, watcher: Watcher, orders: Orders
    ) -> None:
        self._client = client
        self._saver = saver
        self._history = history
        self._watcher = watcher
        self._orders = orders
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[Event] = deque()
        self._at_work: dict[str, _Work] = {}
        self._seen: OrderedDict[str, tuple[Status, float | None] | None] = OrderedDict()
        """By task the last event; None where it says that the task is over."""
        self._over: dict[str, ExitCode] = {}
        self._started = 0
        self._began = time.time()
        self._closed: BrokenPipeError | None = None
        self._to_forward: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._forwarding = 0  # events on their way through the forwarder
        self._ends_at = math.inf
        self._ending, self._stopped = threading.Event(), threading.Event()
        # Each counted up in one thread only, so that no lock is needed.
        self._bytes_taken = self._bytes_done = 0

    def deliver(self, event: Event) -> bool:
        """Take an event over; False where there is no room for it, or no time."""
        if self._ending.is_set() or self._bytes_taken - self._bytes_done > MAX_WAITING_BYTES:
            return False
        self._bytes_taken += len(event.body)
        self._calls.put(lambda: self._arrived(event))
        return True

    def refused(self, status: int, reason: str) -> None:
        """Pass on that a request was refused."""
        self._calls.put(lambda: self._watcher.refused(status, reason))

    def failed(self, error: BaseException) -> None:
        """End with this error: the server cannot go on."""

        def end() -> None:
            raise error

        self._calls.put(end)

    def run(self, ready: Callable[[], None]) -> ExitCode:
        """Do what comes in, until there were enough; return the exit code that speaks for the tasks.

        `ready` is called once a signal ends the run in its own time, and not wherever it happens to be.

        Raises:
            KeyboardInterrupt, SignalReceived: Asked to end; what was under way is finished, unless asked twice.
            BrokenPipeError: Nobody reads what the watcher writes; likewise.
        """
        if self._orders.forward_to is not None:
            threading.Thread(target=self._forward, args=(self._orders.forward_to,), daemon=True).start()
        with deferred(lambda: self._calls.put(lambda: None)) as asked_to_end:
            try:
                ready()
                while not self._is_done():
                    self._handle_next()
                    if asked_to_end and not self._ending.is_set():
                        self._end()
                    self._start_waiting()
            finally:
                self._stopped.set()
                remove_live()
                self._tell_what_is_left()
            if asked_to_end:
                raise asked_to_end[0]
            if self._closed is not None:
                raise self._closed
        return worst(self._over.values())

    def _is_done(self) -> bool:
        """Say whether everything is finished that is to be, once it is to end."""
        forwarded = self._forwarding == 0 or time.monotonic() >= self._ends_at
        return self._ending.is_set() and not self._at_work and forwarded

    def _handle_next(self) -> None:
        left = self._ends_at - time.monotonic()
        with contextlib.suppress(queue.Empty):
            # Never without a limit: Windows delivers no Ctrl-C to a wait that has none.
            self._calls.get(timeout=left if 0 < left < 60 else 60.0)()

    def _end(self) -> None:
        self._ending.set()
        self._ends_at = time.monotonic() + FORWARD_SECONDS
        if self._at_work or self._forwarding:
            self._watcher.ending()

    def _tell_what_is_left(self) -> None:
        """Name the tasks whose sender was told that all is well, and will not tell again."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()
        if self._forwarding:
            count = "1 event was" if self._forwarding == 1 else f"{self._forwarding} events were"
            self._watcher.trouble(f"{count} not forwarded")
        events = [*self._waiting, *(work.event for work in self._at_work.values())]
        for task_id in dict.fromkeys(
            each.task.task_id for each in events if each.task.status is not Status.PROCESSING
        ):
            self._watcher.left(task_id)

    # Events

    def _arrived(self, event: Event) -> None:
        task = event.task
        record = self._find(task.task_id)
        if self._is_repeated(task, record):
            self._watcher.repeated(task)
            self._bytes_done += len(event.body)
            return
        running = task.status is Status.PROCESSING
        self._remember(task.task_id, (task.status, task.percentage) if running else None)
        if running:
            self._tell(_result(task, record))
        if not running:
            self._waiting.append(event)
        elif self._orders.forward_to is None:
            self._bytes_done += len(event.body)
        else:
            self._hand_on(event)

    def _is_repeated(self, task: Task, record: Record | None) -> bool:
        """Say whether an event was here before: the very same, or any about a task that is over and done with."""
        if task.task_id in self._seen and self._seen[task.task_id] in (None, (task.status, task.percentage)):
            return True
        if record is None or (record.ended or 0.0) >= self._began:
            return False  # a task that another command has just finished is news here
        saved = record.path is not None or (self._orders.target is None and record.status is Status.FINISHED)
        return saved or (record.status is Status.FAILED and task.status is not Status.FINISHED)

    def _remember(self, task_id: str, said: tuple[Status, float | None] | None) -> None:
        self._seen[task_id] = said
        self._seen.move_to_end(task_id)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def _start_waiting(self) -> None:
        """Begin the work on events, those of one task in their order."""
        held = deque[Event]()
        while self._waiting and len(self._at_work) < MAX_AT_WORK and not self._ending.is_set():
            event = self._waiting.popleft()
            task_id = event.task.task_id
            if task_id in self._at_work:
                held.append(event)
                continue
            record = self._find(task_id)
            self._started += 1
            job = Job(
                self._orders.target, recorded=record.request if record else {}, n=self._started, task_id=task_id
            )
            self._at_work[task_id] = work = _Work(event, job)
            threading.Thread(target=self._work, args=(work,), daemon=True).start()
        self._waiting.extendleft(reversed(held))

    # What runs in threads

    def _work(self, work: _Work) -> None:
        try:
            work.task = self._confirmed(work.event.task)
            if self._orders.forward_to is not None:
                self._calls.put(lambda: self._hand_on(work.event))
            if work.task.status is Status.FINISHED and self._orders.target is not None:
                job = work.job
                transfer = Transfer(self._orders.target, job.recorded, job.n)
                work.delivered = deliver(
                    self._client, self._saver, work.task, transfer, self._on_bytes, self._on_trouble
                )
        except Exception as error:
            work.error = error
        self._calls.put(lambda: self._worked(work))

    def _forward(self, url: str) -> None:
        """Post events on, one after the other, apart from all else: who takes them may be slow, or not there."""
        while True:
            event = self._to_forward.get()
            try:
                forward(event, url, self._orders.secret)
            except FluxError as error:
                self._calls.put(partial(self._watcher.trouble, error.message))
            self._calls.put(partial(self._forwarded, event))

    def _confirmed(self, told: Task) -> Task:
        """Return the task as the service describes it, which may be a little behind its own webhook."""
        if self._client is None:
            return told
        for attempt in range(1, CONFIRM_TRIES + 1):
            ((_, found),) = check_tasks(self._client, [told.task_id], self._pause)
            if isinstance(found, FluxError):
                raise found
            if found.status is not Status.PROCESSING:
                return found
            self._pause(backoff(attempt))
        raise BadResponseError(f"its webhook says {told.status}, but the service says that it still runs")

    def _pause(self, seconds: float) -> None:
        if self._ending.wait(seconds):
            raise _Stopped

    def _on_trouble(self, message: str) -> None:
        self._calls.put(lambda: self._watcher.trouble(message))

    def _on_bytes(self, received: int, _total: int | None) -> None:
        """Stop a download when nobody waits for it, or, asked to end, when it would be begun once more."""
        if self._stopped.is_set() or (received == 0 and self._ending.is_set()):
            raise _Stopped

    # What the loop does with what they report

    def _hand_on(self, event: Event) -> None:
        self._forwarding += 1
        self._to_forward.put(event)

    def _forwarded(self, event: Event) -> None:
        self._forwarding -= 1
        if event.task.status is Status.PROCESSING:
            self._bytes_done += len(event.body)

    def _worked(self, work: _Work) -> None:
        task_id = work.event.task.task_id
        if isinstance(work.error, _Stopped):
            self._waiting.appendleft(work.event)  # for `_tell_what_is_left`
        del self._at_work[task_id]
        self._bytes_done += len(work.event.body)
        if isinstance(work.error, _Stopped):
            return
        result = _outcome(work, self._find(task_id))
        if work.error is not None:
            self._seen.pop(task_id, None)  # another event of it is another chance
        if work.task is not None:
            self._note(result)
            self._over[task_id] = result.exit_code
        self._tell(result)
        if self._orders.until is not None and len(self._over) >= self._orders.until:
            self._end()

    def _tell(self, result: Result) -> None:
        if self._closed is not None:
            return
        try:
            self._watcher.event(result)
        except BrokenPipeError as error:
            self._closed = error
            self._end()

    def _find(self, task_id: str) -> Record | None:
        try:
            return self._history.find(task_id) if self._history else None
        except LocalFileError as error:
            self._watcher.trouble(error.message)
            return None

    def _note(self, result: Result) -> None:
        """Write to the history how a task ended; a history that cannot be written stops nothing."""
        if self._history is None or result.task is None:
            return
        columns: dict[str, str | int | None] = {
            "image_url": result.task.image_url,
            "original_image_url": result.task.original_image_url,
            "error": result.error,
            "exit_code": int(result.exit_code),
        }
        if result.path is not None:
            columns["path"] = str(result.path.absolute())
        if result.original_path is not None:
            columns["original_path"] = str(result.original_path.absolute())
        try:
            self._history.observed(result.task.task_id, result.status, **columns)
        except LocalFileError as error:
            self._watcher.trouble(error.message)


def _outcome(work: _Work, record: Record | None) -> Result:
    """Return how a task stands whose event called it over."""
    if work.error is None:
        assert work.task is not None  # noqa: S101 - there was no error; for the type checker
        return _result(work.task, record, work.delivered)
    error = work.error
    if not isinstance(error, FluxError):
        error = FluxError(f"unexpected {type(error).__name__}: {error}")
    unconfirmed = Status.FAILED if isinstance(error, UnknownTaskError) else Status.PROCESSING
    return Result(
        work.task.status if work.task else unconfirmed,
        error.exit_code,
        task=work.task,
        task_id=work.event.task.task_id,
        request=record.request if record else {},
        error=error.message,
        hint=error.hint,
        resumable=not isinstance(error, UnknownTaskError),
    )


def _result(task: Task, record: Record | None, delivered: Delivered | None = None) -> Result:
    return Result(
        task.status,
        ExitCode.TASK_FAILED if task.status is Status.FAILED else ExitCode.OK,
        task=delivered.task if delivered else task,
        task_id=task.task_id,
        path=delivered.saved.path if delivered else None,
        original_path=delivered.saved.original_path if delivered else None,
        request=record.request if record else {},
        elapsed=time.time() - record.created if record else None,
        error=task.error,
    )
