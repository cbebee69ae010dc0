"""The faults that a prompt or `--fault` can request: their table, and the parser of their arguments.

`[[name]]` or `[[name argument]]` in a prompt requests a fault, as a test card number requests a failed payment.
The table is the only list: `--list-faults`, the manual and completion print it.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from flux_cli.errors import closest

Faults = Mapping[str, str]
"""The faults that apply: the name of each, and its arguments as they were written."""


class Stage(StrEnum):
    """Where a fault happens."""

    TASK = "the task and its status"
    SUBMISSION = "the response to a submission"
    FETCH = "the response of /fetch and /fetch-many"
    IMAGE = "the download of the picture"
    WEBHOOK = "the webhooks"


_TASK = {
    "fail [FIELD]": "fails at its end; the reason is in FIELD (default: errors)",
    "moderated": "fails early, with a moderation reason",
    "never": "never ends; its percentage approaches 99",
    "slow SECONDS": "takes this long",
    "seconds SECONDS": "the same as slow",
    "no-status": "the finished result has no status and no percentage, as in the service's document",
    "completed": "the finished result says `completed` instead of `finished`",
    "finished-status WORD": "the finished result has this status (Succeeded, DONE, …)",
    "failed-status WORD": "the failed result has this status (timed out, Moderated, not-found, …)",
    "status WORD": "while running, its status is this word (queued, In_Progress, retry, …)",
    "no-percentage": "while running, it has no percentage",
    "string-percentage": 'while running, its percentage is a string ("40")',
    "percentage JSON": "while running, its percentage is always this JSON value (null, -5, 1e400, {}, …)",
    "percentage-backwards": "its percentage falls back to 10 halfway",
    "no-image": "its status is `finished`, but there is never an image_url",
    "late-image SECONDS": "its status is `finished` this long before there is an image_url",
    "no-original": "the finished result has no original_image_url",
    "image-url URL": "the finished result has this text as its URLs",
    "url-list [KEY]": "the finished result lists its URLs under KEY (default: image_urls)",
    "data-url": "the finished result contains the picture itself, as a data: URL",
    "protocol-relative": "the URLs begin with //",
    "host-relative": "the URLs begin with / and refer to the API's origin",
    "nested-result [KEY]": "the result is nested under KEY (default: data)",
    "hostile-text": "fails; the reason contains markup, escape sequences, line breaks and bidi overrides",
    "unknown-task": "accepted, but unknown to /fetch (404)",
    "number-id": "its ID is a JSON number",
    "spaced-id": "its ID has spaces around it in the response to the submission",
}

_RESPONSE = {
    "http CODE [TIMES]": "this status; 2xx with the usual body, 3xx with a Location, others with an error",
    "html [TIMES]": "an HTML page with status 200",
    "reset [TIMES]": "the connection is reset instead of a response",
    "lost-reply [TIMES]": "the connection is closed instead of a response",
    "empty [TIMES]": "status 200 and no body",
    "truncated-json [TIMES]": "JSON that ends halfway, with a matching Content-Length",
    "cut-json [TIMES]": "JSON that ends halfway, with the Content-Length of the whole",
    "json JSON": "this JSON value instead of the usual body",
    "nested [KEY]": "the usual body, nested under KEY (default: data)",
    "padded-json [TIMES]": "text before and after the JSON",
    "charset CHARSET": "the body in this charset (utf-16, latin-1, …), named in Content-Type",
    "redirect [URL]": "307 to the URL; by default to the images' origin",
    "rate-limit [TIMES [RETRY-AFTER]]": "429, once or TIMES times, with this Retry-After"
    " (default: 1; date: a date 1 s ahead; none: no header)",
    "early-hints [TIMES]": "103 Early Hints before the response",
    "endless-continue [TIMES]": "100 Continue again and again, and no response",
    "slow-header [TIMES]": "a header that arrives one byte per 0.2 s and never ends",
    "trickle [TIMES]": "one byte per 0.2 s, without end",
    "hang [TIMES]": "no response, and the connection stays open",
    "huge-answer [TIMES]": "64 MiB of valid JSON",
    "deep-json [TIMES]": "JSON nested 100,000 deep",
}
"""Of a submission; with the prefix `fetch-`, of a fetch."""

_SUBMISSION = {
    "no-task-id": "an object without task_id",
    "task-id JSON": "this JSON value as the task_id",
    "rejected [FIELD]": "status 200 with a reason in FIELD and no task_id; not accepted",
}

_FETCH = {
    "left-out [TIMES]": "/fetch-many omits the task",
    "fetch-flaky TIMES": "this many fetches fail, each in a different way: 503, reset, 429, HTML, 500, cut, 504",
}

_IMAGE = {
    "image-http CODE [TIMES]": "this status; 2xx with the picture",
    "image-rate-limit [TIMES [RETRY-AFTER]]": "429, as rate-limit",
    "expired-url": "always 403 for the first URL; another fetch returns one that works",
    "html-image [TIMES]": "an HTML page with status 200",
    "json-image [TIMES]": "a JSON object with status 200",
    "empty-image [TIMES]": "status 200 and no bytes",
    "image-reset [TIMES]": "the connection is reset halfway",
    "cut-download [TIMES]": "half of the bytes, with the Content-Length of all",
    "short-length [TIMES]": "half of the bytes, with a matching Content-Length",
    "no-length [TIMES]": "all bytes, no Content-Length, ended by closing the connection",
    "cut-no-length [TIMES]": "half of the bytes, no Content-Length, ended by closing",
    "chunked [TIMES]": "all bytes, in chunks",
    "cut-chunked [TIMES]": "half of the bytes, in chunks, without the last one",
    "gzip [TIMES]": "compressed, although this was not requested",
    "cut-gzip [TIMES]": "half of the compressed bytes, with a matching Content-Length",
    "content-encoding CODING": "this Content-Encoding, although the bytes are unchanged",
    "ignore-range [TIMES]": "status 200 with all bytes for a range request",
    "wrong-range [TIMES]": "status 206 with bytes other than the requested range",
    "changed-file [TIMES]": "a different version of the picture, with a different ETag",
    "damaged-image [TIMES]": "one byte in the middle is wrong",
    "trailing-data [TIMES]": "64 KiB after the end of the picture",
    "image-early-hints [TIMES]": "103 Early Hints before the response",
    "image-endless-continue [TIMES]": "100 Continue again and again",
    "image-slow-header [TIMES]": "a header that arrives one byte per 0.2 s and never ends",
    "image-trickle [TIMES]": "one byte per 0.2 s",
    "image-hang [TIMES]": "half of the bytes, then silence",
    "huge-image [TIMES]": "300 MiB that begin like a PNG",
    "image-redirect [URL]": "302 to the URL; by default to the picture under another URL",
    "utf8-redirect": "302 with raw UTF-8 in the Location",
    "redirect-loop": "302 to itself",
    "jpeg-as-png": "a JPEG with a name that ends in .png and the type image/png",
    "webp": "a WebP",
    "gif": "a GIF",
    "format FORMAT": "another format: avif, bmp, heic, jxl, mp4, svg or tiff",
}

_WEBHOOK = {
    "webhook-twice": "every event is posted twice",
    "webhook-out-of-order": "an older update arrives after the final result",
    "webhook-no-secret": "the x-webhook-secret header is missing",
    "webhook-wrong-secret": "the x-webhook-secret header is wrong",
    "webhook-never": "nothing is posted",
}

REASON_FIELDS = ("errors", "error", "message", "detail", "detail-list", "reason", "fail_reason", "none")
FORMATS = ("avif", "bmp", "heic", "jxl", "mp4", "svg", "tiff")

RULES = (
    "Write the fault in the prompt; one prompt can contain several. A name that is not in the list gets a 400.",
    "TIMES: how often it happens per task (for a submission: per prompt); the default is every time.",
    "A submission that gets a 4xx (except 408, 409 and 425) or a 301, 302, 307 or 308 is not accepted."
    " With any other fault it is accepted and costs a credit.",
    f"FIELD is one of {', '.join(REASON_FIELDS)}.",
)


_ARGUMENTS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "CODE": (lambda text: 200 <= int(text) <= 599, "200 to 599"),
    "TIMES": (lambda text: 1 <= int(text) <= 1_000_000, "a whole number from 1"),
    "SECONDS": (lambda text: 0 <= float(text) <= 1_000_000, "a number from 0"),
    "FIELD": (lambda text: text in REASON_FIELDS, f"one of {', '.join(REASON_FIELDS)}"),
    "FORMAT": (lambda text: text in FORMATS, f"one of {', '.join(FORMATS)}"),
    "JSON": (lambda text: [json.loads(text)], "JSON"),
    "CHARSET": (lambda text: ["{}".encode(text)], "the name of a charset"),
    **dict.fromkeys(("CODING", "RETRY-AFTER", "URL"), (str.isprintable, "text without control characters")),
}
"""The check of each argument, which is true for valid values, and their description. Others can be any text."""


@dataclass(frozen=True, eq=False, repr=False)
class Fault:
    """One row of the table: its name and those of its arguments, where it happens, and its effect for the user."""

    pattern: str
    stage: Stage
    effect: str

    @property
    def name(self) -> str:
        """What requests it, with or without arguments."""
        return self.pattern.partition(" ")[0]

    @property
    def usage(self) -> str:
        """How a prompt requests it."""
        return f"[[{self.pattern}]]"

    def arguments(self, text: str) -> dict[str, str]:
        """Return the arguments in a text; the last one takes the rest. Raises ValueError if they are invalid."""
        _, _, takes = self.pattern.partition(" ")
        names = re.sub(r"[][]", "", takes).split()
        needed = len(takes.partition("[")[0].split())
        given = text.split(maxsplit=max(0, len(names) - 1))
        if not needed <= len(given) <= len(names):
            raise ValueError(f"`[[{f'{self.name} {text}'.strip()}]]` should be `{self.usage}`")
        arguments = dict(zip(names, map(str.strip, given), strict=False))
        for name, value in arguments.items():
            is_valid, description = _ARGUMENTS.get(name, (bool, ""))
            try:
                valid = is_valid(value)
            except (ValueError, LookupError, RecursionError):
                valid = False
            if not valid:
                raise ValueError(f"invalid value `{value[:60]}` for `{self.usage}`: {name} is {description}")
        return arguments


_ROWS = {
    Stage.TASK: _TASK,
    Stage.SUBMISSION: _SUBMISSION | _RESPONSE,
    Stage.FETCH: {f"fetch-{pattern}": effect for pattern, effect in _RESPONSE.items()} | _FETCH,
    Stage.IMAGE: _IMAGE,
    Stage.WEBHOOK: _WEBHOOK,
}
_FAULTS = (Fault(pattern, stage, effect) for stage, rows in _ROWS.items() for pattern, effect in rows.items())

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
"""Every fault by name, in the order in which several of one stage take effect."""


def faults_in(prompt: str) -> dict[str, str]:
    """Return what is in double brackets in a prompt as faults, which are not checked."""
    found = re.finditer(r"(?is)\[\[\s*([a-z][a-z0-9-]*)\b(.*?)\]\](?!\])", prompt)
    return {match[1].lower(): match[2].strip() for match in found}


def parse_faults(texts: Iterable[str]) -> dict[str, str]:
    """Return the faults in texts like `http 503`, with or without brackets. Raises as `check` does."""
    words = (text.strip().removeprefix("[[").removesuffix("]]").strip().partition(" ") for text in texts)
    faults = {name.lower(): rest.strip() for name, _, rest in words}
    check(faults)
    return faults


def check(faults: Faults) -> None:
    """Check names and arguments.

    Raises:
        ValueError: A name is unknown, with the closest one, or an argument is invalid.
    """
    for name, text in faults.items():
        if name not in FAULTS:
            close = closest(name, FAULTS)
            raise ValueError(f"unknown fault `{name}`" + (f"; did you mean `{close}`?" if close else ""))
        FAULTS[name].arguments(text)
