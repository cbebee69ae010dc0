"""Passes events on to the observers that are still to become event handlers."""

from typing import Protocol

from flux_cli.engine import events
from flux_cli.engine.events import Event, Handler
from flux_cli.engine.job import Job, Result


class Observer(Protocol):
    """What the observers of a run have in common."""

    def submitted(self, job: Job) -> None:
        """Handle `Submitted`."""

    def waiting(self, job: Job) -> None:
        """Handle `Progress`."""

    def trouble(self, job: Job, message: str) -> None:
        """Handle `Retrying`."""

    def unrecorded(self, job: Job, message: str) -> None:
        """Handle `Unrecorded`."""

    def downloading(self, job: Job, received: int, total: int | None) -> None:
        """Handle `Downloading`."""

    def ended(self, job: Job, result: Result) -> None:
        """Handle `Ended`."""


def handler(observer: Observer) -> Handler:
    """Return a handler that calls the observer's methods."""

    def handle(event: Event) -> None:
        match event:
            case events.Submitted(job):
                observer.submitted(job)
            case events.Progress(job):
                observer.waiting(job)
            case events.Retrying(job, message):
                observer.trouble(job, message)
            case events.Unrecorded(job, message):
                observer.unrecorded(job, message)
            case events.Downloading(job, received, total):
                observer.downloading(job, received, total)
            case events.Ended(job, result):
                observer.ended(job, result)

    return handle
