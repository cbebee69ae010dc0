"""A scripted client, a scripted saver and a manual clock, to drive the engine's loop without threads or time."""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from flux_cli.api.client import Client, UnknownTaskError
from flux_cli.api.request import Body
from flux_cli.api.task import Status, Task, read_task
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine import events
from flux_cli.engine.events import Event
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.engine.run import Run
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.store import Accepted, Change, Closed, Finished, Intent, Postponed
from flux_cli.engine.workers import Operation, Workers
from flux_cli.errors import ExitCode, FluxError
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saved, Saver, Transfer

_T = TypeVar("_T")


class Clock:
    """Time that moves only when the loop waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ManualWorkers(Workers):
    """Does an operation's work when it is started, and reports it when the clock has reached its end."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.seconds = 0.0
        """How long the next operation takes; set by the scripted client while it works."""
        self.limit = 1_000_000
        """How many threads there can be."""
        self.started: list[Operation] = []
        self._busy = 0

    def reserve(self, count: int) -> int:
        self._starved_since = None
        return min(count, self.limit - self._busy)

    def start(self, operation: Operation) -> None:
        self.started.append(operation)
        self._busy += 1
        self.seconds = 0.1
        handle: Callable[[Any], None]
        try:
            value, handle = operation.work(operation), operation.done
        except Exception as error:
            value, handle = error, operation.failed

        def report() -> None:
            self._busy -= 1
            handle(value)

        self._at(self.seconds, report)

    def post(self, report: Callable[[], None]) -> None:
        self._at(0.0, report)

    def wait(self, seconds: float) -> None:
        """Move the clock to the next report or by `seconds`, and handle every report that is due."""
        if self._due and self._due[0][0] <= self._clock.now + seconds:
            self._clock.now = max(self._clock.now, self._due[0][0])
        else:
            self._clock.now += seconds
        while self._due and self._due[0][0] <= self._clock.now:
            heapq.heappop(self._due)[2]()

    @property
    def reports_waiting(self) -> bool:
        return bool(self._due) and self._due[0][0] <= self._clock.now

    def stop(self) -> None:
        self.stopped.set()

    def _at(self, seconds: float, report: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock.now + seconds, next(self._order), report))


Step = Exception | str | Mapping[str, object]
"""What a scripted call does: raise, return a task ID, or return a response about a task."""


