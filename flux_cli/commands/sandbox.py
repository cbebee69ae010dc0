"""`flux-cli sandbox`: the sandbox service on a port, for any client of the service."""

import contextlib
import shlex
import sys
import time
from typing import Annotated

import typer

from flux_cli import completion, options
from flux_cli import sandbox as service
from flux_cli.commands import SUMMARIES
from flux_cli.errors import UsageError
from flux_cli.sandbox.faults import FAULTS, RULES, Stage
from flux_cli.ui import console, help, tables  # noqa: A004 - a module

app = typer.Typer(add_completion=False)

DEFAULT_PORT = 8788


@app.command(
    help=f"{SUMMARIES['sandbox']} A prompt can request a fault: [[http 503]].",
    epilog="Examples:\n\n"
    "$ flux-cli sandbox\n\n"
    '$ APIFRAME_API_KEY=anything flux-cli imagine "a lighthouse [[fetch-flaky 3]]" '
    "--api-url http://127.0.0.1:8788\n\n"
    "$ flux-cli sandbox --list-faults",
)
def sandbox(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            parser=options.integer(0, 65534),
            help="The port; pictures use the next one. 0 picks two free ports.",
        ),
    ] = DEFAULT_PORT,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", parser=options.duration, help="The duration of a task.")
    ] = 3.0,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Accept only this key. Default: any key. Do not use your real key."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.faults,
            help='Inject a fault into every request, such as "http 503". Can be repeated.',
        ),
    ] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Print all faults and exit.")] = False,
    allow_remote_webhooks: Annotated[
        bool, typer.Option("--allow-remote-webhooks", help="Post webhooks to other machines too.")
    ] = False,
    credits_now: Annotated[
        int | None,
        typer.Option(
            "--credits",
            metavar="N",
            parser=options.integer(0, 10**9),
            help="Set the credit balance, which is 1000 at first.",
        ),
    ] = None,
) -> int:
    """Run the service until Ctrl-C."""
    if list_faults:
        _print_faults()
        return 0
    from flux_cli.sandbox.validation import is_loopback

    if key == "":
        raise UsageError("`--key` is empty", "omit it to accept any key")
    if not is_loopback(host):
        console.warning(f"the sandbox accepts requests from other machines at {host}")
    _raise_file_limit()
    directory = service.default_directory()
    with service.running(
        directory,
        host=host,
        port=port,
        seconds=seconds,
        key=key,
        faults=fault or (),
        credits=credits_now,
        allow_remote_webhooks=allow_remote_webhooks,
        log=lambda line: console.note(f"{time.strftime('%H:%M:%S')} {line}"),
    ) as running:
        console.out(running.url)
        console.out(f"export FLUX_CLI_API_URL={running.url}")
        console.out(f"export APIFRAME_API_KEY={shlex.quote(key or 'anything')}")
        console.note(f"pictures: {running.images_url}; tasks: {directory}; stop with Ctrl-C")
        console.keep_secret(key)
        running.wait()
    return 0


def _raise_file_limit() -> None:
    """Raise the usual limit of 1,024 open files to the system's maximum: each connection takes one."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has neither module nor limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _print_faults() -> None:
    """Print the table: one line with tabs per fault in a pipe, a list per stage on a terminal."""
    if not sys.stdout.isatty():
        tables.show((), ((fault.usage, fault.stage, fault.effect) for fault in FAULTS.values()))
        return
    for stage in Stage:
        console.out(f"Faults of {stage}:")
        faults = [(fault.usage, fault.effect) for fault in FAULTS.values() if fault.stage is stage]
        console.out_bytes(f"{help.listing(faults)}\n\n".encode())
    for rule in RULES:
        console.out(rule)
