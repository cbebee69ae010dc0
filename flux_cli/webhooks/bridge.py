"""The bridge from webhooks to the engine: a final event becomes a job whose task is due for a status check now.

The server's thread only hands events over. Everything else happens in the thread of the engine's loop, except for
forwarding, which has its own thread.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from flux_cli.api.client import Client
from flux_cli.api.task import Status, Task
from flux_cli.engine.events import Downloading, Ended, Event
from flux_cli.engine.job import Job
from flux_cli.engine.queues import Source
from flux_cli.engine.result import Result
from flux_cli.engine.run import Run
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import ExitCode, LocalFileError, worst
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saver
from flux_cli.storage.history import History
from flux_cli.storage.record import SANDBOX, Record
from flux_cli.webhooks.event import WebhookEvent
from flux_cli.webhooks.forwarding import Forwarder
from flux_cli.webhooks.journal import EventJournal

MAX_CONCURRENT = 32
"""Tasks that are checked or saved at once."""
PICTURE_SECONDS = 600.0
"""How long to keep retrying one download."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""The total size of bodies that may wait: more than 20,000 of the service's. Beyond it, the response is 503."""
FORWARD_SECONDS = 15.0
"""How long to keep forwarding events after everything else has ended."""
MAX_REMEMBERED = 10_000
"""Tasks whose last event is remembered; the history has older ones that have ended."""


class Display(Protocol):
    """The output of the listener; called from the thread of the engine's loop."""

    def update(self, result: Result) -> None:
        """Show a task that is running or has ended. May raise BrokenPipeError."""

    def repeated(self, task: Task) -> None:
        """Show that an event has already been handled."""

    def rejected(self, status: int, reason: str) -> None:
        """Show that a request was rejected with this status code."""

    def problem(self, message: str) -> None:
        """Show a failure that does not stop the listener."""

    def stopping(self) -> None:
        """Show that the listener ends after the tasks in progress."""


