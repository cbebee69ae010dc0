"""The key and the webhook secret: who receives them, and where they never appear."""

import base64
import json
import ssl
from collections.abc import Iterable
from pathlib import Path

import pytest
import trustme

from tests.conftest import KEY, Cli
from tests.faults.table import with_key
from tests.server import Reply, Request, Server, finished, http, in_turn, png, reply, submitted

SECRET = 'whsec-"quoted"-ü/é-0123456789'
NETRC = """\
machine 127.0.0.1 login netrc-user password netrc-password
machine localhost login netrc-user password netrc-password
default login default-user password default-password
"""


@pytest.fixture
def keyed(cli: Cli) -> Cli:
    """The command with a key, a webhook secret and a .netrc that knows every host."""
    netrc = cli.home / ".netrc"
    netrc.write_text(NETRC)
    netrc.chmod(0o600)
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_WEBHOOK_SECRET": SECRET, "NETRC": str(netrc)}
    return cli


def at(cli: Cli, url: str) -> Cli:
    cli.env["FLUX_CLI_API_URL"] = url
    return cli


def credentials(requests: Iterable[Request]) -> set[str | None]:
    return {request.headers.get("authorization") for request in requests}


# Who receives them


def test_the_key_goes_to_the_api_only(keyed: Cli, server: Server) -> None:
    """It is sent raw, whatever .netrc says. The images' hosts get neither credentials nor a referrer."""
    with Server({"/image": http(200, png())}) as second, Server() as images:
        images.routes = {"/image": http(302, Location=f"{second.url}/image/x.png")}
        server.routes = {"/fetch": lambda r: reply(finished(r.json()["task_id"], images.url))}
        for command in ("imagine x", "imagine x --original", "wait task-0", "fetch task-0 -o again/"):
            assert keyed(*command.split()).code == 0
    assert credentials(server.received) == {KEY}
    assert second.requests("/image")
    for request in (*images.received, *second.received):
        assert set(request.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert request.headers["accept-encoding"] == "identity"


def test_credentials_in_an_image_url(keyed: Cli, server: Server) -> None:
    server.routes = {"/fetch": lambda r: reply(finished("task-0", r.origin.replace("//", "//user:password@")))}
    assert keyed("imagine", "x").code == 0
    assert with_key(server) == []


@pytest.mark.parametrize(("code", "exit_code"), [(301, 2), (302, 2), (303, 9), (307, 2), (308, 2)])
def test_redirects_of_the_api(keyed: Cli, server: Server, code: int, exit_code: int) -> None:
    """They are not followed, even on the same host: a submission could be sent twice."""
    with Server() as elsewhere:
        server.routes = {
            path: http(code, Location=f"{elsewhere.url}{path}") for path in ("/flux-imagine", "/account")
        }
        assert keyed("imagine", "x").code == exit_code
        assert keyed("account").code == 1
        assert (elsewhere.received, server.submissions) == ([], 1)


def test_webhook_secret_needs_webhook_url(keyed: Cli, server: Server) -> None:
    """It is sent in the body, as documented, not in a header."""
    keyed("imagine", "x")
    keyed("imagine", "x", "--webhook-url", "http://127.0.0.1:9/hook")
    without, with_url = (request.json() for request in server.requests("/flux-imagine"))
    assert (without.get("webhook_secret"), with_url["webhook_secret"]) == (None, SECRET)


# Where they appear


def echo(request: Request) -> bytes:
    """Respond with everything that was sent, in each way in which JSON can write it."""
    everything = f"{request.headers['authorization']} {request.body.decode()}"
    escaped = "".join(f"\\u{ord(character):04x}" for character in f"{KEY} {SECRET}")
    body = json.dumps({"errors": [{"msg": everything}, {"msg": SECRET}]}).encode()
    return http(400, body[:-1] + f', "message": "{escaped}"}}'.encode(), Location=KEY, X=KEY)


REPLIES: dict[str, dict[str, Reply]] = {
    "a refusal that says all that it got": {"/flux-imagine": echo},
    "a redirect that says the key": {
        "/flux-imagine": lambda r: http(302, Location=f"/?{r.headers['authorization']}")
    },
    "a reason that says the key": {
        "/fetch": reply({"task_id": "task-0", "status": "failed", "error": f"{KEY} / {SECRET}"})
    },
    "a status that says the key": {
        "/fetch": in_turn(
            reply(
                {"task_id": "task-0", "status": f"in {KEY} {SECRET}", "percentage": 5, "x": [KEY, {KEY: SECRET}]}
            ),
            lambda r: reply({**finished("task-0", r.origin), "task_type": f"{KEY} {SECRET}"}),
        )
    },
    "a refusal while waiting": {"/fetch": echo},
    "a body that is no JSON": {"/fetch": in_turn(http(200, f"<{KEY} {SECRET}".encode()), reply({}, 401))},
    "no response": {"/flux-imagine": [0.0]},
    "a picture's URL that holds the key": {
        "/fetch": lambda r: reply({**finished("task-0", r.origin), "image_url": f"ftp://{KEY}/{KEY}"})
    },
}


@pytest.mark.parametrize("flags", [(), ("--json", "-v", "--debug")], ids=" ".join)
@pytest.mark.parametrize("reply", REPLIES)
def test_secrets_are_never_printed(keyed: Cli, server: Server, reply: str, flags: tuple[str, ...]) -> None:
    """They are on neither stream and in no file, whatever the service responds."""
    server.routes = REPLIES[reply]
    for command in ("imagine x --webhook-url http://127.0.0.1:9/", "fetch task-0", "history"):
        done = keyed(*command.split(), *(flags if command != "history" else ()))
        assert_absent((done.stdout + done.stderr).encode())
    assert server.received
    for path in keyed.home.rglob("*"):
        if path.is_file():
            assert_absent(path.read_bytes())


def assert_absent(content: bytes) -> None:
    """Fail if a secret is in the bytes: as it is, or as JSON, repr or base64 write it."""
    for secret in (KEY, SECRET):
        ways = (
            secret.encode(),
            json.dumps(secret)[1:-1].encode(),
            json.dumps(secret, ensure_ascii=False)[1:-1].encode(),
            repr(secret)[1:-1].encode(),
            base64.b64encode(secret.encode()),
        )
        for way in ways:
            assert way not in content


# Proxies and certificates


def test_proxies(keyed: Cli) -> None:
    """`http_proxy` is used for the API and for pictures; its password is never printed."""
    with Server() as proxy:
        origin = "http://api.example"
        proxy.routes = {
            f"{origin}/flux-imagine": submitted,
            f"{origin}/fetch": reply(finished("task-0", "http://images.example")),
            "http://images.example/": http(200, png()),
        }
        variables = {"http_proxy": proxy.url.replace("//", "//proxy-user:proxy-password@"), "NO_PROXY": ""}
        done = at(keyed, origin)("imagine", "x", "-v", env=variables)
        assert done.code == 0, done.stderr
        assert "proxy-password" not in done.stderr
        assert credentials(proxy.requests(f"{origin}/")) == {KEY}
        assert credentials(proxy.requests("http://images.example/")) == {None}
        proxy_authorization = f"Basic {base64.b64encode(b'proxy-user:proxy-password').decode()}"
        assert {request.headers.get("proxy-authorization") for request in proxy.received} == {proxy_authorization}
    done = at(keyed, origin)("imagine", "x", "-v", "--debug", env=variables)
    assert done.code == 5
    assert "proxy-password" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "error", "hint"),
    [
        ("https_proxy", "socks5://127.0.0.1:1", "a SOCKS proxy needs PySocks", "install PySocks"),
        ("REQUESTS_CA_BUNDLE", "/missing.pem", "no certificates at /missing.pem", "correct REQUESTS_CA_BUNDLE"),
        ("SSL_CERT_FILE", "/missing.pem", "no certificates at /missing.pem", "or SSL_CERT_FILE"),
    ],
)
def test_settings_that_no_retry_corrects(keyed: Cli, variable: str, value: str, error: str, hint: str) -> None:
    """There is one attempt, and the hint names the remedy."""
    done = at(keyed, "https://127.0.0.1:1")("imagine", "x", env={variable: value, "NO_PROXY": ""})
    assert done.code == 5
    assert f"error: cannot reach https://127.0.0.1:1: {error}" in done.stderr
    assert hint in done.stderr
    assert "retrying" not in done.stderr


