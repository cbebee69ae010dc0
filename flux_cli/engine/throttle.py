"""How much a service takes at a time, found out as it answers. Pure: the clock's readings are handed in.

Two bounds. `window` is for submissions whose answer is still out: it starts small and grows with each acceptance,
so that a service that fails from the start fails a few submissions and not sixty; a failure takes it back to one.
`limit` is for all tasks in flight: a service that asks to slow down has as many as it wants, and from there the
limit grows, slowly first.
"""

from dataclasses import dataclass, field

from flux_cli.api.backoff import backoff

FIRST_WINDOW = 8
"""Submissions that go out before the first answer is there."""
STEP = 0.05
"""The n-th acceptance after a refusal raises the limit by n steps: a try for one more after 6, for 30 after 35."""
FAILING_SECONDS = 120.0
"""How long looks that fail keep submissions back."""
CHECK_GRACE_SECONDS = 1.0
"""How long the answer to the next look is waited for before something is submitted."""


@dataclass
class Throttle:
    """What the answers to submissions say of the pace that the service bears.

    Attributes:
        ceiling: The most tasks in flight that are wanted.
        limit: The most tasks in flight now, between 1 and the ceiling.
        window: The most unanswered submissions now, between 1 and the ceiling.
        quiet_until: Nothing is submitted before this time.
        failures: Times in a row that submissions failed in a way that tells of the service, not of a request.
        failed_checks: Consecutive failed status checks; simultaneous ones count once.
    """

    ceiling: int
    limit: float = field(init=False)
    window: int = field(init=False)
    quiet_until: float = 0.0
    failures: int = 0
    failed_checks: int = 0
    _delays: int = 0
    _failing_since: float | None = None
    _accepted: int = 0
    _slowed_at: float = float("-inf")
    _check_failed_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.limit = self.ceiling
        self.window = min(self.ceiling, FIRST_WINDOW)

    def admits(self, in_flight: int, unanswered: int, now: float) -> bool:
        """Say whether one more may be submitted beside so many tasks in flight, so many of them unanswered yet."""
        return now >= self.quiet_until and in_flight < int(self.limit) and unanswered < self.window

    def check_failed(self, now: float, sent: float, asked: float = 0.0) -> float:
        """Note that a status check failed; return the seconds until the next one.

        A service in trouble gets no submissions, whose outcome could be lost with the answer. After two minutes
        that is no longer taken for a sign, since it may lie with the tasks that were asked for.
        """
        if sent > self._check_failed_at:
            self.failed_checks += 1
            self._check_failed_at = now
        if self._failing_since is None:
            self._failing_since = now
        pause = max(backoff(self.failed_checks), asked)
        if now - self._failing_since <= FAILING_SECONDS:
            self.quiet_until = max(self.quiet_until, now + pause + CHECK_GRACE_SECONDS)
            self.window = 1
        return pause

    def checked(self) -> None:
        """Note that a status check succeeded."""
        self.failed_checks, self._failing_since = 0, None

    def accepted(self, running: int) -> None:
        """Note that a submission was accepted; `running` tasks the service bears, then, this one included."""
        self.failures = self._delays = 0
        self._accepted += 1
        self.window = min(self.ceiling, self.window + 1)
        self.limit = min(self.ceiling, max(running, self.limit + STEP * self._accepted))

    def refused(self, now: float, sent: float, running: int, asked: float) -> float:
        """Note that the service asked to slow down; return the seconds to wait.

        Args:
            now: The time.
            sent: When that submission went out. What was sent before the last slowing down says nothing new.
            running: How many tasks the service has accepted and not finished.
            asked: How many seconds the service asks for.
        """
        if sent > self._slowed_at:
            self.limit = max(1, min(self.limit, running))
        return self.unreachable(now, sent, asked)

    def unreachable(self, now: float, sent: float, asked: float = 0.0) -> float:
        """Note that a submission could not be sent; return the seconds to wait. Arguments as above."""
        if sent > self._slowed_at:
            self._delays += 1
            self._slow_down(now)
        wait = max(backoff(max(1, self._delays)), asked)
        self.quiet_until = max(self.quiet_until, now + wait)
        return wait

    def failed(self, now: float, sent: float) -> None:
        """Note that a submission failed for good in a way that the next one may meet too; `sent` as above."""
        if sent > self._slowed_at:
            self.failures += 1
            self._slow_down(now)
        self.quiet_until = max(self.quiet_until, now + backoff(max(1, self.failures)))

    def _slow_down(self, now: float) -> None:
        self.window, self._accepted, self._slowed_at = 1, 0, now
