"""Reading JSON as gateways really send it: any charset, text around it, absurd numbers."""

import json
import math
import re
from typing import Any

_MAX_CANDIDATES = 100
"""How many opening braces in a text are tried as the start of an object."""
_CHARSETS = re.compile(
    r"(us[-_]?)?ascii|(iso[-_]?)?8859[-_]\d+|latin[-_]?\d+|(windows|cp)[-_]?\d+"
    r"|gb(2312|k|18030)|big5|shift[-_]?jis|euc[-_](jp|kr)|koi8[-_][ru]"
)
"""The charsets that a header can declare. UTF-16 and UTF-32 are detected; some of the other codecs are slow."""
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


def decode(content: bytes, content_type: str = "") -> str:
    """Return a body as text: by its byte order mark, else by the header's charset, else as UTF-8.

    Bytes that are invalid in the charset become U+FFFD.
    """
    charset: str = json.detect_encoding(content)
    declared = re.search(r"""charset\s*=\s*["']?([\w.-]+)""", content_type.lower())
    if charset == "utf-8" and declared and _CHARSETS.fullmatch(declared[1]):
        charset = declared[1]
    try:
        return content.decode(charset, "replace")
    except LookupError:
        return content.decode("utf-8", "replace")


def parse(text: str) -> Any:  # JSON from outside is Any until it has been examined
    """Return the value of a JSON text; of another text, the first JSON object in it.

    Numbers that are not finite, and integers of more than 300 digits, become None. Raises ValueError if there is
    no object, or if it is nested too deeply.
    """
    try:
        try:
            return _DECODER.decode(text.lstrip("\ufeff"))
        except json.JSONDecodeError as error:
            return _first_object(text, error)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _first_object(text: str, error: json.JSONDecodeError) -> Any:
    """Return the first object between other text, but none of a page's scripts or inside a broken one."""
    if _PAGE.match(text):
        raise error
    start = 0
    for _ in range(_MAX_CANDIDATES):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            return _DECODER.raw_decode(text, start)[0]
        except json.JSONDecodeError as failure:
            if failure.msg.startswith("Unterminated"):
                break  # what follows is inside a truncated string
            start = failure.pos
    raise error


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= 300 else None


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None, parse_int=_integer)