def test_embedded_sandbox_bypasses_proxies(cli: Cli) -> None:
    """No proxy can reach it. Other hosts in NO_PROXY stay excluded."""
    cli.env |= {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "example.com"}
    done = cli("imagine", "x [[seconds 0]]", "--sandbox", "--width", "256", "--height", "256")
    assert done.code == 0, done.stderr


AUTHORITY = trustme.CA()
"""A certificate authority that no system trusts."""


def context(name: str = "127.0.0.1") -> ssl.SSLContext:
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(settings)
    return settings


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = str(tmp_path / "authority.pem")
    AUTHORITY.cert_pem.write_to_path(path)
    return path


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_custom_ca(keyed: Cli, bundle: str, variable: str) -> None:
    """It is used for the API and for pictures; without it there is one connection, and nothing is sent."""
    with Server(tls=context()) as api:
        done = at(keyed, api.url)("imagine", "x", env={variable: bundle})
        assert done.code == 0, done.stderr
        before = api.connections
        done = keyed("imagine", "x")
        assert done.code == 5
        assert "its certificate is not trusted" in done.stderr
        assert "hint: set REQUESTS_CA_BUNDLE" in done.stderr
        assert (api.submissions, api.connections - before) == (1, 1)


def test_certificate_of_another_host(keyed: Cli, bundle: str) -> None:
    with Server(tls=context("elsewhere.example")) as api:
        done = at(keyed, api.url)("imagine", "x", env={"REQUESTS_CA_BUNDLE": bundle})
        assert (done.code, api.submissions, api.connections) == (5, 0, 1)
        assert "its certificate is not trusted" in done.stderr


