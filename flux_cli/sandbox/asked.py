"""Reading which faults are asked for: in a prompt, or by name for every request of a server."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flux_cli.sandbox.faults import FAULTS, Fault, Stage

Value = int | float | str | None

_ASKED = re.compile(r"\[\[\s*([a-z][a-z-]*)\b(.*?)\]\](?!\])", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """Faults that were asked for, each with its arguments by their names."""

    values: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def argument(self, name: str, argument: str) -> Value:
        """Return an argument of a fault; None when either was not given."""
        return self.values.get(name, {}).get(argument)

    def text(self, name: str, argument: str) -> str:
        """Return an argument that is there, as text."""
        return str(self.values[name][argument])

    def at(self, stage: Stage) -> Iterator[str]:
        """Return the names of the faults at one stage, in the table's order."""
        return (name for name, fault in FAULTS.items() if fault.stage is stage and name in self.values)

    def over(self, others: "Asked") -> "Asked":
        """Return these and others together; where both have one, these win."""
        return Asked({**others.values, **self.values}) if others.values else self


def asked_in(prompt: str) -> Asked:
    """Return the faults that a prompt asks for. Names that are not in the table mean nothing.

    Raises:
        ValueError: A known name with an argument that it does not take.
    """
    if "[[" not in prompt:
        return _NONE
    return Asked(
        {
            name: _arguments(FAULTS[name], match[2])
            for match in _ASKED.finditer(prompt)
            if (name := match[1].lower()) in FAULTS
        }
    )


def unknown_in(prompt: str) -> list[str]:
    """Return what stands in double brackets in a prompt and is no fault: perhaps a slip worth a warning."""
    return [match[1] for match in _ASKED.finditer(prompt) if match[1].lower() not in FAULTS]


def asked_by_name(texts: Iterable[str]) -> Asked:
    """Return the faults in texts like `http 503`, with or without brackets.

    Raises:
        ValueError: With what is wrong, and the nearest name where one is not known.
    """
    values = {}
    for text in texts:
        name, _, rest = text.strip().removeprefix("[[").removesuffix("]]").strip().partition(" ")
        if name.lower() not in FAULTS:
            close = difflib.get_close_matches(name.lower(), FAULTS, n=1)
            raise ValueError(f"no fault is called `{name}`" + (f"; did you mean `{close[0]}`?" if close else ""))
        values[name.lower()] = _arguments(FAULTS[name.lower()], rest)
    return Asked(values)


_NONE = Asked()


def _arguments(fault: Fault, text: str) -> dict[str, Value]:
    """Read a fault's arguments; the last of them takes what is left of the text."""
    names = fault.takes.replace("[", "").replace("]", "").split()
    needed = len(fault.takes.partition("[")[0].split())
    given = text.split(maxsplit=max(0, len(names) - 1)) if names else text.split()
    if not needed <= len(given) <= len(names):
        raise ValueError(f"`{fault.usage}` was written as `[[{fault.name}{text}]]`")
    values = dict(zip(names, given, strict=False))
    try:
        return {name: _READERS[name](value.strip()) for name, value in values.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{fault.usage}` does not take `{text.strip()[:60]}`: {error}") from None


def _code(text: str) -> int:
    if text.isascii() and text.isdigit() and 200 <= int(text[:6]) <= 599:
        return int(text)
    raise ValueError("CODE is 200 to 599")


def _times(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 1_000_000:
        return int(text)
    raise ValueError("TIMES is a whole number from 1")


def _seconds(text: str) -> float:
    value = float(text)
    if math.isfinite(value) and 0 <= value <= 1_000_000:
        return value
    raise ValueError("SECONDS is a number from 0")


def _field(text: str) -> str:
    if text in ("errors", "error", "message", "none"):
        return text
    raise ValueError("FIELD is errors, error, message or none")


def _json(text: str) -> str:
    """Return the text as it stands: `1e400` has to reach the client like that."""
    json.loads(text)
    return text


_READERS: Mapping[str, Callable[[str], Value]] = {
    "CODE": _code,
    "TIMES": _times,
    "SECONDS": _seconds,
    "FIELD": _field,
    "JSON": _json,
    "WORD": str,
    "URL": str,
    "RETRY-AFTER": str,
}
