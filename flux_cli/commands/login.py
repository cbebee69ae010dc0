"""`flux-cli login`: store the API key."""

import sys
from typing import Annotated

import typer

from flux_cli import options
from flux_cli.errors import FluxError, NotAllowedError, UsageError
from flux_cli.options import ServiceOptions
from flux_cli.storage import config as settings
from flux_cli.ui import console

MAX_KEY_BYTES = 4096

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "$ flux-cli login\n\n"
    "$ pass show apiframe | flux-cli login\n\n"
    "$ flux-cli login --no-verify < key.txt"
)
@options.expanded
def login(
    *,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Store the key without asking the service whether it is valid.")
    ] = False,
    service: ServiceOptions,
) -> int:
    """Store the API key: typed at a hidden prompt, or read from stdin."""
    config = settings.load()
    key = settings.check_key(_read_key())
    if len(key) > MAX_KEY_BYTES:
        raise UsageError(f"the key is longer than {MAX_KEY_BYTES} characters", "give the key alone")
    console.keep_secret(key)
    if not no_verify:
        if service.sandbox:
            raise UsageError(
                "the sandbox needs no key and cannot check one", "store it unchecked with --no-verify"
            )
        from flux_cli.api.client import DEFAULT_API_URL, Client
        from flux_cli.api.transport import Transport

        url = settings.check_api_url(
            service.api_url if service.api_url is not None else config.api_url or DEFAULT_API_URL
        )
        try:
            account = Client(Transport(url, key, (), console.note if service.verbose else None)).account()
        except NotAllowedError as error:
            raise NotAllowedError(
                f"{error.message}; the key was not stored", "copy it again, and check it"
            ) from None
        except FluxError as error:
            raise type(error)(
                f"the key could not be checked, and was not stored: {error.message}",
                "try again, or store it unchecked with --no-verify",
            ) from None
        if not service.quiet:
            console.note(f"the key is valid{f', for {account.email}' if account.email else ''}")
    settings.set_value("api_key", key)
    if not service.quiet:
        console.note(f"stored in {settings.config_path()}")
    return 0


def _read_key() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        try:
            return getpass("APIFRAME API key (hidden): ", stream=sys.stderr).strip()
        except (KeyboardInterrupt, EOFError):
            console.raw_stderr("\n")
            raise KeyboardInterrupt from None
    try:
        return sys.stdin.buffer.read(MAX_KEY_BYTES + 2).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("the key on stdin is not text") from None