def test_http_is_upgraded_to_https(keyed: Cli, bundle: str) -> None:
    """A picture's URL and its redirects use https if the API does. The pictures' server speaks nothing else."""
    keyed.env["REQUESTS_CA_BUNDLE"] = bundle
    with Server(tls=context()) as images, Server(tls=context()) as api:
        http_url = f"http://127.0.0.1:{images.port}"
        api.routes = {"/image": http(302, Location=f"{http_url}/image/redirected.png")}
        assert at(keyed, api.url)("imagine", "x").code == 0
        api.routes = {"/fetch": reply(finished("task-1", http_url))}
        assert keyed("wait", "task-1").code == 0
    assert [request.path for request in images.received] == ["/image/redirected.png", "/image/task-1.png"]


@pytest.mark.parametrize("name", ["webhook_secret", "webhookSecret", "x-webhook-secret", "WEBHOOK_SECRET"])
def test_a_webhook_secret_in_a_response_is_never_printed(cli: Cli, server: Server, name: str) -> None:
    """Also one that this machine does not know, because another one submitted the task."""
    echo = {"request": [{name: "hush", "webhook_url": "https://example.com"}]}
    server.routes = {"/fetch": lambda r: reply({**finished(r.json()["task_id"], r.origin), **echo})}
    done = cli("fetch", "task-0", "--json", "-v")
    (task,) = done.objects
    assert "hush" not in done.stderr
    assert task["raw"]["request"] == [{name: "[redacted]", "webhook_url": "https://example.com"}]
