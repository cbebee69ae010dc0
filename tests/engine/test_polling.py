"""When to check next: simulated tasks with a clock of their own stay within the promised lag and requests."""

import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.backoff import BACKOFF_MAX, backoff
from flux_cli.engine.polling import (
    BLIND_MAX,
    BLIND_SECOND,
    FAR_SECONDS,
    FIRST_SECONDS,
    Pace,
)

LENGTHS = (2.4, 5.7, 10.3, 20.6)
ROUND_TRIP = 0.01
SAVING_SECONDS = 0.03
"""From the response that a task is finished to the whole file, as measured by `tests/benchmarks/lag.py`."""

Percentage = Callable[[float], float | None]
"""The percentage that the service gives after this share of a task's time."""


def run(seconds: float, percentage: Percentage, *, late: float = 0.0) -> tuple[float, int]:
    """Wait for a simulated task; return its lag until it is saved, and the requests, the submission included."""
    pace, age, requests = Pace(), FIRST_SECONDS + late, 1
    while True:
        requests += 1
        done = age + ROUND_TRIP / 2 >= seconds
        said = percentage((age + ROUND_TRIP / 2) / seconds)
        age += ROUND_TRIP
        if done:
            return age + SAVING_SECONDS - seconds, requests
        pace.update(age, said)
        age += pace.delay()


def around(nominal: float) -> list[float]:
    """Return lengths close to the nominal one, so that none is in step with the asking by chance."""
    return [nominal + offset / 100 for offset in range(-30, 31, 3)]


def whole(share: float) -> float:
    """Rise evenly, in whole percent, and never say 100 too early."""
    return min(99, int(100 * share))


def nothing(_: float) -> None:
    """Say nothing."""


@pytest.mark.parametrize("nominal", LENGTHS)
def test_with_a_percentage_that_rises_evenly(nominal: float) -> None:
    """The mean lag is at most 0.3 s, with at most 5 + 0.75·T requests."""
    lags, requests = zip(*(run(seconds, whole, late=seconds % 0.03) for seconds in around(nominal)), strict=True)
    assert statistics.mean(lags) <= 0.2
    assert run(nominal, whole)[0] <= 0.3
    assert max(requests) <= 5 + 0.75 * nominal


@pytest.mark.parametrize("nominal", LENGTHS)
@pytest.mark.parametrize("said", [nothing, lambda _: 0.0, lambda _: None])
def test_without_a_usable_percentage(nominal: float, said: Percentage) -> None:
    """The mean lag is at most 0.15 s + 5 % of T, with at most 8 + T requests."""
    lags, requests = zip(*(run(seconds, said, late=seconds % 0.03) for seconds in around(nominal)), strict=True)
    assert statistics.mean(lags) <= 0.15 + 0.05 * nominal
    assert run(nominal, said)[0] <= 0.15 + 0.05 * nominal
    assert max(requests) <= 8 + nominal


@pytest.mark.parametrize(
    "said",
    [
        lambda share: 100 * share**2,
        lambda share: 100 * share**0.5,
        lambda share: 99 if share > 0.1 else 50,
        lambda _: 100.0,
        lambda share: 50 if share < 0.9 else 10,
        lambda share: 100 - 1000 * share,
        lambda share: None if int(share * 20) % 2 else 100 * share,
    ],
    ids="slow-first fast-first hangs-at-99 hangs-at-100 falls-back falls now-and-then".split(),
)
@pytest.mark.parametrize("seconds", [3.0, 30.0, 300.0])
def test_percentages_that_lie_cost_little(said: Percentage, seconds: float) -> None:
    """Wrong percentages cause a limited number of extra checks and a limited delay."""
    lag, requests = run(seconds, said)
    assert requests <= 10 + seconds
    assert lag <= max(FAR_SECONDS, BLIND_MAX) + 1


@pytest.mark.parametrize(
    ("responses", "known_start", "delay"),
    [
        ([(0.6, 90)], True, 0.2),
        ([(0.5, 50)], True, 0.5),  # the expected end
        ([(0.7, 50)], True, 0.55),  # beyond half of the way
        ([(10, 10)], True, 3.0),
        ([(2, 100)], True, 0.2),
        ([(1, 99), (9, 99)], True, 1.2),
        ([(0, 20), (2, 60)], False, 1.2),
        ([(0, 1), (2, 3)], False, 3.0),
        ([(0, 0), (2, 20), (3, 40)], False, 1.7),  # 0 % may be a placeholder
        *(([(age, percentage)], True, 1.33 - age) for age, percentage in ((0, 50), (1, 0), (1, None))),
        ([(1, 50)], False, 1.33 - 1),
        ([(0.5, 60), (1, 20)], False, 1.33 - 1),
        ([(0.5, 20), (1, 20)], False, 1.33 - 1),
        ([(1.22, None)], True, 1.33 - 1.22),
        ([(1.24, None)], True, 1.33 + 0.328 - 1.24),  # a slow response came just before the next check
    ],
)
def test_the_delay(responses: list[tuple[float, float | None]], known_start: bool, delay: float) -> None:
    """Half of the expected time, all of it near the end; without a usable percentage the fixed schedule."""
    pace = Pace()
    for age, percentage in responses:
        pace.update(age, percentage)
    assert (pace.delay() if known_start else pace.delay(known_start=False)) == pytest.approx(delay)


def test_the_schedule_without_percentages() -> None:
    """The pauses grow to 1.15 s, then to 5 % of the age, and to 10 s."""
    pace, age = Pace(), BLIND_SECOND
    while age < 250:
        pace.update(age, None)
        expected = min(max(min(0.195 + 0.1 * age, 1.15), 0.05 * age), 10)
        assert pace.delay() == pytest.approx(expected)
        age += expected
    pace.update(200, None)
    assert pace.delay() == 10


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 100)), min_size=1, max_size=30), st.booleans()
)
def test_the_delay_is_always_sane(responses: list[tuple[float, float | None]], known_start: bool) -> None:
    """Never immediately, and never later than the longest interval."""
    pace = Pace()
    for age, percentage in responses:
        pace.update(age, percentage)
        assert 0.05 <= pace.delay(known_start=known_start) <= max(FAR_SECONDS, BLIND_MAX)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_backoff_grows_with_jitter_and_is_bounded(failures: int, chance: float) -> None:
    """Between half and all of a step that doubles up to 15 s."""
    step = min(BACKOFF_MAX, 0.5 * 2 ** min(failures - 1, 10))
    assert step / 2 <= backoff(failures, chance) <= step
    assert [backoff(number, 1.0) for number in range(1, 8)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert len({backoff(failures) for _ in range(9)}) > 1
