"""The secret that webhooks carry: where it comes from, and how it is compared."""

import hmac
import os
from pathlib import Path

from flux_cli.errors import LocalFileError, UsageError, os_reason

SECRET_HEADER = "x-webhook-secret"  # noqa: S105 - the name of a header
SECRET_VARIABLE = "FLUX_CLI_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
MAX_SECRET_BYTES = 4096


def is_secret(given: list[str], secret: str) -> bool:
    """Return whether a request has exactly one secret header, with the right value, in constant time.

    Bytes are compared, because `compare_digest` rejects text that is not ASCII. aiohttp decodes headers with
    `surrogateescape`, which is reversible.
    """
    sent = given[0].encode(errors="surrogateescape") if len(given) == 1 else b""
    return hmac.compare_digest(sent, secret.encode())


def read_secret_file(path: Path) -> str:
    """Return the first line of a file, without its line break.

    Raises:
        LocalFileError: The file cannot be read.
        UsageError: The line is not a valid secret.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(MAX_SECRET_BYTES + 2)
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {os_reason(error)}") from None
    try:
        return check_secret(line.removesuffix(b"\n").removesuffix(b"\r").decode())
    except UnicodeDecodeError:
        raise UsageError("the webhook secret is not UTF-8 text") from None


def find_secret(configured: str | None) -> str | None:
    """Return the secret from the environment, otherwise from the config file. Raises as `check_secret` does."""
    secret = os.environ.get(SECRET_VARIABLE) or configured
    return check_secret(secret) if secret else None


def check_secret(secret: str) -> str:
    """Return the secret if a header can carry it.

    Raises:
        UsageError: It is empty, too long, not printable, or begins or ends with a space, which a header
            would lose. The message does not contain it.
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
