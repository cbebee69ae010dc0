"""Which service a command talks to, with which key: flags, environment and config file put together."""

import contextlib
import os
import shlex
from collections.abc import Container, Iterator
from dataclasses import dataclass

from flux_cli.api.client import DEFAULT_API_URL, Client
from flux_cli.api.transport import Trace, Transport
from flux_cli.errors import UsageError
from flux_cli.storage.config import Config, check_api_url, find_key
from flux_cli.storage.record import SANDBOX

_SANDBOX_KEY = "sandbox-key"


@dataclass(frozen=True)
class Service:
    """A service that can be talked to.

    Attributes:
        client: Speaks to it.
        name: What the history calls it: its URL, or `sandbox`.
        url: The URL of its API.
        flags: What a later command needs to talk to it again, with a space before it, or nothing.
    """

    client: Client
    name: str
    url: str
    flags: str


@dataclass(frozen=True)
class Choice:
    """The service that was chosen, not yet connected to. Making one checks all that can be checked offline."""

    url: str | None
    """None for the sandbox."""
    key: str
    flags: str

    @property
    def name(self) -> str:
        """What the history calls the service."""
        return self.url or SANDBOX


def choose(api_url: str | None, sandbox: bool | None, config: Config, from_flags: Container[str]) -> Choice:
    """Decide on a service: what was given by flag or environment, else the config file, else the default.

    `from_flags` tells which of `api_url` and `sandbox` stand on the command line, where they win over the rest.

    Raises:
        NotAllowedError: There is no key.
        UsageError: The URL or the key cannot be used, or both flags were given.
    """
    url_flag, sandbox_flag = "api_url" in from_flags, "sandbox" in from_flags
    if url_flag and sandbox_flag:
        raise UsageError("`--sandbox` and `--api-url` exclude each other", "give one of them")
    if not url_flag and (sandbox if sandbox is not None else config.sandbox and api_url is None):
        return Choice(None, _SANDBOX_KEY, " --sandbox" if sandbox_flag else "")
    url = check_api_url(api_url if api_url is not None else config.api_url or DEFAULT_API_URL)
    return Choice(url, find_key(config), f" --api-url {shlex.quote(url)}" if url_flag else "")


@contextlib.contextmanager
def connected(choice: Choice, trace: Trace | None = None, *secrets: str | None) -> Iterator[Service]:
    """Yield the service, for the sandbox running inside this process for as long as the block lasts.

    `secrets` are webhook secrets, to be blotted out of what is told; `trace` gets a line per request and answer.
    """
    with contextlib.ExitStack() as stack:
        url = choice.url
        if url is None:
            from flux_cli import sandbox

            url = stack.enter_context(sandbox.running(sandbox.default_directory(), free=True)).url
            _spare_this_machine()
        transport = Transport(url, choice.key, tuple(filter(None, secrets)), trace)
        yield Service(Client(transport), choice.name, url, choice.flags)


def _spare_this_machine() -> None:
    """Let no proxy of the environment stand between the embedded sandbox and its client."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"127.0.0.1,{spared}"
