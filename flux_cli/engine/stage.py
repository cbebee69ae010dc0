"""A stage on a job's way from request to file: submission, status checks, download."""

from collections.abc import Callable
from dataclasses import dataclass

from flux_cli.engine.endings import Endings
from flux_cli.engine.outbox import Outbox
from flux_cli.engine.queues import Queues
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.throttle import Throttle
from flux_cli.engine.workers import Workers


@dataclass(frozen=True)
class Parts:
    """What the stages of one run share. `clock` returns seconds of a monotonic clock."""

    settings: RunSettings
    clock: Callable[[], float]
    workers: Workers
    queues: Queues
    outbox: Outbox
    endings: Endings
    throttle: Throttle


class Stage:
    """Starts the operations of one stage, and moves each job to the queue of the next one, or ends it.

    Only `Operation.work` runs in a worker; everything else runs in the thread of the run.
    """

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._clock = parts.clock
        self._workers = parts.workers
        self._queues = parts.queues
        self._outbox = parts.outbox
        self._endings = parts.endings
        self._throttle = parts.throttle
