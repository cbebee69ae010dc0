"""How often each fault has happened, for those that happen only so often."""

from collections.abc import Container

from flux_cli.sandbox.asked import Asked
from flux_cli.sandbox.faults import Stage

MAX_COUNTS = 10_000
"""The counts of the oldest are forgotten beyond this: memory is bounded, and a rehearsal needs only the newest."""


class Occurrences:
    """Counts faults by subject: a task, or for submissions a prompt."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def next(self, subject: str, asked: Asked, stage: Stage, known: Container[str]) -> tuple[str, int] | None:
        """Count and return the fault that happens now, with its number from 0; None when all goes well.

        Of several at one stage it is the first in the table that has not happened as often as was asked for. When
        nothing is left to happen, the counts start again, so that the same prompt can be rehearsed again.
        """
        names = [name for name in asked.at(stage) if name in known]
        for name in names:
            times = asked.argument(name, "TIMES")
            if times is None and name.endswith("rate-limit"):
                times = 1
            happened = self._counts.get((subject, name), 0)
            if times is None or happened < int(times):
                self._counts[subject, name] = happened + 1
                self._forget_oldest()
                return name, happened
        if stage is Stage.SUBMISSION:
            for name in names:
                self._counts.pop((subject, name), None)
        return None

    def _forget_oldest(self) -> None:
        while len(self._counts) > MAX_COUNTS:
            del self._counts[next(iter(self._counts))]
