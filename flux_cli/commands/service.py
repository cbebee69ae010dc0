"""Which service a command talks to, and with which key.

Flags override the environment, the environment overrides the config file, and the config file overrides defaults.
This module imports only what `fetch` needs, which is called in loops.
"""

import contextlib
import ipaddress
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flux_cli.api.client import DEFAULT_API_URL, Client, check_key_kind
from flux_cli.api.transport import Transport
from flux_cli.errors import NotAllowedError, UsageError
from flux_cli.options import ServiceOptions
from flux_cli.storage.config import Config, find_key
from flux_cli.storage.record import SANDBOX
from flux_cli.storage.settings import check_api_url
from flux_cli.ui import console

_SANDBOX_KEY = "sandbox-key"


@dataclass(frozen=True)
class Choice:
    """The service that a command uses, checked as far as is possible offline.

    `url` is None for the embedded sandbox. `key` is empty if there is none and the command does not require one.
    `flags` are what a later command needs to reach the same service, with a space before them, or empty. `secrets`
    must not be printed: the service may return webhook secrets in responses.
    """

    url: str | None
    key: str = field(repr=False)
    flags: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    verbose: bool = False

    @property
    def name(self) -> str:
        """The service's name in the history."""
        return self.url or SANDBOX


@dataclass(frozen=True)
class Service:
    """A service that is ready for requests. `name` is the one in the history; for `flags` see `Choice`."""

    client: Client
    name: str
    url: str
    flags: str


def choose(options: ServiceOptions, config: Config, *, keyless: bool = False) -> Choice:
    """Choose the service. With `keyless`, a key is not required.

    Raises NotAllowedError if there is no key, or it belongs to the service's other API, and UsageError if the URL
    or the key cannot be used, or both `--sandbox` and `--api-url` were given.
    """
    url_flag, sandbox_flag = "api_url" in options.from_flags, "sandbox" in options.from_flags
    if url_flag and sandbox_flag:
        raise UsageError("`--sandbox` and `--api-url` cannot be combined", "give one of them")
    secrets = tuple(filter(None, (config.webhook_secret, os.environ.get("FLUX_CLI_WEBHOOK_SECRET"))))
    sandbox = options.sandbox if options.sandbox is not None else config.sandbox and options.api_url is None
    if sandbox and not url_flag:
        flags = " --sandbox" if sandbox_flag else ""
        return Choice(None, _SANDBOX_KEY, flags, secrets, options.verbose)
    url = check_api_url(options.api_url if options.api_url is not None else config.api_url or DEFAULT_API_URL)
    key = _key(url, config, keyless=keyless)
    warn_if_unencrypted(url)
    flags = f" --api-url {shlex.quote(url)}" if url_flag else ""
    return Choice(url, key, flags, secrets, options.verbose)


@contextlib.contextmanager
def connect(choice: Choice, secret: str | None = None) -> Iterator[Service]:
    """Yield the service; the embedded sandbox runs until the block ends.

    `secret` is a webhook secret from a flag. From now on, all secrets and the key are redacted on stderr.
    """
    secrets = [*choice.secrets, *([secret] if secret else [])]
    for each in (choice.key, *secrets):
        console.keep_secret(each)
    with contextlib.ExitStack() as stack:
        url = choice.url
        if url is None:
            from flux_cli import sandbox

            url = stack.enter_context(sandbox.running(sandbox.default_directory(), free=True)).url
            _bypass_proxy()
        transport = Transport(url, choice.key, tuple(secrets), console.trace if choice.verbose else None)
        yield Service(Client(transport), choice.name, url, choice.flags)


def _key(url: str, config: Config, *, keyless: bool) -> str:
    """Return the key for a service. Raises as `choose` does."""
    try:
        key = find_key(config)
    except NotAllowedError:
        if not keyless:
            raise
        return ""
    check_key_kind(key, url)
    return key


def warn_if_unencrypted(url: str) -> None:
    """Print a warning if the key travels unencrypted to another machine."""
    if url.startswith("http:") and not _is_this_machine(url):
        console.warning(f"the key travels unencrypted to {url}")


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _bypass_proxy() -> None:
    """Bypass the environment's proxy for the embedded sandbox."""
    bypassed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"127.0.0.1,{bypassed}"
