"""The imagine request: its fields, the models, and every rule of the service's documentation.

`FIELDS` describes each field once. The flags, the batch columns, completion, `models`, the manual and the
sandbox's validation derive from it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flux_cli.errors import closest

JsonValue = str | int | float | bool
Body = dict[str, JsonValue]

PRO, DEV, ULTRA = "flux-pro", "flux-dev", "flux-pro-1.1-ultra"
MODELS = {
    PRO: "high quality, with full control",
    DEV: "experiments; close to flux-pro",
    "flux-pro-1.1": "better and faster than flux-pro",
    ULTRA: "the highest resolution; wide and tall pictures",
    "flux-schnell": "the fastest; drafts",
}
"""Each model, and what it is for."""
DEFAULT_MODEL = PRO

MAX_IMAGE_PROMPT_BYTES = 20 * 1024 * 1024
"""The largest image prompt, before base64."""
MAX_QUOTED = 60
"""How many characters of a value a message quotes."""


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """One field of the request body.

    A `float` field accepts whole numbers too. `limits` are the smallest and the largest number. Without `models`,
    all models accept the field. `default` is what the service's documentation says. `values` are for completion.
    """

    name: str
    kind: type[str] | type[int] | type[float] | type[bool]
    help: str
    limits: tuple[int, int] | None = None
    models: tuple[str, ...] = ()
    default: str | None = None
    text_metavar: str = "TEXT"
    values: tuple[str, ...] = ()
    short: str | None = None
    envvar: str | None = None

    @property
    def metavar(self) -> str | None:
        """The placeholder for the value in help and manual; None for true or false."""
        if self.limits:
            return f"{self.limits[0]}-{self.limits[1]}"
        return {str: self.text_metavar, int: "INTEGER", float: "NUMBER"}.get(self.kind)

    @property
    def description(self) -> str:
        """The help text with the service's default and the models that accept the field."""
        default = f" The service's default: {self.default}." if self.default else ""
        models = f" Only {' and '.join(self.models)}." if self.models else ""
        return f"{self.help}{default}{models}"


_RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21")
_ALL_FIELDS = (
    Field(
        "model",
        str,
        f"The model. Default: {DEFAULT_MODEL}.",
        text_metavar="MODEL",
        values=tuple(MODELS),
        short="-m",
        envvar="FLUX_CLI_MODEL",
    ),
    Field("prompt", str, "The description of the picture.", text_metavar="PROMPT"),
    Field(
        "image_prompt",
        str,
        "An image to start from: a file, a URL, or - for stdin; PNG, JPEG or WebP, at most 20 MiB.",
        text_metavar="SOURCE",
    ),
    Field("image_prompt_strength", float, "Weight of the image prompt.", (0, 1), (ULTRA,)),
    Field("prompt_upsampling", bool, "Let the service rewrite the prompt for a more creative picture."),
    Field("width", int, "Width in pixels.", (256, 1440), default="1024"),
    Field("height", int, "Height in pixels.", (256, 1440), default="768"),
    Field("aspect_ratio", str, "From 21:9 to 9:21.", None, (ULTRA,), "16:9", "W:H", _RATIOS),
    Field("steps", int, "Number of generation steps.", models=(PRO, DEV)),
    Field("guidance", float, "How closely to follow the prompt, at the cost of realism.", models=(PRO, DEV)),
    Field("interval", int, "Interval of guidance control.", (1, 4), (PRO,), "2", values=("1", "2", "3", "4")),
    Field(
        "seed",
        int,
        "Seed, to get the same picture again; `random` picks one and records it.",
        values=("random",),
    ),
    Field(
        "safety_tolerance",
        int,
        "Moderation, from 0 (strictest) to 6.",
        limits=(0, 6),
        values=("0", "1", "2", "3", "4", "5", "6"),
    ),
    Field("raw", bool, "A less processed, more natural look.", models=(ULTRA,)),
    Field("webhook_url", str, "Where the service posts updates and the result.", text_metavar="URL"),
    Field(
        "webhook_secret",
        str,
        "Returned in the header x-webhook-secret. Safer in the environment than here.",
        envvar="FLUX_CLI_WEBHOOK_SECRET",
    ),
)
FIELDS = {field.name: field for field in _ALL_FIELDS}

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f]"
"""C0 and C1 without tab and newline."""
_KIND_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_INTEGER = r"[+-]?[0-9]{1,300}"
_FLOAT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_RATIO = r"([0-9]{1,4}):([0-9]{1,4})"
_WORDS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

NameOf = Callable[[str], str]
"""How a message names a field: as a flag, as a key in JSON, or as a column of a batch."""


def flag(name: str) -> str:
    """Return the name of a field on the command line."""
    return "PROMPT" if name == "prompt" else f"`--{name.replace('_', '-')}`"


def key(name: str) -> str:
    """Return the name of a field in a JSON body."""
    return f"`{name}`"


