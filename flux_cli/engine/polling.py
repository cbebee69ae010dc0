"""When to check a task's status next. Pure: the caller reads the clock and sleeps.

Checks are frequent near the expected end of a task and rare before it. The constants were chosen with
`tests/benchmarks/lag.py`, which shows what each costs in requests and in lag.
"""

from dataclasses import dataclass

FIRST_SECONDS = 0.5
"""No task was ever observed to end sooner. The first response shows whether there are percentages."""

NEAR_SECONDS = 0.2
"""The interval for a task that should be finished by now."""

FAR_SECONDS = 3.0
"""The longest interval while a percentage rises: the bar has to move."""

STALE_SHARE = 0.15
"""A task whose percentage does not change is checked less and less often: it may hang at 100 %."""

BLIND_SECOND = 1.33
"""Without percentages the second check comes at this age: hardly any picture takes less time."""

BLIND_START, BLIND_SHARE, BLIND_SHORT, BLIND_TAIL, BLIND_MAX = 0.195, 0.1, 1.15, 0.05, 10.0
"""Later intervals are max(min(START + SHARE * age, SHORT), TAIL * age), at most MAX."""


@dataclass
class Pace:
    """What is known of a task's progress, and from that, when to check it next.

    Ages are in seconds since the submission, or since the first check of a task submitted elsewhere.
    """

    first_age: float | None = None
    first_percentage: float = 0.0
    last_age: float = 0.0
    last_percentage: float | None = None
    changed_age: float = 0.0
    """The age at which the percentage got its present value."""

    def update(self, age: float, percentage: float | None) -> None:
        """Note a response: the task is still running at this age with this percentage."""
        if percentage is not None and self.first_age is None and percentage > 0:
            self.first_age, self.first_percentage = age, percentage
        if percentage != self.last_percentage:
            self.changed_age = age
        self.last_age, self.last_percentage = age, percentage

    def delay(self, *, known_start: bool = True) -> float:
        """Return the seconds from the last response until the next check.

        With `known_start` false the task may be older than its age, so only the rate between responses counts.
        """
        remaining = self._remaining(known_start)
        if remaining is None:
            return _blind_gap(self.last_age)
        # Half of the remaining time, since the estimate improves; the last step covers all of it.
        gap = remaining if remaining < 3 * NEAR_SECONDS else remaining / 2 + NEAR_SECONDS
        stale = STALE_SHARE * (self.last_age - self.changed_age)
        return min(FAR_SECONDS, max(NEAR_SECONDS, gap, stale))

    def _remaining(self, known_start: bool) -> float | None:
        """Return the estimated seconds to 100 %, or None if the percentages do not allow an estimate."""
        if self.last_percentage is None or self.first_age is None:
            return None
        gained, took = self.last_percentage - self.first_percentage, self.last_age - self.first_age
        if known_start:
            gained, took = self.last_percentage, self.last_age
        if gained <= 0 or took <= 0:
            return None
        return (100.0 - self.last_percentage) * took / gained


def _blind_gap(age: float) -> float:
    """Return the seconds until the next check of a fixed schedule, so that slow responses do not shift it."""
    if BLIND_TAIL * age >= BLIND_MAX:
        return BLIND_MAX
    due = BLIND_SECOND
    while due <= age + BLIND_START / 2:
        due += max(min(BLIND_START + BLIND_SHARE * due, BLIND_SHORT), BLIND_TAIL * due)
    return due - age
