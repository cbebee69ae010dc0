"""The queues: which tasks one status check covers, when something is due, and what is counted."""

from pathlib import Path

import pytest

from flux_cli.engine.job import Job
from flux_cli.engine.queues import GATHER_SECONDS, Queues, Source
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Transfer
from tests.engine.kit import known_jobs

NOW = 100.0


def due_at(*times: float, attempts: int = 0) -> Queues:
    """Return queues with a running task for each time at which a status check is due."""
    queues = Queues()
    for job, at in zip(known_jobs(*map(str, range(len(times)))), times, strict=True):
        job.attempts = attempts
        queues.running[job] = at
    return queues


@pytest.mark.parametrize(
    ("times", "checked"),
    [
        ((), []),
        ((NOW + 0.01,), []),
        ((NOW,), [0]),
        ((NOW + 9, NOW + GATHER_SECONDS, NOW, NOW - 1, NOW), [3, 2, 4, 1]),
        ((*[NOW] * 19, NOW + 9), range(19)),
        ((*[NOW] * 19, NOW + 9, NOW + 9), []),  # more may come for this request
        ((*[NOW - GATHER_SECONDS] * 19, NOW + 9, NOW + 9), range(19)),
        ((*[NOW] * 20, NOW + 9), range(20)),
        ([NOW] * 50, range(20)),
    ],
)
def test_a_check_covers_tasks_that_are_due_soon(times: list[float], checked: list[int]) -> None:
    """The earliest first, up to 20; if there are more than 20 tasks, it is delayed a little to cover 20."""
    queues = due_at(*times)
    group = queues.take_due(NOW, 0)
    assert [job.task_id for job in group] == [str(number) for number in checked]
    assert (list(queues.checking), queues.checks) == (group, 1 if group else 0)
    assert queues.accepted == len(times)


@pytest.mark.parametrize(
    ("attempts", "failed_checks", "size"),
    [(1, 1, 20), (2, 1, 10), (3, 1, 5), (4, 1, 2), (5, 5, 1), (9, 5, 1), (5, 6, 20)],
)
def test_failed_checks_are_repeated_in_smaller_groups(attempts: int, failed_checks: int, size: int) -> None:
    """One bad task may be the cause; after six failures in a row it is the service."""
    assert len(due_at(*[NOW] * 30, attempts=attempts).take_due(NOW, failed_checks)) == size


def test_the_next_times() -> None:
    """A check that is due may wait a little for others; nothing is due without a limit that has room for it."""
    queues = due_at(NOW - 1, NOW, NOW + 1)
    queues.to_save.update(dict.fromkeys(known_jobs("a"), NOW - 7))
    checks = [NOW - 1 + GATHER_SECONDS, NOW + GATHER_SECONDS, NOW + 1]
    assert list(queues.next_times(NOW, may_check=True, may_save=True)) == [*checks, NOW - 7]
    assert list(queues.next_times(NOW, may_check=False, may_save=False)) == []


def test_each_queue_counts() -> None:
    """Submissions without a response may be running; finished tasks are not, but they are charged."""
    names = "to_submit submitting running checking to_save saving".split()
    for name in names:
        queues, (job,) = Queues(), known_jobs("a")
        getattr(queues, name)[job] = NOW
        assert queues
        assert queues.accepted == (name in ("running", "checking"))
        assert queues.in_flight == (name in ("submitting", "running", "checking"))
        assert queues.charged == ([job] if name in names[2:] else [])
        queues.remove(job)
        assert not queues


def test_forgotten_jobs_leave_no_partial_file() -> None:
    """`RunSettings.first_only` ends before their downloads do."""
    closed: list[Transfer] = []

    class Closing(Transfer):
        def close(self) -> None:
            closed.append(self)

    queues, target = Queues(), Target(Path())
    job = Job(target, transfer=Closing(target, {}, 1))
    queues.to_save.update({job: NOW, Job(target): NOW})
    queues.clear()
    assert closed == [job.transfer]
    assert not queues


def test_a_job_is_in_one_queue() -> None:
    queues, (job, other) = Queues(), known_jobs("a", "b")
    queues.move(job, queues.to_submit, NOW)
    queues.move(other, queues.to_submit, NOW)
    queues.move(job, queues.to_submit, NOW + 1)
    assert list(queues.to_submit.items()) == [(other, NOW), (job, NOW + 1)]
    queues.move(job, queues.saving, NOW)
    assert (list(queues.to_submit), queues.charged) == ([other], [job])


def test_sources() -> None:
    """A list is exhausted after its last job, an open source only once it is closed as well."""
    a, b = known_jobs("a", "b")
    listed, open_source = Source(iter([a, b])), Source(closed=False)
    assert (listed.take(), listed.exhausted, listed.take(), listed.exhausted) == (a, False, b, True)
    assert (open_source.next, open_source.exhausted) == (None, False)
    open_source.add(a)
    open_source.add(b)
    open_source.closed = True
    assert (open_source.next, open_source.take(), open_source.exhausted) == (a, a, False)
    assert (open_source.take(), open_source.exhausted) == (b, True)
