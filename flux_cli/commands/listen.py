"""`flux-cli listen`: receive webhooks here."""

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux_cli import completion, options
from flux_cli.commands import load_config
from flux_cli.errors import LocalFileError, MissingExtraError, UsageError
from flux_cli.options import OutputOptions, ServiceOptions
from flux_cli.pictures import naming
from flux_cli.storage.config import Config
from flux_cli.ui import console
from flux_cli.ui.event_display import EventDisplay

if TYPE_CHECKING:
    from flux_cli.storage.history import History

app = typer.Typer(add_completion=False)

_receiver_option = partial(typer.Option, rich_help_panel="Receiver")


@app.command(
    epilog="Examples:\n\n"
    "$ FLUX_CLI_WEBHOOK_SECRET=… flux-cli listen -o pictures/\n\n"
    "$ flux-cli listen --secret-file secret.txt --until 4 --json\n\n"
    "$ flux-cli listen --no-download --forward-to http://127.0.0.1:3000/hooks"
)
@options.expanded
def listen(
    *,
    host: Annotated[str, _receiver_option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, _receiver_option(parser=options.integer(0, 65535), metavar="N", help="The port; 0 picks a free one.")
    ] = 8787,
    secret_file: Annotated[
        Path | None,
        _receiver_option(
            metavar="FILE",
            autocompletion=completion.files,
            help="Read the webhook secret from the first line of FILE. Default: FLUX_CLI_WEBHOOK_SECRET, then "
            "`webhook_secret` in the config.",
        ),
    ] = None,
    insecure: Annotated[
        bool, _receiver_option("--insecure", help="Accept webhooks from anyone, without a secret.")
    ] = False,
    until: Annotated[
        int | None,
        typer.Option(
            parser=options.integer(1),
            metavar="N",
            help="Exit when N tasks have finished or failed.",
            rich_help_panel=options.WAITING,
        ),
    ] = None,
    forward_to: Annotated[
        str | None, options.output_option(metavar="URL", help="Forward each event unchanged, with the secret.")
    ] = None,
    no_download: Annotated[bool, options.output_option("--no-download", help="Do not save pictures.")] = False,
    output: OutputOptions,
    service: ServiceOptions,
) -> int:
    """Receive the service's webhooks here, and save the pictures of tasks that finish."""
    try:
        from flux_cli.webhooks.receiver import receiving
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise MissingExtraError("`flux-cli listen`", "listen") from error
    from flux_cli.commands.service import choose, connect
    from flux_cli.pictures.saving import Saver
    from flux_cli.webhooks.bridge import Bridge
    from flux_cli.webhooks.forwarding import check_forward_url
    from flux_cli.webhooks.journal import EventJournal

    config = load_config()
    secret = _secret(secret_file, insecure, config)
    if forward_to is not None:
        check_forward_url(forward_to)
    target = None if no_download else _target(output, config, until)
    if no_download and output.output is not None:
        raise UsageError("`-o` and `--no-download` cannot be combined")
    choice = choose(service, config, keyless=True)
    has_key = bool(choice.key)
    with connect(choice, secret) as connected:
        if target is not None:
            naming.check(target)
        display = EventDisplay(connected.flags, json=service.json, verbose=service.verbose)
        saver = Saver(connected.url, connected.client.trace, original=output.original)
        with contextlib.closing(EventJournal()) as journal, contextlib.closing(display):
            bridge = Bridge(
                connected.client,
                saver,
                _history(),
                connected.name,
                display,
                journal,
                target=target,
                confirms=has_key,
                until=until,
                forward_to=forward_to,
                secret=secret,
            )
            with receiving(host, port, secret, bridge) as url:
                return bridge.run(lambda: _introduce(url, secret=secret is not None, has_key=has_key))


def _secret(file: Path | None, insecure: bool, config: Config) -> str | None:
    """Return the secret that webhooks must have, or None for `--insecure`.

    Raises:
        UsageError: There is no secret, or it is invalid.
        LocalFileError: The file cannot be read.
    """
    from flux_cli.webhooks import secret as webhook_secret

    if insecure:
        if file is not None:
            raise UsageError("`--secret-file` and `--insecure` cannot be combined")
        return None
    if file is not None:
        return webhook_secret.read_secret_file(file)
    secret = webhook_secret.find_secret(config.webhook_secret)
    if secret is None:
        raise UsageError(
            "no webhook secret: anyone could send webhooks",
            f"set {webhook_secret.SECRET_VARIABLE} to the secret of your submissions, or use --secret-file; "
            "--insecure accepts any sender",
        )
    return secret


def _target(output: OutputOptions, config: Config, until: int | None) -> naming.Target:
    """Return the target of `-o`; the number of pictures is known only with `--until`. Raises UsageError."""
    if output.output == "-":
        raise UsageError("`-o -` and the events both write to stdout", "give a directory or a template instead")
    return naming.parse_output(output.output, config.output_dir, until, output.force)


def _history() -> "History | None":
    """Open the history. It is created if necessary: tasks may be added while the listener runs."""
    from flux_cli.storage.history import History

    try:
        return History()
    except LocalFileError as error:
        console.warning(error.message)
        return None


def _introduce(url: str, *, secret: bool, has_key: bool) -> None:
    """Print how to submit tasks whose events arrive here, and warn about what is not verified."""
    console.note(f"listening; submit with --webhook-url {url}{' and the same secret' if secret else ''}")
    console.note(
        "the service cannot reach this machine directly: use a tunnel or a proxy, and submit with its public URL"
    )
    if not secret:
        console.warning("without a secret, anyone who can reach this port can send webhooks")
    if not has_key:
        console.warning("no API key: the status of tasks cannot be checked, so webhooks are trusted")
