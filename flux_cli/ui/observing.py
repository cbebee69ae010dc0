"""Turns the calls of a run's observer into events, until the run emits events itself."""

import contextlib

from flux_cli.engine.events import (
    Downloading,
    Ended,
    Handler,
    NotDeliveredError,
    Progress,
    Retrying,
    Submitted,
    Unrecorded,
)
from flux_cli.engine.job import Job, Result


class EventObserver:
    """An observer that calls a handler of events."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle

    def submitted(self, job: Job) -> None:
        """Pass on."""
        self._handle(Submitted(job))

    def waiting(self, job: Job) -> None:
        """Pass on."""
        self._handle(Progress(job))

    def trouble(self, job: Job, message: str) -> None:
        """Pass on."""
        self._handle(Retrying(job, message))

    def unrecorded(self, job: Job, message: str) -> None:
        """Pass on."""
        self._handle(Unrecorded(job, message))

    def downloading(self, job: Job, received: int, total: int | None) -> None:
        """Pass on."""
        self._handle(Downloading(job, received, total))

    def ended(self, job: Job, result: Result) -> None:
        """Pass on."""
        with contextlib.suppress(NotDeliveredError):
            self._handle(Ended(job, result))
