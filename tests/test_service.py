"""Which service a command talks to: what is checked before anything is sent."""

import pytest

from flux_cli.api.client import DEFAULT_API_URL
from flux_cli.commands.service import choose
from flux_cli.errors import NotAllowedError
from flux_cli.options import ServiceOptions
from flux_cli.storage.config import Config
from flux_cli.ui import console
from tests.conftest import KEY, Cli
from tests.server import Server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("APIFRAME_API_KEY", KEY)
    return monkeypatch


def options(*flags: str, **values: object) -> ServiceOptions:
    """Return options; `flags` are those that were on the command line."""
    return ServiceOptions(**values, from_flags=frozenset(flags))  # type: ignore[arg-type] # each of its own type


@pytest.mark.parametrize(
    ("given", "config", "name", "flags"),
    [
        (options(), Config(), DEFAULT_API_URL, ""),
        (options(api_url="https://x"), Config(api_url="https://y"), "https://x", ""),
        (options("api_url", api_url="https://x"), Config(), "https://x", " --api-url https://x"),
        (options(), Config(api_url="https://y"), "https://y", ""),
        (options("sandbox", sandbox=True), Config(), "sandbox", " --sandbox"),
        (options(sandbox=True), Config(), "sandbox", ""),
        (options(), Config(sandbox=True), "sandbox", ""),
        (options(api_url="https://x"), Config(sandbox=True), "https://x", ""),
        (options(sandbox=False), Config(sandbox=True), DEFAULT_API_URL, ""),
        (options("api_url", api_url="https://x", sandbox=True), Config(), "https://x", " --api-url https://x"),
    ],
)
def test_choice(given: ServiceOptions, config: Config, name: str, flags: str) -> None:
    """Flags override the environment, the environment overrides the config."""
    choice = choose(given, config)
    assert (choice.name, choice.flags) == (name, flags)


def test_no_key(key: pytest.MonkeyPatch) -> None:
    key.delenv("APIFRAME_API_KEY")
    with pytest.raises(NotAllowedError, match="no API key"):
        choose(options(), Config())
    assert choose(options(), Config(), keyless=True).key == ""


def test_a_key_of_the_other_api(key: pytest.MonkeyPatch) -> None:
    """It is rejected for the default URL, also by a command that needs no key; elsewhere the service decides."""
    key.setenv("APIFRAME_API_KEY", "afk_0123456789abcdef")
    for keyless in (False, True):
        with pytest.raises(NotAllowedError, match="afk_"):
            choose(options(), Config(), keyless=keyless)
    assert choose(options(api_url="https://x"), Config()).key == "afk_0123456789abcdef"


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://example.com", True),
        ("http://10.0.0.1:8080", True),
        ("https://example.com", False),
        ("http://127.0.0.1:8788", False),
        ("http://127.1.2.3", False),
        ("http://[::1]:8788", False),
        ("http://localhost:8788", False),
        ("http://sandbox.localhost", False),
    ],
)
def test_an_unencrypted_url(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, warned: bool
) -> None:
    choose(options(api_url=url), Config())
    expected = f"warning: the key travels unencrypted to {url}\n" if warned else ""
    assert capsys.readouterr().err == expected
    monkeypatch.setattr(console, "quiet", True)
    choose(options(api_url=url), Config())
    assert capsys.readouterr().err == ""


def test_one_warning_per_command(cli: Cli) -> None:
    """Though several steps of a command need the service."""
    with Server() as server:
        url = server.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - reaches this machine, but is no loopback
        env = {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": url, "NO_PROXY": "*"}
        done = cli("imagine", "x", "-o", "x.png", env=env)
    assert (done.code, done.stderr.count("unencrypted")) == (0, 1)
