"""What a webhook says, and what makes it one: the secret that it carries, and an object that names a task."""

import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from flux_cli.api.request import is_http_url
from flux_cli.api.task import Task, read_task, read_task_id
from flux_cli.api.transport import USER_AGENT, Response, cause
from flux_cli.errors import LocalFileError, ServiceDownError, UsageError

PATH = "/webhook"
"""Where webhooks are taken; other paths do not exist."""
SECRET_HEADER = "x-webhook-secret"  # noqa: S105 - the name of a header
SECRET_VARIABLE = "FLUX_CLI_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable

MAX_BODY_BYTES = 1024 * 1024
MAX_SECRET_BYTES = 4096
FORWARD_SECONDS = 10.0
"""How long the receiver of a forwarded event may be silent."""


@dataclass(frozen=True)
class WebhookEvent:
    """A webhook that was taken: the task as the body describes it, and the body as it came.

    The secret is the same in every call, so it vouches neither for the body nor for when that was written.
    """

    task: Task
    body: bytes


def read_event(body: bytes) -> WebhookEvent:
    """Read a webhook's body.

    Raises:
        ValueError: It is no JSON object that names a task; the message says which.
    """
    try:
        content = Response(200, {}, body).json()
    except ValueError:
        raise ValueError("the body is not JSON") from None
    task_id = read_task_id(content) if isinstance(content, dict) else None
    if task_id is None:
        raise ValueError("the body is not a JSON object with a task_id")
    return WebhookEvent(read_task(content, task_id), body)


def is_secret(given: list[str], secret: str) -> bool:
    """Say whether the values of a request's secret headers are the one secret, in constant time.

    Compared as bytes: `compare_digest` takes no text that is not ASCII. Headers come decoded with
    `surrogateescape`, and so become what was sent again.
    """
    sent = given[0].encode(errors="surrogateescape") if len(given) == 1 else b""
    return hmac.compare_digest(sent, secret.encode())


def read_secret_file(path: Path) -> str:
    """Return the first line of a file, without its line break.

    Raises:
        LocalFileError: The file cannot be read.
        UsageError: The line cannot be a secret.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(MAX_SECRET_BYTES + 2)
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        return check_secret(line.removesuffix(b"\n").removesuffix(b"\r").decode())
    except UnicodeDecodeError:
        raise UsageError("the webhook secret is not UTF-8 text") from None


def find_secret(configured: str | None) -> str | None:
    """Return the secret of the environment, else of the config file, else None. Raises as `check_secret` does."""
    secret = os.environ.get(SECRET_VARIABLE) or configured
    return check_secret(secret) if secret else None


def check_secret(secret: str) -> str:
    """Return a secret that a header can carry.

    Raises:
        UsageError: It is empty, too long, not all printable, or begins or ends with a space: a header loses that.
            The message does not repeat it.
    """
    if not secret:
        raise UsageError("the webhook secret is empty")
    if len(secret.encode(errors="surrogateescape")) > MAX_SECRET_BYTES:
        raise UsageError(f"the webhook secret is longer than {MAX_SECRET_BYTES} bytes")
    if not secret.isprintable() or secret != secret.strip():
        raise UsageError(
            "the webhook secret begins or ends with a space, or contains characters that a header cannot carry"
        )
    return secret


def check_forward_url(url: str) -> str:
    """Return a URL to forward events to. Raises UsageError where it is not http(s), or holds a user name."""
    from urllib.parse import urlsplit

    if not is_http_url(url) or "@" in urlsplit(url).netloc:
        raise UsageError("`--forward-to` takes an http or https URL without a user name")
    return url


def forward(event: WebhookEvent, url: str, secret: str | None) -> None:
    """Post an event on as it came, once.

    Raises:
        ServiceDownError: It was not taken, with a status of 2xx.
    """
    import requests

    headers: dict[str, str | bytes] = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
    if secret is not None:
        headers[SECRET_HEADER] = secret.encode()
    with requests.Session() as session:
        session.auth = lambda prepared: prepared  # None would let netrc supply credentials
        try:
            with session.post(
                url, data=event.body, headers=headers, timeout=FORWARD_SECONDS, allow_redirects=False, stream=True
            ) as response:
                if response.ok and not response.is_redirect:
                    return
                told = f"HTTP {response.status_code}"
        except (requests.RequestException, OSError, ValueError) as error:
            told = cause(error)[0]
    raise ServiceDownError(f"{event.task.task_id} could not be forwarded to {url}: {told}")
