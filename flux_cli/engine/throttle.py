"""How many submissions the service can take, learned from its responses. Pure: the caller passes the time.

There are two limits. `window` is for submissions without a response: it starts small and grows with each
acceptance, so that a service that fails from the start costs only a few submissions. A failure resets it to one.
`limit` is for all tasks in flight: a 429 lowers it to the number of running tasks, and it grows from there, slowly
at first.
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
"""How long to wait for the response to the next status check before anything is submitted."""


@dataclass
class Throttle:
    """The pace of one run's submissions.

    Attributes:
        ceiling: The most tasks in flight that the user allows.
        limit: The most tasks in flight now, between 1 and the ceiling.
        window: The most submissions without a response now, between 1 and the ceiling.
        quiet_until: Nothing is submitted before this time.
        failures: Consecutive submissions that failed because of the service, not because of their request.
        failed_checks: Consecutive status checks that failed; those in flight at one time count once.
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

    def check_failed(self, now: float, sent: float, retry_after: float = 0.0) -> float:
        """Note that a status check failed; return the seconds until the next one.

        Until then nothing is submitted, since a failing service may lose the response. After two minutes of
        failures submissions continue, since the cause may be the tasks in the request.
        """
        if sent > self._check_failed_at:
            self.failed_checks += 1
            self._check_failed_at = now
        if self._failing_since is None:
            self._failing_since = now
        pause = max(backoff(self.failed_checks), retry_after)
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

    def rate_limited(self, now: float, sent: float, running: int, retry_after: float) -> float:
        """Note a 429; return the seconds to wait, at least `retry_after`.

        `sent` is when the submission was sent: one from before the last slowdown does not count again. `running`
        counts the tasks that the service has accepted and not finished.
        """
        if sent > self._slowed_at:
            self.limit = max(1, min(self.limit, running))
        return self.unreachable(now, sent, retry_after)

    def unreachable(self, now: float, sent: float, retry_after: float = 0.0) -> float:
        """Note that a submission could not be sent; return the seconds to wait. Arguments: see `rate_limited`."""
        if sent > self._slowed_at:
            self._delays += 1
            self._slow_down(now)
        wait = max(backoff(max(1, self._delays)), retry_after)
        self.quiet_until = max(self.quiet_until, now + wait)
        return wait

    def failed(self, now: float, sent: float) -> None:
        """Note a failed submission whose reason may also affect the next one; `sent` is as in `rate_limited`."""
        if sent > self._slowed_at:
            self.failures += 1
            self._slow_down(now)
        self.quiet_until = max(self.quiet_until, now + backoff(max(1, self.failures)))

    def _slow_down(self, now: float) -> None:
        self.window, self._accepted, self._slowed_at = 1, 0, now
