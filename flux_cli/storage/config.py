"""The config file, 0600 and with its comments kept, and which setting wins.

Flags win over the environment, the environment over the file, the file over defaults; typer handles the first
two (`envvar=`), `Config` holds the third.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.errors import LocalFileError, NotAllowedError, UsageError, missing_packages, program
from flux_cli.storage.paths import config_directory, make_directory

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

KEY_VARIABLE = "APIFRAME_API_KEY"
SECRET_NAMES = ("api_key", "webhook_secret")


@dataclass(frozen=True)
class Config:
    """What the config file sets; None for what it leaves open."""

    api_key: str | None = None
    api_url: str | None = None
    model: str | None = None
    output_dir: str | None = None
    webhook_secret: str | None = None
    sandbox: bool | None = None


NAMES = tuple(field.name for field in fields(Config))


def config_path() -> Path:
    """Return where the config file is, whether or not it exists."""
    return config_directory() / "config.toml"


def load() -> Config:
    """Read the config file; an absent one is an empty one.

    Names that this version does not know are left alone: a newer version may have written them.

    Raises:
        LocalFileError: It cannot be read, is not TOML, or holds a value of the wrong type.
    """
    path = config_path()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {error.strerror}") from None
    import tomllib  # 20 ms

    try:
        values = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The parser's message quotes no text of the file, so it cannot show the key.
        raise LocalFileError(f"{path} is not TOML: {error}", "mend it, or remove it and log in again") from None
    known = {name: value for name, value in values.items() if name in NAMES}
    for name, value in known.items():
        wanted = bool if name == "sandbox" else str
        if not isinstance(value, wanted):
            raise LocalFileError(
                f"{path}: `{name}` has to be {'true or false' if wanted is bool else 'text in quotes'}",
                "mend it in an editor, or remove the line",
            )
    return Config(**known)


def set_value(name: str, text: str) -> None:
    """Set one name in the file, creating it 0600 in a 0700 directory if need be.

    Raises:
        UsageError: No such name, or a value that it does not take; nothing is written.
        LocalFileError: The file cannot be read, understood or written.
    """
    value: str | bool = _checked(name, text)

    def change(document: "TOMLDocument") -> None:
        document[name] = value

    _rewrite(change)


def unset(name: str) -> bool:
    """Remove one name from the file; return whether it was there. Raises as `set_value` does."""
    if name not in NAMES:
        raise unknown_name(name)
    if getattr(load(), name) is None:
        return False

    def change(document: "TOMLDocument") -> None:
        del document[name]

    _rewrite(change)
    return True


def _checked(name: str, text: str) -> str | bool:
    if name not in NAMES:
        raise unknown_name(name)
    if name == "api_key":
        return check_key(text)
    if name == "sandbox":
        from flux_cli.api.request import parse_text

        try:
            return bool(parse_text("raw", text))  # any field that takes true or false
        except ValueError:
            raise UsageError("`sandbox` takes true or false") from None
    if name == "api_url":
        return check_api_url(text)
    if not text.strip():
        raise UsageError(f"`{name}` must not be empty", f"to remove it: flux-cli config unset {name}")
    return text


def unknown_name(name: str) -> UsageError:
    """Return the error for a setting that does not exist."""
    return UsageError(f"`{name}` is not a setting; known: {', '.join(NAMES)}")


def check_key(text: str) -> str:
    """Return the key if it can be sent as a header.

    Raises:
        UsageError: It is empty or has a space, a line break, a control or a non-ASCII character; the message
            does not repeat it.
    """
    if not text:
        raise UsageError("the key is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            "the key holds a space, a line break, a control or a non-ASCII character",
            "copy it again, without what surrounds it",
        )
    return text


def check_api_url(text: str) -> str:
    """Return the service's URL in one spelling: the history tells services apart by it.

    Scheme and host are in small letters, the scheme's own port and slashes at the end are left out.

    Raises:
        UsageError: It is not an http or https URL with a host, or holds a user name, a query or a fragment.
    """
    from urllib.parse import urlsplit

    from flux_cli.api.request import is_http_url

    if not is_http_url(text):
        raise UsageError(
            f"the API URL {text!r} is not an http or https URL", "it looks like https://api.apiframe.pro"
        )
    parts = urlsplit(text)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("the API URL takes no user name, query or fragment")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def find_key(config: Config) -> str:
    """Return the API key: from the environment, else from the config file.

    Raises:
        NotAllowedError: There is none.
        UsageError: It cannot be a key.
    """
    key = os.environ.get(KEY_VARIABLE) or config.api_key
    if not key:
        sandbox = "" if missing_packages("sandbox") else ", or try --sandbox"
        raise NotAllowedError("no API key", f"run `{program()} login` or set {KEY_VARIABLE}{sandbox}")
    return check_key(key)


def masked(secret: str) -> str:
    """Return a stand-in for a secret that tells no more than that there is one, and its end if it is long."""
    return f"…{secret[-4:]}" if len(secret) >= 16 else "…"


def _rewrite(change: Callable[["TOMLDocument"], None]) -> None:
    """Replace the file by a changed copy, atomically; comments and order stay."""
    import tempfile  # both only needed to write: 3 ms, 35 ms

    import tomlkit

    load()  # refuses what could not be read back, before anything is touched
    path = config_path()
    if path.is_symlink():
        path = path.resolve()  # a file that is kept elsewhere stays there
    try:
        make_directory(path.parent, 0o700)
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        change(document)
        # mkstemp creates the file 0600, so that the key is never in one that others can read.
        handle, temporary = tempfile.mkstemp(prefix=".config-", suffix=".toml", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(tomlkit.dumps(document))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise LocalFileError(f"cannot write {path}: {error.strerror}") from None