class Bridge:
    """Hands webhook events to one run. `deliver`, `rejected` and `failed` may be called from any thread.

    Args:
        target: Where pictures go; None to save none.
        confirms: Whether there is a key to check the status of tasks; otherwise the events are trusted.
        until: End when so many tasks have ended; None for never.
        forward_to: The URL that events are forwarded to, with `secret` in the header.
    """

    def __init__(
        self,
        client: Client,
        saver: Saver,
        history: History | None,
        service: str,
        display: Display,
        journal: EventJournal,
        *,
        target: Target | None,
        confirms: bool,
        until: int | None = None,
        forward_to: str | None = None,
        secret: str | None = None,
    ) -> None:
        self._history = history
        self._display = display
        self._journal = journal
        self._target = target
        self._confirms = confirms
        self._until = until
        self._jobs = Source(closed=False)
        settings = RunSettings(concurrency=MAX_CONCURRENT, picture_patience=PICTURE_SECONDS, finish_downloads=True)
        store = HistoryStore(history, service, SANDBOX) if history else None
        self._run = Run(client, saver, store, self._handle, settings)
        self._run.on_stopping = self._stopping
        self._events: dict[Job, WebhookEvent] = {}
        """Those whose tasks are being checked or saved."""
        self._forwarded: set[Job] = set()
        """Those of these jobs whose events were forwarded."""
        self._seen: OrderedDict[str, tuple[Status, float | None] | None] = OrderedDict()
        """The last event of each task; None if the task has ended."""
        self._started = 0
        self._ended_tasks: dict[str, ExitCode] = {}
        self._began = time.time()
        self._stdout_error: BrokenPipeError | LocalFileError | None = None
        self._forwarder: Forwarder | None = None
        if forward_to is not None:
            self._forwarder = Forwarder(forward_to, secret, self._problem_from_thread)
        self._closed = threading.Event()
        # Each is counted in one thread only, so that no lock is needed.
        self._bytes_taken = self._bytes_done = 0

    def deliver(self, event: WebhookEvent) -> bool:
        """Accept an event, durably if its task has ended; return False if the sender has to retry."""
        full = self._bytes_taken - self._bytes_done > MAX_WAITING_BYTES
        if full or self._closed.is_set() or self._run.stopping:
            return False
        if event.task.status is not Status.PROCESSING:
            self._journal.add(event)
        self._take(event)
        return True

    def _take(self, event: WebhookEvent) -> None:
        self._bytes_taken += len(event.body)
        self._run.workers.post(partial(self._arrived, event))

    def rejected(self, status: int, reason: str) -> None:
        """Report that a request was rejected."""
        self._run.workers.post(lambda: self._display.rejected(status, reason))

    def failed(self, error: BaseException) -> None:
        """End the run with this error of the server."""

        def end() -> None:
            raise error

        self._run.workers.post(end)

    def run(self, ready: Callable[[], None]) -> ExitCode:
        """Handle events until `until` is reached; return the worst exit code of the tasks.

        `ready` is called when the run has started and handles signals.

        Raises:
            KeyboardInterrupt, SignalReceived: A signal requested the end.
            BrokenPipeError: The reader of the display's output closed it.
            LocalFileError: The display's output cannot be written.
        """
        self._run.workers.post(ready)
        for event in self._journal.unprocessed:
            self._take(event)
        try:
            if self._forwarder:
                self._forwarder.start()
            self._run.run(self._jobs)
        finally:
            self._closed.set()
            self._finish_forwarding()
        if self._stdout_error is not None:
            raise self._stdout_error
        return worst(self._ended_tasks.values())

    def _finish_forwarding(self) -> None:
        if self._forwarder is None:
            return
        left = self._forwarder.finish(FORWARD_SECONDS, lambda: self._run.hurry)
        while self._run.workers.reports_waiting:  # problems that it reported
            self._run.workers.wait(0)
        if left:
            count = "1 event was" if left == 1 else f"{left} events were"
            self._display.problem(f"{count} not forwarded")

    # In the thread of the engine's loop

    def _arrived(self, event: WebhookEvent) -> None:
        task = event.task
        record = self._find(task.task_id)
        if self._is_repeated(task, record):
            self._display.repeated(task)
            self._done(event)
            return
        running = task.status is Status.PROCESSING
        self._remember(task.task_id, (task.status, task.percentage) if running else None)
        if running:
            self._show(_running(task, record))
            self._forward(event)
            self._done(event)
            return
        self._started += 1
        job = Job(
            self._target,
            recorded=record.request if record else {},
            n=self._started,
            task_id=task.task_id,
            age=record.age if record else None,
            task=None if self._confirms else task,
        )
        self._events[job] = event
        self._jobs.add(job)

    def _is_repeated(self, task: Task, record: Record | None) -> bool:
        """Return whether an event is a duplicate, or about a task whose end has been handled."""
        if task.task_id in self._seen and self._seen[task.task_id] in (None, (task.status, task.percentage)):
            return True
        if record is None or (record.ended or 0.0) >= self._began:
            return False  # another command saved it during this run, which has not reported it yet
        saved = record.path is not None or (self._target is None and record.status is Status.FINISHED)
        return saved or (record.status is Status.FAILED and task.status is not Status.FINISHED)

    def _remember(self, task_id: str, last: tuple[Status, float | None] | None) -> None:
        self._seen[task_id] = last
        self._seen.move_to_end(task_id)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def _handle(self, event: Event) -> None:
        """Handle an event of the run."""
        if isinstance(event, Downloading) and event.job in self._events:
            self._forward_once(event.job)
        elif isinstance(event, Ended):
            self._ended(event.job, event.result)

    def _stopping(self, downloads: int) -> None:
        if downloads or (self._forwarder and self._forwarder.left):
            self._display.stopping()

    def _ended(self, job: Job, result: Result) -> None:
        if result.task is not None:  # the service confirmed it, or there is no key to check it
            self._forward_once(job)
        event = self._events.pop(job)
        self._forwarded.discard(job)
        interrupted = result.exit_code >= ExitCode.SIGHUP
        if result.error is None or not result.resumable:
            self._journal.remove(event)
        else:
            self._seen.pop(event.task.task_id, None)  # handle another event about it
        self._done(event)
        if result.task is not None and not interrupted:
            self._ended_tasks[event.task.task_id] = result.exit_code
        self._show(result)
        if self._until is not None and len(self._ended_tasks) >= self._until:
            self._close()

    def _close(self) -> None:
        self._closed.set()
        self._jobs.closed = True

    def _show(self, result: Result) -> None:
        if self._stdout_error is not None:
            return
        try:
            self._display.update(result)
        except (BrokenPipeError, LocalFileError) as error:
            self._stdout_error = error
            self._close()

    def _done(self, event: WebhookEvent) -> None:
        self._bytes_done += len(event.body)

    def _forward_once(self, job: Job) -> None:
        if job not in self._forwarded:
            self._forwarded.add(job)
            self._forward(self._events[job])

    def _forward(self, event: WebhookEvent) -> None:
        if self._forwarder is not None:
            self._forwarder.put(event)

    def _problem_from_thread(self, message: str) -> None:
        self._run.workers.post(lambda: self._display.problem(message))

    def _find(self, task_id: str) -> Record | None:
        try:
            return self._history.find(task_id) if self._history else None
        except LocalFileError as error:
            self._display.problem(error.message)
            return None


def _running(task: Task, record: Record | None) -> Result:
    elapsed = time.time() - record.created if record else None
    request = record.request if record else {}
    return Result(task.status, task=task, task_id=task.task_id, request=request, elapsed=elapsed)
