"""The settings that the config file can store: their names, types and rules.

Every request flag can have a default there, for all models or for one: `models.flux-pro.steps` is the setting
`steps` in the table `[models."flux-pro"]`.
"""

from dataclasses import dataclass

from flux_cli.api.request import (
    DEFAULT_MODEL,
    FIELDS,
    MODELS,
    JsonValue,
    flag,
    is_http_url,
    parse_text,
    shown,
    violations,
)
from flux_cli.errors import FluxError, UsageError, closest
from flux_cli.storage.durations import parse_duration

KEY_VARIABLE = "APIFRAME_API_KEY"
SEED_RANDOM = "random"


@dataclass(frozen=True)
class Setting:
    """One name in the config file.

    Attributes:
        kind: The type of its value; text that is a duration, for `timeout`.
        envvar: The environment variable that overrides it, if any.
        default: What applies if it is not set, if that is this program's decision.
        secret: Whether its value is never shown.
        per_model: Whether it can be set for one model.
    """

    name: str
    kind: type
    help: str
    envvar: str | None = None
    default: str | None = None
    secret: bool = False
    per_model: bool = False


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("api_key", str, "The API key; stored with `flux-cli login`.", KEY_VARIABLE, secret=True),
        Setting("api_url", str, "The service's URL.", "FLUX_CLI_API_URL", "https://api.apiframe.pro"),
        Setting("model", str, "The model of requests without `--model`.", "FLUX_CLI_MODEL", DEFAULT_MODEL),
        Setting("output_dir", str, "The directory for pictures without `-o`.", default="."),
        Setting(
            "webhook_secret",
            str,
            "Sent with requests that have a webhook URL, and required by `flux-cli listen`.",
            "FLUX_CLI_WEBHOOK_SECRET",
            secret=True,
        ),
        Setting(
            "sandbox", bool, "Use the embedded sandbox unless a URL is given.", "FLUX_CLI_SANDBOX", default="false"
        ),
        Setting("timeout", str, "The default for `--timeout` of imagine and wait.", default="10m", per_model=True),
        Setting("sidecar", bool, "The default for `--sidecar`.", default="false", per_model=True),
        Setting("count", int, "The default for `--count` of imagine.", default="1", per_model=True),
        *(
            Setting(field.name, field.kind, f"The default for {flag(field.name)}.", field.envvar, per_model=True)
            for field in FIELDS.values()
            if field.name not in ("prompt", "model", "webhook_secret")
        ),
    )
}


@dataclass(frozen=True)
class Name:
    """The name of a setting, and the model it is for, or None."""

    setting: Setting
    model: str | None = None

    def __str__(self) -> str:
        return f"models.{self.model}.{self.setting.name}" if self.model else self.setting.name


def parse_name(text: str) -> Name:
    """Understand `NAME` or `models.MODEL.NAME`. Raises UsageError if there is no such setting."""
    prefix, dot, own = text.rpartition(".")
    model = prefix.removeprefix("models.").strip("\"'") if dot else None
    setting = SETTINGS.get(own)
    if setting is None or (model is not None and not (prefix.startswith("models.") and setting.per_model)):
        known = [name for name in SETTINGS if model is None or SETTINGS[name].per_model]
        close = closest(own, known)
        suggestion = f"did you mean `{close}`?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"unknown setting `{shown(text)}`; {suggestion}")
    if model is not None and model not in MODELS:
        raise UsageError(f"unknown model `{shown(model)}`; known: {', '.join(MODELS)}")
    return Name(setting, model)


def parse_value(name: Name, text: str) -> JsonValue:
    """Return the value of a setting that was given as text. Raises UsageError if it is invalid."""
    setting = name.setting
    value: JsonValue = text
    if setting.name == "api_url":
        return check_api_url(text)
    if setting.name == "seed" and text.strip().lower() == SEED_RANDOM:
        return SEED_RANDOM
    if setting.kind is not str:
        like = {bool: "raw", int: "seed", float: "guidance"}[setting.kind]  # a field of the same type
        try:
            value = parse_text(like, text)
        except ValueError as error:
            raise UsageError(f"`{name}` {error}, not `{shown(text)}`") from None
    if found := problem(name, value) or unknown_model(name, value):
        raise UsageError(found)
    return value


def problem(name: Name, value: object) -> str | None:
    """Return what is wrong with a stored value, or None. A model that this program does not know is accepted."""
    setting = name.setting
    if isinstance(value, str) and not value.strip():
        return f"`{name}` must not be empty"
    if setting.name in FIELDS and setting.name != "model":
        return None if (setting.name, value) == ("seed", SEED_RANDOM) else _broken_rule(name, value)
    if setting.name == "timeout":
        return _duration_problem(name, value)
    if setting.kind is bool and not isinstance(value, bool):
        return f"`{name}` must be true or false"
    if setting.name == "count":
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return None if valid else f"`{name}` must be a whole number, 1 or more, not {shown(value)}"
    if setting.kind is str and not isinstance(value, str):
        return f"`{name}` must be text in quotes"
    check = {"api_key": check_key, "api_url": check_api_url}.get(setting.name)
    try:
        if check:
            check(str(value))
    except FluxError as error:
        return f"`{name}`: {error.message}"
    return None


def unknown_model(name: Name, value: object) -> str | None:
    """Return what is wrong with the value of `model` if this program does not know that model."""
    return _broken_rule(name, value) if name.setting.name == "model" else None


def _broken_rule(name: Name, value: object) -> str | None:
    """Return the first rule of the request that a value breaks, in a request that is otherwise valid."""
    field = FIELDS[name.setting.name]
    model = name.model if name.model in MODELS else (field.models or (DEFAULT_MODEL,))[0]
    body = {"model": model, "prompt": "x", **({"image_prompt": "x"} if "strength" in field.name else {})}
    broken = violations({**body, field.name: value}, lambda _: f"`{name}`")
    return broken[0] if broken else None


def _duration_problem(name: Name, value: object) -> str | None:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return f'`{name}` must be seconds, or text like "10m"'
    try:
        parse_duration(str(value))
    except ValueError as error:
        return f"`{name}` {error}, not {shown(value)}"
    return None


def trim_key(text: str) -> str:
    """Return a key without what copying adds around it: white space, a byte order mark, carriage returns."""
    return text.strip(_AROUND_KEYS)


_AROUND_KEYS = " \t\r\n\v\f\0\u00a0\u200b\ufeff\udcef\udcbb\udcbf"
"""The last three are the bytes of a byte order mark in the environment of a C locale."""


def check_key(text: str) -> str:
    """Return the key, trimmed, if it can be sent as a header.

    Raises UsageError, whose message does not repeat it, if it is empty or has a space, a line break, a control or
    a non-ASCII character.
    """
    key = trim_key(text)
    if not key:
        raise UsageError("the key is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            "the key contains a space, a line break, a control or a non-ASCII character",
            "copy it again, without any text around it",
        )
    return key


def check_api_url(text: str) -> str:
    """Return the service's URL in one spelling: the history tells services apart by it.

    Scheme and host are in lower case; the scheme's default port and trailing slashes are left out. Raises
    UsageError if it is not an http or https URL with a host, or if it has a user name, a query or a fragment.
    """
    from urllib.parse import urlsplit

    if not is_http_url(text):
        raise UsageError(
            f"the API URL {shown(text)!r} is not an http or https URL",
            "it should look like https://api.apiframe.pro",
        )
    parts = urlsplit(text)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("the API URL takes no user name, query or fragment")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
