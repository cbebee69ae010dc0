"""Removing keys and webhook secrets from text, however JSON or a URL has spelled them."""

import re
from collections.abc import Mapping

MIN_KEY_CHARACTERS, MIN_SECRET_CHARACTERS = 8, 16
"""Shorter ones are not removed. A webhook secret is chosen by its owner: a short one could be a word that occurs
in an ID or a URL as well."""

REDACTED = "[redacted]"

_WEBHOOK_FIELD = r'("(?:x[-_]?)?webhook[-_]?secret"\s*:\s*)"(?:[^"\\]|\\.)*"'


class Redactor:
    """Replaces the secrets that were added to it by `[redacted]`."""

    def __init__(self) -> None:
        self._secrets: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str | None, least: int = MIN_SECRET_CHARACTERS) -> None:
        """Remove this text from now on, unless it has fewer than `least` characters."""
        if secret and len(secret) >= least and secret not in self._secrets:
            self._secrets[secret] = None
            self._pattern = None

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        # Escaped ones contain one of these; hardly any text does, and the pattern takes 2 ms to compile.
        if not ("\\" in text or "%" in text or any(secret in text for secret in self._secrets)):
            return text
        if self._pattern is None:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._pattern = re.compile(
                "|".join("".join(map(_spellings, each)) for each in longest_first) or "(?!)"
            )
        return self._pattern.sub(REDACTED, text)


def _spellings(character: str) -> str:
    """Return a pattern for one character: as it is, as JSON (also inside JSON) and as URLs escape it."""
    units = character.encode("utf-16-be", "surrogatepass")
    escaped = "".join(rf"\\+u{_any_case(units[at : at + 2].hex())}" for at in range(0, len(units), 2))
    percent = "".join(f"%{_any_case(f'{byte:02x}')}" for byte in character.encode("utf-8", "surrogateescape"))
    backslash = "\\\\*" if character in '"\\/' else ""
    return f"(?:{backslash}{re.escape(character)}|{escaped}|{percent})"


def _any_case(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)


def without_webhook_secrets(value: object) -> object:
    """Return parsed JSON in which every field that is called `webhook_secret`, in any spelling, is redacted.

    The service may repeat the fields of a request, also one that another machine sent with another secret.
    """
    if isinstance(value, Mapping):
        return {
            name: REDACTED if _is_webhook_secret(name) else without_webhook_secrets(each)
            for name, each in value.items()
        }
    return [without_webhook_secrets(each) for each in value] if isinstance(value, list) else value


def without_secret_fields(text: str) -> str:
    """Do what `without_webhook_secrets` does for JSON in a text, which may be incomplete."""
    return re.sub(_WEBHOOK_FIELD, rf'\1"{REDACTED}"', text, flags=re.IGNORECASE)


def _is_webhook_secret(name: object) -> bool:
    return re.sub(r"[^a-z]", "", str(name).lower()).removeprefix("x") == "webhooksecret"
