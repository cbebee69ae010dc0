"""The base class of a reporter's parts."""

from flux_cli.engine.events import Event


class Part:
    """One of the things that a reporter does with events."""

    def handle(self, event: Event) -> None:
        """Handle one event."""

    def close(self) -> None:
        """Finish at the end of the run."""
