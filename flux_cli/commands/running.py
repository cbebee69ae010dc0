"""Shared by the commands that submit, wait and download: costs, and the run."""

from collections.abc import Callable, Sequence

from flux_cli.commands.service import Service
from flux_cli.engine.job import Job
from flux_cli.engine.run import Run
from flux_cli.engine.settings import RunSettings
from flux_cli.engine.store import HistoryStore
from flux_cli.errors import ExitCode, FluxError, NotAllowedError
from flux_cli.options import OutputOptions, PictureOptions, ServiceOptions
from flux_cli.pictures.saving import Saver
from flux_cli.storage.history import History
from flux_cli.storage.record import SANDBOX
from flux_cli.ui import console
from flux_cli.ui.reporter import reporting

ANNOUNCED_PICTURES = 10
"""The cost of more pictures than this is announced before they are submitted."""
ACCOUNT_SECONDS = 5.0
"""The timeout of a request for the credits, which are only displayed."""


def mention_sandbox(service: Service) -> None:
    """Print that the sandbox is used: a forgotten setting is easy to miss."""
    if service.name == SANDBOX:
        console.note("using the embedded sandbox: free, offline, drawn pictures")


def run_jobs(
    jobs: Sequence[Job],
    service: Service,
    history: History | None,
    options: ServiceOptions,
    output: OutputOptions,
    settings: RunSettings,
    pictures: PictureOptions,
) -> ExitCode:
    """Run jobs, show their progress, print their results, and return the command's exit code."""
    mention_sandbox(service)
    saver = Saver(service.url, service.client.trace, original=output.original)
    store = HistoryStore(history, service.name) if history else None
    with reporting(
        jobs,
        flags=service.flags,
        service=service.name,
        json=options.json,
        force=output.force,
        actions=pictures,
    ) as reporter:
        code = Run(service.client, saver, store, reporter.handle, settings).run(jobs)
    return reporter.exit_code(code)


def credits_left(service: Service) -> object | None:
    """Return the account's credits, or None if the service does not report them.

    Raises:
        NotAllowedError: The service rejects the key: it would reject submissions, too.
    """
    try:
        return service.client.account(ACCOUNT_SECONDS)["credits"]
    except NotAllowedError:
        raise
    except FluxError:
        return None


def announce_cost(pictures: int, service: Service, credits_of: Callable[[Service], object | None]) -> None:
    """Print the cost of many pictures before they are submitted, and the credits.

    Each picture costs one credit (the service's page on image credits); the sandbox is free.
    """
    if console.quiet or pictures <= ANNOUNCED_PICTURES or service.name == SANDBOX:
        return
    credit = credits_of(service)
    has = "" if credit is None else f"; the account has {console.shortened(str(credit), 20)}"
    console.note(f"submitting {pictures} pictures for about {pictures} credits{has}")
    try:
        enough = credit is None or float(str(credit)) >= pictures
    except ValueError:
        return
    if not enough:
        console.warning(f"the account has too few credits for {pictures} pictures")
