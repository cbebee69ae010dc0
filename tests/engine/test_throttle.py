"""The pace of submissions: how it slows down, and how it recovers."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.engine.throttle import CHECK_GRACE_SECONDS, FIRST_WINDOW, Throttle
from tests import lean
from tests.conftest import KEY, Cli

EVER = 10.0**9


def accept(throttle: Throttle, times: int, running: int = 0) -> None:
    for _ in range(times):
        throttle.accepted(running)


def test_few_submissions_before_the_first_response_then_more() -> None:
    """A service that fails from the start affects a few rows, not sixty."""
    throttle = Throttle(ceiling=64)
    assert throttle.admits(in_flight=FIRST_WINDOW - 1, unanswered=FIRST_WINDOW - 1, now=0.0)
    assert not throttle.admits(in_flight=FIRST_WINDOW, unanswered=FIRST_WINDOW, now=0.0)
    accept(throttle, 1)
    assert throttle.admits(in_flight=FIRST_WINDOW, unanswered=FIRST_WINDOW, now=0.0)
    assert not throttle.admits(in_flight=FIRST_WINDOW, unanswered=FIRST_WINDOW + 1, now=0.0)
    accept(throttle, 59)
    assert throttle.admits(in_flight=63, unanswered=63, now=0.0)
    assert not throttle.admits(in_flight=64, unanswered=0, now=0.0)


def test_429_sets_the_limit() -> None:
    """Later rejections of submissions that were in flight change nothing more."""
    throttle = Throttle(ceiling=64)
    wait = throttle.rate_limited(now=10.0, sent=9.0, running=5, retry_after=3.0)
    assert wait == 3.0
    assert not throttle.admits(in_flight=0, unanswered=0, now=12.9)
    assert throttle.admits(in_flight=4, unanswered=0, now=EVER)
    assert not throttle.admits(in_flight=4, unanswered=1, now=EVER)  # one try at first
    assert not throttle.admits(in_flight=5, unanswered=0, now=EVER)
    throttle.rate_limited(now=10.1, sent=9.5, running=2, retry_after=0.0)
    assert throttle.admits(in_flight=4, unanswered=0, now=EVER)


@pytest.mark.parametrize(("acceptances", "more"), [(5, 0), (6, 1), (35, 31), (60, 59)])
def test_the_limit_grows_slowly_first(acceptances: int, more: int) -> None:
    """One more after six acceptances, thirty more after thirty-five, and never more than wanted."""
    throttle = Throttle(ceiling=64)
    accept(throttle, 30)  # which does not count
    throttle.rate_limited(now=0.0, sent=0.0, running=5, retry_after=0.0)
    accept(throttle, acceptances)
    assert int(throttle.limit) == 5 + more


def test_what_the_service_has_taken_it_takes_again() -> None:
    """The limit is never below the tasks that it was seen to run at once."""
    throttle = Throttle(ceiling=64)
    throttle.rate_limited(now=0.0, sent=0.0, running=0, retry_after=0.0)
    assert throttle.limit == 1
    throttle.accepted(running=7)
    assert throttle.limit == 7


def test_failures_of_one_burst_count_once() -> None:
    """One try at a time after a failure; an acceptance forgives them all."""
    throttle = Throttle(ceiling=64)
    for now in (1.0, 1.1, 1.2):
        throttle.failed(now, sent=0.5)
    assert throttle.failures == 1
    assert not throttle.admits(in_flight=0, unanswered=0, now=1.4)
    assert throttle.admits(in_flight=40, unanswered=0, now=EVER)
    assert not throttle.admits(in_flight=40, unanswered=1, now=EVER)
    throttle.failed(now=5.0, sent=4.0)
    assert throttle.failures == 2
    throttle.accepted(running=1)
    assert throttle.failures == 0


def test_failed_checks_stop_submissions() -> None:
    """Until it can, or until it is clear that it will not for these tasks."""
    throttle = Throttle(ceiling=64)
    now = 100.0
    for _ in range(8):
        pause = throttle.check_failed(now, sent=now - 0.5)
        assert not throttle.admits(in_flight=0, unanswered=0, now=now + pause + CHECK_GRACE_SECONDS / 2)
        now += pause
    throttle.checked()
    assert throttle.failed_checks == 0
    throttle.check_failed(1000.0, sent=999.0)
    assert not throttle.admits(in_flight=1, unanswered=1, now=EVER)
    throttle.check_failed(1120.0, sent=1000.0)
    assert not throttle.admits(in_flight=0, unanswered=0, now=1120.0)
    throttle.check_failed(1125.0, sent=1120.0)
    assert throttle.admits(in_flight=0, unanswered=0, now=1120.0 + 5)


@pytest.mark.parametrize("what", "failed unreachable rate_limited check_failed".split())
def test_pauses_double_with_each_failure(what: str) -> None:
    """One that was in flight at the last failure adds nothing. After a success they begin again."""
    throttle, grace = Throttle(ceiling=64), CHECK_GRACE_SECONDS if what == "check_failed" else 0.0
    note = getattr(throttle, what)
    if what == "rate_limited":
        note = partial(note, running=1, retry_after=0.0)
    for now, step in ((10.0, 0.5), (20.0, 1.0), (30.0, 2.0), (40.0, 4.0)):
        note(now, sent=now - 10.0 + 0.1)
        note(now, sent=now)
        assert step / 2 <= throttle.quiet_until - now - grace <= step
    throttle.accepted(running=1)
    throttle.checked()
    note(50.0, sent=45.0)
    assert 0.25 <= throttle.quiet_until - 50.0 - grace <= 0.5


@given(
    st.integers(1, 100),
    st.lists(
        st.tuples(st.sampled_from("accepted refused unreachable failed checks".split()), st.integers(0, 100))
    ),
)
def test_any_history_of_the_throttle(ceiling: int, story: list[tuple[str, int]]) -> None:
    """The bounds stay between one and what is wanted."""
    throttle = Throttle(ceiling)
    for now, (what, number) in enumerate(story):
        if what == "accepted":
            throttle.accepted(min(number, ceiling))
        elif what == "refused":
            throttle.rate_limited(now, now - number, min(number, ceiling), 0.0)
        elif what == "unreachable":
            throttle.unreachable(now, now - number)
        elif what == "failed":
            throttle.failed(now, now - number)
        else:
            throttle.check_failed(now, now - number)
        assert 1 <= throttle.limit <= ceiling
        assert 1 <= throttle.window <= ceiling
    assert throttle.admits(in_flight=0, unanswered=0, now=EVER)


@pytest.mark.slow
def test_service_with_a_limit_of_five(cli: Cli) -> None:
    """429 for each task beyond the limit: all rows finish, with fewer rejected submissions than accepted ones."""
    cli.env["APIFRAME_API_KEY"] = KEY
    (cli.cwd / "rows.txt").write_text("".join(f"kite {number}\n" for number in range(50)))
    with lean.running(0.3, size=100, most_at_once=5) as url:
        done = cli("batch", "rows.txt", "-o", "out", "--concurrency", "40", "--api-url", url)
        counts = lean.counts(url)
    assert done.code == 0, done.stderr
    assert counts["picture"] == len(done.lines) == 50
    assert counts["/flux-imagine"] == 50 + counts["429"]
    assert 0 < counts["429"] < 50
