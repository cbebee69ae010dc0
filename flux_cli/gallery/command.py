"""The command that makes a picture again, quoted for a shell.

A sidecar can come from anyone. So the command uses only fields of the request, never another option such as
`--output`, and no URL of a service: the key is sent only where the user's own configuration says.
"""

import re
import shlex

from flux_cli.api.request import FIELDS, flag, violations
from flux_cli.gallery.collection import Picture

_DANGEROUS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that control a terminal when they are pasted, or reorder a line."""
_ESCAPED = re.compile(rf"^-|[\\'!]|{_DANGEROUS.pattern}")
"""Those, and characters with a special meaning inside `"$(printf '…')"`."""


def command(picture: Picture) -> str:
    """Return the command line, for bash, zsh, dash, and fish from version 3.4."""
    request = {name: value for name, value in picture.request.items() if _is_usable(name, value)}
    prompt = str(request.pop("prompt", ""))
    if prompt == "-" or "\0" in prompt:  # cannot be an argument
        source = picture.task_id if picture.trusted and picture.task_id else str(picture.path)
        return f"flux-cli imagine {_joined('--like', source)}"
    words = [word for name, value in request.items() for word in _option(picture, name, value)]
    if picture.sandbox:
        words.append("--sandbox")
    as_sent = {**request, "prompt": prompt, **({"image_prompt": "…"} if "image_prompt" in request else {})}
    if violations(as_sent):
        words.append("--no-validate")
    if prompt.startswith("-"):
        words.append("--")
    return " ".join(["flux-cli imagine", *words, quoted(prompt)])


def note(picture: Picture) -> str:
    """Return why the command does not make the same picture, or needs input; otherwise an empty text."""
    notes = []
    if "image_prompt" in picture.request:
        source = _source(picture)
        if source is None:
            notes.append("The image prompt came from stdin: pipe the same image in.")
        elif not picture.trusted:
            notes.append(f"The image prompt was {source}: pipe the same image in.")
    if "seed" not in picture.request:
        notes.append("No seed was set: the same request gives another picture.")
    return " ".join(notes)


def quoted(text: str) -> str:
    """Return a text as one word of a shell's command line, safe to paste: fish interprets a backslash in `'`."""
    if not _DANGEROUS.search(text):
        bare = text.startswith(("=", "%")) and shlex.quote(text) == text  # zsh expands =ls, fish %self
        return f"'{text}'" if bare else shlex.quote(text).replace("\\", "'\"\\\\\"'")
    body = text.rstrip("\n")  # `$(…)` removes them
    inner = _ESCAPED.sub(_escape, body.replace("%", "%%"))
    return f"\"$(printf '{inner}')\"" + (f"'{text[len(body) :]}'" if body != text else "")


def _is_usable(name: str, value: object) -> bool:
    if name not in FIELDS or name.startswith("webhook_"):
        return False
    kind = FIELDS[name].kind
    if name == "image_prompt":
        return isinstance(value, dict)
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in match[0].encode())


def _option(picture: Picture, name: str, value: object) -> list[str]:
    """Return an option. A file named by a sidecar is not sent to the service: the sidecar can come from anyone."""
    option = flag(name).strip("`")
    if name == "image_prompt":
        return [option, quoted(_source(picture) or "-") if picture.trusted else "-"]
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [_joined(option, str(value))]


def _joined(option: str, value: str) -> str:
    """Return an option with its value, joined by `=` if the value could be mistaken for another option."""
    return f"{option}={quoted(value)}" if value.startswith("-") else f"{option} {quoted(value)}"


def _source(picture: Picture) -> str | None:
    described = picture.request.get("image_prompt")
    source = described.get("source") if isinstance(described, dict) else None
    return str(source) if source else None
