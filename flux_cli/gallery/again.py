"""The command that makes a picture again, quoted for a shell."""

import re
import shlex

from flux_cli.api.client import DEFAULT_API_URL
from flux_cli.api.request import flag, violations
from flux_cli.gallery.pictures import Picture
from flux_cli.storage.record import SANDBOX

_TREACHEROUS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal would act on when they are pasted, and those that change how a line reads."""
_ESCAPED = re.compile(rf"^-|[\\'!]|{_TREACHEROUS.pattern}")
"""Those, and what means something to a shell inside of `"$(printf '…')"`."""


def command(picture: Picture) -> str:
    """Return the command line, for any of bash, zsh, dash and fish from 3.4."""
    request = {name: value for name, value in picture.request.items() if not name.startswith("webhook_")}
    prompt = str(request.pop("prompt", ""))
    if picture.task_id and (prompt == "-" or "\0" in prompt):  # what no argument can be
        return f"flux-cli imagine --like {quoted(picture.task_id)}"
    words = ["flux-cli", "imagine"]
    for name, value in request.items():
        words += _option(name, value)
    if picture.service == SANDBOX:
        words.append("--sandbox")
    elif picture.service not in (None, DEFAULT_API_URL):
        words += ["--api-url", str(picture.service)]
    as_sent = {**request, "prompt": prompt, **({"image_prompt": "…"} if "image_prompt" in request else {})}
    if violations(as_sent):
        words.append("--no-validate")
    if prompt.startswith("-"):
        words.append("--")
    return " ".join(map(quoted, [*words, prompt]))


def note(picture: Picture) -> str:
    """Return what keeps the command from making the very same picture, or nothing."""
    image = picture.request.get("image_prompt")
    notes = []
    if isinstance(image, dict) and not image.get("source"):
        notes.append("The image prompt came from stdin: pipe the same image in.")
    if "seed" not in picture.request:
        notes.append("No seed was set: the same request gives another picture.")
    return " ".join(notes)


def quoted(text: str) -> str:
    """Return a text as one word of a shell's command line, safe to paste.

    No lone backslash stands in single quotes, where fish alone takes it for more.
    """
    if not _TREACHEROUS.search(text):
        bare = text.startswith(("=", "%")) and shlex.quote(text) == text  # zsh expands =ls, fish %self
        return f"'{text}'" if bare else shlex.quote(text).replace("\\", "'\"\\\\\"'")
    body = text.rstrip("\n")  # what `$(…)` takes away
    inner = _ESCAPED.sub(_escape, body.replace("%", "%%"))
    return f"\"$(printf '{inner}')\"" + (f"'{text[len(body) :]}'" if body != text else "")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in match[0].encode())


def _option(name: str, value: object) -> list[str]:
    option = flag(name).strip("`")
    if name == "image_prompt":
        source = value.get("source") if isinstance(value, dict) else None
        return [option, str(source or "-")]
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, str(value)]