@dataclass
class ScriptedClient:
    """Answers each call with the next step of its script; the last step repeats.

    `submissions` is one script for all submissions, `fetches` one for each task, or for all under "".
    """

    submissions: Sequence[Step] = ()
    fetches: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    seconds: float = 0.1
    clock: Clock = field(default_factory=Clock)
    sent: list[tuple[float, Body]] = field(default_factory=list)
    checks: list[tuple[float, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = ManualWorkers(self.clock)
        self._numbers = itertools.count(1)
        self._fetched: dict[str, int] = {}

    def submit(self, body: Body, dispatch: Dispatch, seconds: float = 0.0) -> str:
        assert not dispatch.sent  # each request has its own, so that one that never left can be told
        self.workers.seconds = self.seconds
        step = _step(self.submissions, len(self.sent))
        self.sent.append((self.clock.now, body))
        if not isinstance(step, NotSentError):
            dispatch.send()
        if isinstance(step, Exception):
            raise step
        return str(step or f"task-{next(self._numbers)}")

    def fetch_many(self, task_ids: Sequence[str], seconds: float = 0.0) -> dict[str, Task | FluxError]:
        self.workers.seconds = self.seconds
        self.checks.append((self.clock.now, list(task_ids)))
        found: dict[str, Task | FluxError] = {}
        for task_id in task_ids:
            script = self.fetches.get(task_id) or self.fetches.get("") or [finished()]
            number = self._fetched[task_id] = self._fetched.get(task_id, -1) + 1
            step = _step(script, number)
            if isinstance(step, UnknownTaskError):
                found[task_id] = step
            elif isinstance(step, Exception):
                raise step
            else:
                found[task_id] = read_task(cast(Mapping[str, object], step), task_id)
        return found


def _step(script: Sequence[_T], number: int) -> _T | None:
    return script[min(number, len(script) - 1)] if script else None


def finished(url: str = "https://cdn.test/x.png") -> Mapping[str, object]:
    return {"status": "finished", "image_url": url}


def running(percentage: float | None = None, **fields: object) -> Mapping[str, object]:
    return {"status": "processing", "percentage": percentage, **fields}


OnBytes = Callable[[int, int | None], None]
Save = Exception | Saved | Callable[[OnBytes], None] | None
"""What an attempt to save does: raise, return, or report bytes; None for the default."""


@dataclass
class ScriptedSaver:
    """Saves nothing: each attempt does the next step of the script, and without one it succeeds."""

    client: ScriptedClient
    script: Sequence[Save] = ()
    attempts: list[tuple[float, str | None]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def save(self, task: Task, transfer: Transfer, on_bytes: OnBytes) -> Saved:
        step = _step(self.script, len(self.attempts))
        self.attempts.append((self.client.clock.now, task.image_url))
        self.numbers.append(transfer.n)
        if callable(step):
            step(on_bytes)
        else:
            on_bytes(0, 100)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, Saved) else Saved(Path(f"{task.task_id}.png"), sha256="0" * 64)


@dataclass
class MemoryStore:
    """Keeps the changes; raises the errors of its script first, one per commit."""

    script: list[Exception | None] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    commits: int = 0

    def commit(self, changes: Sequence[Change]) -> None:
        self.commits += 1
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        for change in changes:
            if change.job.number is None:
                change.job.number = len(self.changes) + 1
        self.changes += changes

    def state(self, job: Job) -> str:
        """Return what the changes say of a job, as the history would."""
        state = "none"
        for change in self.changes:
            if change.job is job:
                match change:
                    case Intent():
                        state = Status.UNKNOWN
                    case Accepted():
                        state = Status.PROCESSING
                    case Postponed():
                        state = Status.UNSENT
                    case Finished():
                        state = Status.FINISHED
                    case Closed(result=result) if result.status is not Status.PROCESSING:
                        state = "saved" if result.path or result.content is not None else result.status
        return str(state)


@dataclass
class Outcome:
    """What a run did."""

    code: ExitCode | None
    error: BaseException | None
    events: list[Event]
    store: MemoryStore
    client: ScriptedClient
    saver: ScriptedSaver
    seconds: float
    run: Run

    @property
    def results(self) -> list[Result]:
        """How the jobs ended, in that order."""
        return [event.result for event in self.events if isinstance(event, events.Ended)]

    @property
    def accepted(self) -> set[str]:
        """The task IDs that were committed."""
        return {change.task_id for change in self.store.changes if isinstance(change, Accepted)}

    def names(self) -> list[str]:
        """Return the names of the events, without progress."""
        quiet = events.Progress, events.Downloading
        return [type(event).__name__ for event in self.events if not isinstance(event, quiet)]


def new_jobs(count: int = 1, **fields: Any) -> list[Job]:
    target = Target(Path("pictures"))
    return [
        Job(target, request={"prompt": f"p{n}"}, recorded={"prompt": f"p{n}"}, n=n, **fields)
        for n in range(1, count + 1)
    ]


def known_jobs(*task_ids: str) -> list[Job]:
    return [Job(Target(Path("pictures")), task_id=task_id, number=n) for n, task_id in enumerate(task_ids, 1)]


def new_run(
    client: ScriptedClient,
    settings: RunSettings | None = None,
    saver: ScriptedSaver | None = None,
    store: MemoryStore | None = None,
    handle: Callable[[Event], None] = lambda _: None,
) -> Run:
    return Run(
        cast(Client, client),
        cast(Saver, saver),
        store,
        handle,
        settings or RunSettings(),
        workers=client.workers,
        clock=client.clock,
    )


def drive(
    jobs: Sequence[Job],
    client: ScriptedClient | None = None,
    settings: RunSettings | None = None,
    *,
    saves: Sequence[Save] = (),
    store: MemoryStore | None = None,
    handle: Callable[[Event], None] = lambda _: None,
    on_stopping: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run jobs to their ends, and return everything that happened."""
    client = client or ScriptedClient()
    saver, store = ScriptedSaver(client, saves), store or MemoryStore()
    seen: list[Event] = []

    def note(event: Event) -> None:
        seen.append(event)
        handle(event)

    for job in jobs:
        job.began = client.clock.now
    began = client.clock.now
    run = new_run(client, settings, saver, store, note)
    run.on_stopping = on_stopping
    code, error = None, None
    try:
        code = run.run(jobs)
    except BaseException as raised:
        error = raised
    return Outcome(code, error, seen, store, client, saver, client.clock.now - began, run)
