"""The reason of a failure, wherever a response states it."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_CHARACTERS = 2000
"""Longer reasons are cut."""

CONTAINERS = ("data", "task", "result")
"""Where a response may nest a task one level down."""

_ERRORS = ("errors", "error", "fail_reason", "failure_reason", "reason", "detail", "details")
_MESSAGES = ("message", "msg")
"""Weaker: a response that is no failure has them, too."""
_MAX_DEPTH = 4
_MAX_ITEMS = 20
_NO_TEXT = frozenset({"", "null", "none", "nil", "undefined", "n/a"})


def read_text(value: object) -> str | None:
    """Return a text without half characters, which JSON can contain, or None if it says nothing."""
    if not isinstance(value, str):
        return None
    text = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    return None if text.lower() in _NO_TEXT else text


def read_error(response: object) -> str | None:
    """Return the errors that a response states, or None. A mere `message` is not enough."""
    return _read(response, _ERRORS)


def read_reason(response: object) -> str | None:
    """Return why a response is not a success: its errors, otherwise its message, otherwise None."""
    return _read(response, _ERRORS) or _read(response, _MESSAGES)


def nested(response: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects one level down that may hold what belongs to the response itself."""
    for name in CONTAINERS:
        value = response.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            yield value


def _read(response: object, keys: tuple[str, ...]) -> str | None:
    if not isinstance(response, Mapping):
        return None
    for level in (*nested(response), response):
        for key in keys:
            if texts := _texts(level.get(key)):
                return "; ".join(dict.fromkeys(texts))[:MAX_CHARACTERS].strip()
    return None


def _texts(value: object, depth: int = _MAX_DEPTH) -> list[str]:
    """Return the texts of a reason: a text, a list of reasons, or an object that holds one."""
    if text := read_text(value):
        return [text]
    if depth == 0:
        return []
    if isinstance(value, list):
        return [text for each in value[:_MAX_ITEMS] for text in _texts(each, depth - 1)]
    if not isinstance(value, Mapping):
        return []
    for key in (*_MESSAGES, *_ERRORS):
        if texts := _texts(value.get(key), depth - 1):
            place = _place(value.get("loc"))
            return [f"{place}: {text}" for text in texts] if place else texts
    if value.keys() & {*_MESSAGES, *_ERRORS}:
        return []
    # One list of reasons per field: {"prompt": ["is too long"]}
    items = [(read_text(name), _texts(each, depth - 1)) for name, each in list(value.items())[:_MAX_ITEMS]]
    return [f"{name}: {text}" for name, texts in items for text in texts if name]


def _place(loc: object) -> str | None:
    """Return the `loc` of a validation error (`["body", "prompt"]`) as text."""
    parts = loc if isinstance(loc, list) else [loc]
    names = [str(part) for part in parts[:10] if isinstance(part, str | int) and not isinstance(part, bool)]
    return read_text(".".join(names))
