"""How long to wait before a retry: exponential backoff with jitter."""

import random

BACKOFF_BASE, BACKOFF_MAX = 0.5, 15.0
"""The first step and the longest one, in seconds."""


def backoff(failures: int, chance: float | None = None) -> float:
    """Return the seconds to wait after this many failures in a row: exponential, with jitter.

    `chance` (0 to 1) replaces the random number. The result lies between half and all of the exponential step.
    """
    step = min(BACKOFF_MAX, BACKOFF_BASE * 2.0 ** min(failures - 1, 10))
    return step * (0.5 + 0.5 * (random.random() if chance is None else chance))  # noqa: S311 - no secret