def parse_text(name: str, text: str) -> JsonValue:
    """Return the JSON value of a field that was given as text.

    Raises ValueError if it is of another type. The message ("must be a number") names neither field nor value.
    """
    kind = FIELDS[name].kind
    if kind is str:
        return text
    text = text.strip()
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind in (int, float) and re.fullmatch(_INTEGER, text):
        return int(text)
    if kind is float and re.fullmatch(_FLOAT, text) and math.isfinite(number := float(text)):
        return number
    if kind is float and (re.fullmatch(_FLOAT, text) or text.lower().lstrip("+-") in ("nan", "inf", "infinity")):
        raise ValueError("must be a finite number")
    raise ValueError(f"must be {_KIND_NAMES[kind]}")


def as_recorded(body: Body, image_prompt: object) -> dict[str, Any]:
    """Return a body as it is recorded: without the webhook secret, and with a description of its image prompt."""
    kept = {name: value for name, value in body.items() if name != "webhook_secret"}
    return {**kept, "image_prompt": image_prompt} if "image_prompt" in body else kept


def random_seed() -> int:
    """Return a seed for `--seed random`. It is chosen here so that the history and sidecars have it."""
    import random

    return random.randrange(2**32)  # noqa: S311 - a seed is no secret


def shown(value: object) -> str:
    """Return a value as a message quotes it: at most `MAX_QUOTED` characters."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…"


def violations(body: Mapping[str, object], name_of: NameOf = key) -> list[str]:
    """Return one sentence for each rule that a request body breaks.

    Every rule is checked, so that all mistakes can be corrected at once. An image prompt is only checked to be
    text here; its bytes are checked when it is read.
    """
    return list(_violations(body, name_of))


def _violations(body: Mapping[str, object], name_of: NameOf) -> Iterator[str]:
    prompt = body.get("prompt", "")
    if isinstance(prompt, str) and not prompt.strip():
        yield f"{name_of('prompt')} must not be blank"
    model = body.get("model")
    known_model = isinstance(model, str) and model in MODELS
    if "model" not in body:
        yield f"{name_of('model')} is missing"
    elif isinstance(model, str) and not known_model:
        yield f"{name_of('model')}: unknown model `{shown(model)}`{_suggestion(similar_model(model), MODELS)}"
    for name, value in body.items():
        field = FIELDS.get(name)
        if field is None:
            suggestion = _suggestion(closest(name, FIELDS), FIELDS)
            yield f"{name_of(shown(name))} is not a field of the request{suggestion}"
        elif not _has_kind(value, field.kind):
            given = "" if name == "webhook_secret" else f", not {shown(value)!r}"  # a secret is never quoted
            yield f"{name_of(name)} must be {_KIND_NAMES[field.kind]}{given}"
        elif isinstance(value, str) and not _is_text(value):
            yield f"{name_of(name)} is not UTF-8 text"
        else:
            yield from _value_violations(field, value, name_of)
            if field.models and known_model and model not in field.models:
                allowed = " or ".join(f"`{allowed}`" for allowed in field.models)
                yield f"{name_of(name)} needs {allowed}, but the model is `{model}`"
    if "image_prompt_strength" in body and "image_prompt" not in body:
        yield f"{name_of('image_prompt_strength')} needs {name_of('image_prompt')}"


def similar_model(name: str) -> str | None:
    """Return the most similar model: the same words in another order, a last part, or a close spelling."""
    words = sorted(re.split("[-_ ]+", name.lower().removeprefix("black-forest-labs/")))
    for model in MODELS:
        if words in (sorted(model.split("-")), sorted(model.split("-")[1:])):
            return model
    return closest(name, MODELS) or closest(f"flux-{name}", MODELS)


def _is_text(value: str) -> bool:
    """Return whether a text can be encoded: a command-line argument may contain bytes that are not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_kind(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _value_violations(field: Field, value: object, name_of: NameOf) -> Iterator[str]:
    name = name_of(field.name)
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name} must be a finite number, not {value}"
    elif isinstance(value, int | float) and field.limits:
        low, high = field.limits
        if not low <= value <= high:
            yield f"{name} must be {low} to {high}, not {shown(value)}"
    elif field.name == "prompt" and (found := re.search(_CONTROL, str(value))):
        yield f"{name} contains the control character U+{ord(found[0]):04X}"
    elif field.name == "aspect_ratio" and not _is_aspect_ratio(str(value)):
        yield f"{name} must be `W:H` between 21:9 and 9:21, not `{shown(value)}`"
    elif field.name == "webhook_url" and not is_http_url(str(value)):
        yield f"{name} must be an http or https URL, not `{shown(value)}`"


def _is_aspect_ratio(text: str) -> bool:
    match = re.fullmatch(_RATIO, text)
    if not match:
        return False
    width, height = int(match[1]), int(match[2])
    return height > 0 and 9 * width <= 21 * height and 9 * height <= 21 * width


def is_http_url(text: str) -> bool:
    """Return whether a text is an absolute, printable http or https URL with a host."""
    from urllib.parse import urlsplit

    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _suggestion(close: str | None, known: Mapping[str, object]) -> str:
    return f"; did you mean `{close}`?" if close else f"; known: {', '.join(known)}"
