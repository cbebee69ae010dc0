"""`flux-cli login`: store the API key."""

import sys
from typing import Annotated

import typer

from flux_cli import options
from flux_cli.commands import load_config
from flux_cli.errors import FluxError, NotAllowedError, UsageError
from flux_cli.options import ServiceOptions
from flux_cli.storage import config
from flux_cli.storage.settings import check_api_url, check_key
from flux_cli.ui import console

MAX_KEY_BYTES = 4096
OTHER_API_PREFIX = "afk_"

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
        bool, typer.Option("--no-verify", help="Store the key without checking it with the service.")
    ] = False,
    service: ServiceOptions,
) -> int:
    """Store the API key: typed at a hidden prompt, or the first line of stdin."""
    loaded = load_config()
    key = check_key(_read_key())
    console.keep_secret(key)
    if not no_verify:
        _verify(key, service, loaded.api_url)
    config.set_value("api_key", key)
    if key.lower().startswith(OTHER_API_PREFIX):
        console.warning(f"the key starts with {OTHER_API_PREFIX}: it belongs to the service's other API")
    console.note(f"the key was stored in {config.config_path()}")
    return 0


def _verify(key: str, service: ServiceOptions, stored_url: str | None) -> None:
    """Check a key with the service. The message of each error includes that the key was not stored."""
    if service.sandbox:
        raise UsageError("the sandbox needs no key and cannot check one", "store it unchecked with --no-verify")
    from flux_cli.api.client import DEFAULT_API_URL, Client, check_key_kind
    from flux_cli.api.transport import Transport
    from flux_cli.commands.service import warn_if_unencrypted

    url = check_api_url(service.api_url if service.api_url is not None else stored_url or DEFAULT_API_URL)
    warn_if_unencrypted(url)
    try:
        check_key_kind(key, url)
        client = Client(Transport(url, key, (), console.trace if service.verbose else None))
        email = client.account()["email"]
    except NotAllowedError as error:
        hint = error.hint if key.lower().startswith(OTHER_API_PREFIX) else "copy the key again, and check it"
        raise NotAllowedError(f"the key was not stored: {error.message}", hint) from None
    except FluxError as error:
        raise type(error)(
            f"the key was not stored, because it could not be checked: {error.message}",
            "try again, or store it unchecked with --no-verify",
        ) from None
    console.note(f"the key is valid{f', for {email}' if email else ''}")


def _read_key() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        try:
            return getpass("APIFRAME API key (hidden): ", stream=sys.stderr)
        except (KeyboardInterrupt, EOFError):
            console.raw_stderr("\n")
            raise KeyboardInterrupt from None
    line = sys.stdin.buffer.readline(2 * MAX_KEY_BYTES)
    if len(line.strip()) > MAX_KEY_BYTES:
        raise UsageError(f"the key is longer than {MAX_KEY_BYTES} bytes", "give only the key")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the key on stdin is not text") from None
