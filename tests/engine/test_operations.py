"""The operations: their time limits, and what an operation that ran out of time means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from flux_cli.api.client import SUBMIT_SECONDS, Client
from flux_cli.api.task import Task, read_task
from flux_cli.api.transport import Dispatch, NotSentError
from flux_cli.engine.job import Job
from flux_cli.engine.operations import MAX_LARGE_BODIES, STALL_BYTES, Operations
from flux_cli.engine.workers import Operation
from flux_cli.errors import OutcomeUnknownError, ServiceDownError
from flux_cli.pictures.download import DownloadError, Retry
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saved, Saver, Transfer
from tests.engine.kit import Clock, ManualWorkers, finished
from tests.server import png

Act = Callable[[Any], object]


class Service(ManualWorkers):
    """Workers, client and saver in one: what a call does is given by the test."""

    def __init__(self, act: Act = lambda _: None) -> None:
        super().__init__(Clock())
        self.act = act
        self.outcomes: list[Any] = []
        self.started: list[Operation] = []
        self.operations = Operations(cast(Client, self), cast(Saver, self), self, self._clock)
        self.job = Job(Target(Path()), request={"prompt": "kite"}, task=read_task(finished(), "a"))

    def start(self, operation: Operation) -> bool:
        """Keep the operation, and start it as usual."""
        self.started.append(operation)
        return super().start(operation)

    def submit(self, body: object, dispatch: Dispatch) -> str:
        """Do what the test wants, with the request's body."""
        self.act(body)
        return "task-1"

    def save(self, task: Task, transfer: Transfer, on_bytes: Callable[[int, int | None], None]) -> Saved:
        """Do what the test wants, with `on_bytes`."""
        self.act(on_bytes)
        return Saved()

    def download(self) -> list[tuple[int, int | None]]:
        """Download the picture; return what is reported of its bytes."""
        reported: list[tuple[int, int | None]] = []
        self.operations.download(
            self.job, lambda *sizes: reported.append(sizes), self.outcomes.append, self.outcomes.append
        )
        self.wait(1.0)
        return reported


def test_only_progress_extends_the_time_for_a_download() -> None:
    """Each 4 KiB, or a new beginning; the disk gets the time that it needs."""
    limits: list[str] = []

    def act(on_bytes: Callable[[int, int | None], None]) -> None:
        (operation,) = service.started
        size = STALL_BYTES
        for more in (0, 1, 1, size, size + 1, size, 2 * size - 1, 2 * size, 9 * size):
            operation.ends_at = 0.0
            on_bytes(size - 1 + more, 10 * size - 1)
            limits.append("none" if operation.ends_at == float("inf") else "new" if operation.ends_at else "old")

    service = Service(act)
    service.download()
    assert limits == "old new old old new new old new none".split()


def test_bytes_are_reported_ten_times_a_second() -> None:
    """However many blocks arrive."""

    def act(on_bytes: Callable[[int, int | None], None]) -> None:
        for received in range(6):
            on_bytes(received, None)
            service._clock.now += 0.0625

    service = Service(act)
    assert service.download() == [(0, None), (2, None), (4, None)]


def test_a_download_that_is_not_needed_ends() -> None:
    """After the run's end: its next byte is the last."""
    service = Service(lambda on_bytes: on_bytes(1, 2))
    service.stop()
    assert service.download() == []
    assert isinstance(service.outcomes[0], Exception)


def test_what_running_out_of_time_means() -> None:
    """Only a submission that was sent may have been accepted."""
    service, job = Service(), Job(None, request={})
    service.operations.submit(job, service.outcomes.append, service.outcomes.append)
    assert isinstance(service.started[-1].overdue(), NotSentError)
    job.dispatch.sent = True
    assert type(service.started[-1].overdue()) is OutcomeUnknownError
    service.operations.check([job], service.outcomes.append, service.outcomes.append)
    assert type(service.started[-1].overdue()) is ServiceDownError
    service.download()
    error = service.started[-1].overdue()
    assert isinstance(error, DownloadError)
    assert error.kind is Retry.TRANSIENT
    assert [operation.seconds for operation in service.started] == [SUBMIT_SECONDS, 31.0, 30.0]


@pytest.mark.parametrize(("large", "extensions"), [("", 0), ("in the body", 1), ("in a file", 2)])
def test_few_large_requests_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: str, extensions: int
) -> None:
    """Each holds up to 20 MiB; the time for waiting and reading does not count."""
    extended: list[Operation] = []
    monkeypatch.setattr(Operation, "extend", lambda operation: extended.append(operation))
    (path := tmp_path / "x.png").write_bytes(png())
    free: list[bool] = []

    def send() -> None:
        job = Job(None, request={"image_prompt": "data"} if large == "in the body" else {})
        job.image_prompt = str(path) if large == "in a file" else None
        service.operations.submit(job, service.outcomes.append, service.outcomes.append)

    def act(body: dict[str, str]) -> None:
        assert ("image_prompt" in body) == bool(large)
        if len(service.started) < MAX_LARGE_BODIES:
            send()
        else:
            free.append(service.operations._large_bodies.acquire(blocking=False))

    service = Service(act)
    send()
    assert free == [not large]
    assert len(extended) == extensions * MAX_LARGE_BODIES
