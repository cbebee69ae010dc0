"""How much load the service takes, learned from its responses. Pure: the clock's readings are passed in.

There are two limits. `window` is for submissions without a response: it starts small and grows with each
acceptance, so that a service that fails from the start fails a few submissions and not sixty; a failure resets it
to one. `limit` is for all tasks in flight: a 429 lowers it to what is running, and it grows from there, slowly at
first.
"""

from dataclasses import dataclass, field

from flux_cli.api.backoff import backoff

FIRST_WINDOW = 8
"""Submissions that are sent before the first response arrives."""
STEP = 0.05
"""The n-th acceptance after a 429 raises the limit by n steps: by one after 6 acceptances, by 30 after 35."""
FAILING_SECONDS = 120.0
"""How long failing status checks hold submissions back."""
CHECK_GRACE_SECONDS = 1.0
"""How long the response to the next status check is waited for before something is submitted."""


@dataclass
class Throttle:
    """The pace of one run's submissions.

    Attributes:
        ceiling: The most tasks in flight that the user wants.
        limit: The most tasks in flight now, between 1 and the ceiling.
        window: The most submissions without a response now, between 1 and the ceiling.
        quiet_until: Nothing is submitted before this time.
        failures: Submissions in a row that failed because of the service, not because of their request.
        failed_checks: Status checks in a row that failed; those in flight at one time count once.
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
        """Return whether one more may be submitted; `unanswered` of those in flight have no response yet."""
        return now >= self.quiet_until and in_flight < int(self.limit) and unanswered < self.window

    def check_failed(self, now: float, sent: float, asked: float = 0.0) -> float:
        """Note that a status check failed; return the seconds until the next one.

        A failing service gets no submissions: their outcome could be lost with the response. After two minutes a
        failure no longer counts as a sign of that, since the cause may be the tasks in the request.
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
        """Note that a submission was accepted; `running` counts the running tasks, this one included."""
        self.failures = self._delays = 0
        self._accepted += 1
        self.window = min(self.ceiling, self.window + 1)
        self.limit = min(self.ceiling, max(running, self.limit + STEP * self._accepted))

    def refused(self, now: float, sent: float, running: int, asked: float) -> float:
        """Note a 429; return the seconds to wait.

        Args:
            now: The time.
            sent: When that submission was sent. One sent before the last slowdown says nothing new.
            running: How many tasks the service has accepted and not finished.
            asked: The seconds that the service asks for.
        """
        if sent > self._slowed_at:
            self.limit = max(1, min(self.limit, running))
        return self.unreachable(now, sent, asked)

    def unreachable(self, now: float, sent: float, asked: float = 0.0) -> float:
        """Note that a submission could not be sent; return the seconds to wait. Arguments as for `refused`."""
        if sent > self._slowed_at:
            self._delays += 1
            self._slow_down(now)
        wait = max(backoff(max(1, self._delays)), asked)
        self.quiet_until = max(self.quiet_until, now + wait)
        return wait

    def failed(self, now: float, sent: float) -> None:
        """Note that a submission failed for a reason that may hold for the next one; `sent` is as in `refused`."""
        if sent > self._slowed_at:
            self.failures += 1
            self._slow_down(now)
        self.quiet_until = max(self.quiet_until, now + backoff(max(1, self.failures)))

    def _slow_down(self, now: float) -> None:
        self.window, self._accepted, self._slowed_at = 1, 0, now
