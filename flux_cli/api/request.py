"""The imagine request: its fields, the models, and every rule, as the service's document gives them.

One table serves the flags, the rows of a batch, the list of models, the manual and the sandbox's refusals.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

JsonValue = str | int | float | bool
Body = dict[str, JsonValue]

PRO, DEV, PRO_11, ULTRA, SCHNELL = (
    "flux-pro",
    "flux-dev",
    "flux-pro-1.1",
    "flux-pro-1.1-ultra",
    "flux-schnell",
)
MODELS = (PRO, DEV, PRO_11, ULTRA, SCHNELL)
DEFAULT_MODEL = PRO

MAX_IMAGE_PROMPT_BYTES = 20 * 1024 * 1024
"""The largest image prompt, before base64."""


@dataclass(frozen=True)
class Field:
    """One field of the request body.

    Attributes:
        name: The key in the body; the flag is `--` and the name with dashes.
        kind: The JSON type. A `float` field takes whole numbers too.
        minimum: The smallest number allowed, or None.
        maximum: The largest number allowed, or None.
        models: The models that take the field; empty for all of them.
        default: What the service uses when the field is absent, where its document says so.
    """

    name: str
    kind: type[str] | type[int] | type[float] | type[bool]
    minimum: int | None = None
    maximum: int | None = None
    models: tuple[str, ...] = ()
    default: str | None = None


FIELDS = {
    field.name: field
    for field in (
        Field("model", str),
        Field("prompt", str),
        Field("image_prompt", str),
        Field("image_prompt_strength", float, 0, 1, models=(ULTRA,)),
        Field("prompt_upsampling", bool),
        Field("width", int, 256, 1440, default="1024"),
        Field("height", int, 256, 1440, default="768"),
        Field("aspect_ratio", str, models=(ULTRA,), default="16:9"),
        Field("steps", int, models=(PRO, DEV)),
        Field("guidance", float, models=(PRO, DEV)),
        Field("interval", int, 1, 4, models=(PRO,), default="2"),
        Field("seed", int),
        Field("safety_tolerance", int, 0, 6),
        Field("raw", bool, models=(ULTRA,)),
        Field("webhook_url", str),
        Field("webhook_secret", str),
    )
}

WIDEST, TALLEST = (21, 9), (9, 21)

_KIND_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_RATIO = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")
_WORDS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

NameOf = Callable[[str], str]
"""How a message names a field: as a flag on the command line, as a key in JSON, as a column in a batch."""


def flag(name: str) -> str:
    """Return how the command line names a field."""
    return "PROMPT" if name == "prompt" else f"`--{name.replace('_', '-')}`"


def key(name: str) -> str:
    """Return how a JSON body names a field."""
    return f"`{name}`"


def parse_text(name: str, text: str) -> JsonValue:
    """Turn what was typed for a field into its JSON type.

    Raises:
        ValueError: With what the field takes instead; the message names neither field nor value.
    """
    kind = FIELDS[name].kind
    if kind is str:
        return text
    text = text.strip()
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if kind is float and (_FLOAT.fullmatch(text) or text.lower().lstrip("+-") in ("nan", "inf", "infinity")):
        raise ValueError("takes a finite number")
    raise ValueError(f"takes {_KIND_NAMES[kind]}")


def shown(value: object) -> str:
    """Return a value as a message quotes it: shortened, and recognisable as what was given."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def broken_rules(body: Mapping[str, object], name_of: NameOf = key) -> list[str]:
    """Return a sentence for each rule of the service's document that a request body breaks.

    Every rule is checked, so that all of them can be mended in one go. An image prompt counts as text here;
    its bytes are checked where it is read.
    """
    return list(_broken(body, name_of))


def _broken(body: Mapping[str, object], name_of: NameOf) -> Iterator[str]:
    prompt = body.get("prompt", "")
    if isinstance(prompt, str) and not prompt.strip():
        yield f"{name_of('prompt')} must not be blank"
    model = body.get("model")
    if "model" not in body:
        yield f"{name_of('model')} is missing"
    elif isinstance(model, str) and model not in MODELS:
        yield f"{name_of('model')} does not know `{shown(model)}`{_nearest(model, MODELS)}"
    for name, value in body.items():
        field = FIELDS.get(name)
        if field is None:
            yield f"{name_of(name)} is not a field of the request{_nearest(name, FIELDS)}"
            continue
        if not _has_kind(value, field.kind):
            given = "" if name == "webhook_secret" else f", not {shown(value)!r}"  # a message is no place for it
            yield f"{name_of(name)} takes {_KIND_NAMES[field.kind]}{given}"
            continue
        if isinstance(value, str) and not _is_text(value):
            yield f"{name_of(name)} is not UTF-8 text"
            continue
        yield from _broken_value(field, value, name_of)
        if field.models and model in MODELS and model not in field.models:
            allowed = " or ".join(f"`{allowed}`" for allowed in field.models)
            yield f"{name_of(name)} needs {allowed}, the model is `{model}`"
    if "image_prompt_strength" in body and "image_prompt" not in body:
        yield f"{name_of('image_prompt_strength')} needs {name_of('image_prompt')}"


def _is_text(value: str) -> bool:
    """Say whether a text can be sent: an argument of the command line may hold bytes that are none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_kind(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _broken_value(field: Field, value: object, name_of: NameOf) -> Iterator[str]:
    name = name_of(field.name)
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name} takes a finite number, not {value}"
    elif isinstance(value, int | float) and field.minimum is not None and field.maximum is not None:
        if not field.minimum <= value <= field.maximum:
            yield f"{name} takes {field.minimum} to {field.maximum}, not {shown(value)}"
    elif field.name == "aspect_ratio" and not _is_aspect_ratio(str(value)):
        yield f"{name} takes `W:H` between 21:9 and 9:21, not `{shown(value)}`"
    elif field.name == "webhook_url" and not is_http_url(str(value)):
        yield f"{name} takes an http or https URL, not `{shown(value)}`"


def _is_aspect_ratio(text: str) -> bool:
    match = _RATIO.fullmatch(text)
    if not match:
        return False
    width, height = int(match[1]), int(match[2])
    not_too_wide = width * WIDEST[1] <= height * WIDEST[0]
    not_too_tall = width * TALLEST[1] >= height * TALLEST[0]
    return width > 0 and height > 0 and not_too_wide and not_too_tall


def is_http_url(text: str) -> bool:
    """Say whether a text is an absolute http or https URL with a host and nothing unprintable in it."""
    from urllib.parse import urlsplit

    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _nearest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(known)}"
