"""The faults that a prompt or `--fault` can request: their table, and the parser of their arguments.

`[[name]]` or `[[name argument]]` in a prompt requests a fault, as a test card number requests a failed payment.
The table is the only list: `--list-faults`, the manual and completion print it, and `injection.py` has a handler
for each `kind`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flux_cli.errors import closest


class Stage(StrEnum):
    """Where a fault happens."""

    TASK = "the task and its status"
    SUBMISSION = "the response to a submission"
    FETCH = "the response of /fetch and /fetch-many"
    IMAGE = "the download of the picture"
    WEBHOOK = "the webhooks"


@dataclass(frozen=True, eq=False, repr=False)
class Fault:
    """One row of the table.

    Attributes:
        name: The text between the brackets.
        stage: Where it happens.
        takes: The names of its arguments, separated by spaces; those in `[]` are optional.
        effect: What happens, for the user.
        kind: The handler that alters the response; empty if the fault changes only the content.
    """

    name: str
    stage: Stage
    takes: str
    effect: str
    kind: str = ""

    @property
    def usage(self) -> str:
        """How a prompt requests it."""
        return f"[[{self.name} {self.takes}]]" if self.takes else f"[[{self.name}]]"


_TASK = (
    ("fail", "[FIELD]", "fails at its end; the reason is in FIELD (default: errors)"),
    ("moderated", "", "fails early, with a moderation reason"),
    ("never", "", "never ends; its percentage approaches 99"),
    ("slow", "SECONDS", "takes this long"),
    ("seconds", "SECONDS", "the same as slow"),
    ("no-status", "", "the finished result has no status and no percentage, as in the service's document"),
    ("completed", "", "the finished result says `completed` instead of `finished`"),
    ("finished-status", "WORD", "the finished result has this status (Succeeded, DONE, …)"),
    ("failed-status", "WORD", "the failed result has this status (timed out, Moderated, not-found, …)"),
    ("status", "WORD", "while running, its status is this word (queued, In_Progress, retry, …)"),
    ("no-percentage", "", "while running, it has no percentage"),
    ("string-percentage", "", 'while running, its percentage is a string ("40")'),
    ("percentage", "JSON", "while running, its percentage is always this JSON value (null, -5, 1e400, {}, …)"),
    ("percentage-backwards", "", "its percentage falls back to 10 halfway"),
    ("no-image", "", "its status is `finished`, but there is never an image_url"),
    ("late-image", "SECONDS", "its status is `finished` this long before there is an image_url"),
    ("no-original", "", "the finished result has no original_image_url"),
    ("image-url", "URL", "the finished result has this text as its URLs"),
    ("url-list", "[KEY]", "the finished result lists its URLs under KEY (default: image_urls)"),
    ("data-url", "", "the finished result contains the picture itself, as a data: URL"),
    ("protocol-relative", "", "the URLs begin with //"),
    ("host-relative", "", "the URLs begin with / and refer to the API's origin"),
    ("nested-result", "[KEY]", "the result is nested under KEY (default: data)"),
    ("hostile-text", "", "fails; the reason contains markup, escape sequences, line breaks and bidi overrides"),
    ("unknown-task", "", "accepted, but unknown to /fetch (404)"),
    ("number-id", "", "its ID is a JSON number"),
    ("spaced-id", "", "its ID has spaces around it in the response to the submission"),
)

_RESPONSE = (
    ("http", "CODE [TIMES]", "this status; 2xx with the usual body, 3xx with a Location, others with an error"),
    ("html", "[TIMES]", "an HTML page with status 200"),
    ("reset", "[TIMES]", "the connection is reset instead of a response"),
    ("lost-reply", "[TIMES]", "the connection is closed instead of a response"),
    ("empty", "[TIMES]", "status 200 and no body"),
    ("truncated-json", "[TIMES]", "JSON that ends halfway, with a matching Content-Length"),
    ("cut-json", "[TIMES]", "JSON that ends halfway, with the Content-Length of the whole"),
    ("json", "JSON", "this JSON value instead of the usual body"),
    ("nested", "[KEY]", "the usual body, nested under KEY (default: data)"),
    ("padded-json", "[TIMES]", "text before and after the JSON"),
    ("charset", "CHARSET", "the body in this charset (utf-16, latin-1, …), named in Content-Type"),
    ("redirect", "[URL]", "307 to the URL; by default to the images' origin"),
    (
        "rate-limit",
        "[TIMES [RETRY-AFTER]]",
        "429, once or TIMES times, with this Retry-After (default: 1; date: a date 1 s ahead; none: no header)",
    ),
    ("early-hints", "[TIMES]", "103 Early Hints before the response"),
    ("endless-continue", "[TIMES]", "100 Continue again and again, and no response"),
    ("slow-header", "[TIMES]", "a header that arrives one byte per 0.2 s and never ends"),
    ("trickle", "[TIMES]", "one byte per 0.2 s, without end"),
    ("hang", "[TIMES]", "no response, and the connection stays open"),
    ("huge-answer", "[TIMES]", "64 MiB of valid JSON"),
    ("deep-json", "[TIMES]", "JSON nested 100,000 deep"),
)
"""Of a submission; with the prefix `fetch-`, of a fetch."""

_SUBMISSION = (
    ("no-task-id", "", "an object without task_id", ""),
    ("task-id", "JSON", "this JSON value as the task_id", ""),
    ("rejected", "[FIELD]", "status 200 with a reason in FIELD and no task_id; not accepted", "rejected"),
)

_FETCH = (
    ("left-out", "[TIMES]", "/fetch-many omits the task", ""),
    (
        "fetch-flaky",
        "TIMES",
        "this many fetches fail, each in a different way: 503, reset, 429, HTML, 500, cut, 504",
        "flaky",
    ),
)

_IMAGE = (
    ("image-http", "CODE [TIMES]", "this status; 2xx with the picture", "http"),
    ("image-rate-limit", "[TIMES [RETRY-AFTER]]", "429, as rate-limit", "rate-limit"),
    ("expired-url", "", "always 403 for the first URL; another fetch returns one that works", ""),
    ("html-image", "[TIMES]", "an HTML page with status 200", "html"),
    ("json-image", "[TIMES]", "a JSON object with status 200", "json-image"),
    ("empty-image", "[TIMES]", "status 200 and no bytes", "empty"),
    ("image-reset", "[TIMES]", "the connection is reset halfway", "reset-halfway"),
    ("cut-download", "[TIMES]", "half of the bytes, with the Content-Length of all", "cut-json"),
    ("short-length", "[TIMES]", "half of the bytes, with a matching Content-Length", "truncated-json"),
    ("no-length", "[TIMES]", "all bytes, no Content-Length, ended by closing the connection", "no-length"),
    ("cut-no-length", "[TIMES]", "half of the bytes, no Content-Length, ended by closing", "cut-no-length"),
    ("chunked", "[TIMES]", "all bytes, in chunks", "chunked"),
    ("cut-chunked", "[TIMES]", "half of the bytes, in chunks, without the last one", "cut-chunked"),
    ("gzip", "[TIMES]", "compressed, although this was not requested", "gzip"),
    ("cut-gzip", "[TIMES]", "half of the compressed bytes, with a matching Content-Length", "cut-gzip"),
    ("content-encoding", "CODING", "this Content-Encoding, although the bytes are unchanged", "content-encoding"),
    ("ignore-range", "[TIMES]", "status 200 with all bytes for a range request", "ignore-range"),
    ("wrong-range", "[TIMES]", "status 206 with bytes other than the requested range", "wrong-range"),
    ("changed-file", "[TIMES]", "a different version of the picture, with a different ETag", "changed-file"),
    ("damaged-image", "[TIMES]", "one byte in the middle is wrong", "damaged-image"),
    ("trailing-data", "[TIMES]", "64 KiB after the end of the picture", "trailing-data"),
    ("image-early-hints", "[TIMES]", "103 Early Hints before the response", "early-hints"),
    ("image-endless-continue", "[TIMES]", "100 Continue again and again", "endless-continue"),
    ("image-slow-header", "[TIMES]", "a header that arrives one byte per 0.2 s and never ends", "slow-header"),
    ("image-trickle", "[TIMES]", "one byte per 0.2 s", "trickle"),
    ("image-hang", "[TIMES]", "half of the bytes, then silence", "hang-halfway"),
    ("huge-image", "[TIMES]", "300 MiB that begin like a PNG", "huge-image"),
    ("image-redirect", "[URL]", "302 to the URL; by default to the picture under another URL", "image-redirect"),
    ("utf8-redirect", "", "302 with raw UTF-8 in the Location", "utf8-redirect"),
    ("redirect-loop", "", "302 to itself", "redirect-loop"),
    ("jpeg-as-png", "", "a JPEG with a name that ends in .png and the type image/png", ""),
    ("webp", "", "a WebP", ""),
    ("gif", "", "a GIF", ""),
    ("format", "FORMAT", "another format: avif, bmp, heic, jxl, mp4, svg or tiff", ""),
)

_WEBHOOK = (
    ("webhook-twice", "", "every event is posted twice"),
    ("webhook-out-of-order", "", "an older update arrives after the final result"),
    ("webhook-no-secret", "", "the x-webhook-secret header is missing"),
    ("webhook-wrong-secret", "", "the x-webhook-secret header is wrong"),
    ("webhook-never", "", "nothing is posted"),
)


def _rows() -> Iterator[Fault]:
    yield from (Fault(name, Stage.TASK, takes, effect) for name, takes, effect in _TASK)
    yield from (Fault(name, Stage.SUBMISSION, takes, effect, kind) for name, takes, effect, kind in _SUBMISSION)
    yield from (Fault(name, Stage.SUBMISSION, takes, effect, name) for name, takes, effect in _RESPONSE)
    yield from (Fault(f"fetch-{name}", Stage.FETCH, takes, effect, name) for name, takes, effect in _RESPONSE)
    yield from (Fault(name, Stage.FETCH, takes, effect, kind) for name, takes, effect, kind in _FETCH)
    yield from (Fault(name, Stage.IMAGE, takes, effect, kind) for name, takes, effect, kind in _IMAGE)
    yield from (Fault(name, Stage.WEBHOOK, takes, effect) for name, takes, effect in _WEBHOOK)


FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _rows()}
"""Every fault by name, in the order in which several of one stage take effect."""

REASON_FIELDS = ("errors", "error", "message", "detail", "detail-list", "reason", "fail_reason", "none")
FORMATS = ("avif", "bmp", "heic", "jxl", "mp4", "svg", "tiff")
NOT_CHARGED_REDIRECTS = (301, 302, 307, 308)
UNKNOWN_OUTCOMES = (408, 409, 425)

RULES = (
    "Write the fault in the prompt; one prompt can contain several.",
    "TIMES: how often it happens per task (for a submission: per prompt); the default is every time.",
    "A submission that gets a 4xx (except 408, 409 and 425) or a 301, 302, 307 or 308 is not accepted."
    " With any other fault it is accepted and costs a credit.",
    f"FIELD is one of {', '.join(REASON_FIELDS)}.",
)


@dataclass(frozen=True, eq=False, repr=False)
class FaultSet:
    """The faults that apply, each with the text of its arguments by name."""

    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def argument(self, name: str, argument: str, default: str = "") -> str:
        """Return an argument of a fault, or the default if either was not given."""
        return self.values.get(name, {}).get(argument, default)

    def at(self, stage: Stage) -> Iterator[Fault]:
        """Return the faults of one stage, in the order of the table."""
        return (fault for name, fault in FAULTS.items() if fault.stage is stage and name in self.values)

    def merged(self, others: "FaultSet") -> "FaultSet":
        """Return these and others together; if both have a fault, these arguments win."""
        return FaultSet({**others.values, **self.values}) if others.values else self

    def accepts(self, fault: Fault) -> bool:
        """Return whether a submission with this fault is accepted and charged."""
        if fault.kind != "http":
            return fault.kind not in ("rate-limit", "rejected", "redirect")
        code = int(self.argument(fault.name, "CODE"))
        return code not in NOT_CHARGED_REDIRECTS and (not 400 <= code < 500 or code in UNKNOWN_OUTCOMES)


_NO_FAULTS = FaultSet()
_IN_BRACKETS = r"(?is)\[\[\s*([a-z][a-z0-9-]*)\b(.*?)\]\](?!\])"


def parse_prompt(prompt: str) -> FaultSet:
    """Return the faults in a prompt. Unknown names are ignored.

    Raises:
        ValueError: A known fault has an invalid argument.
    """
    if "[[" not in prompt:
        return _NO_FAULTS
    found = ((match[1].lower(), match[2]) for match in re.finditer(_IN_BRACKETS, prompt))
    return FaultSet({name: _arguments(FAULTS[name], text) for name, text in found if name in FAULTS})


def unknown_names(prompt: str) -> list[str]:
    """Return the names in double brackets that are not faults, and may be misspelled."""
    return [match[1] for match in re.finditer(_IN_BRACKETS, prompt) if match[1].lower() not in FAULTS]


def parse_faults(texts: Iterable[str]) -> FaultSet:
    """Return the faults in texts like `http 503`, with or without brackets.

    Raises:
        ValueError: A name is unknown, with the closest one, or an argument is invalid.
    """
    values = {}
    for text in texts:
        name, _, rest = text.strip().removeprefix("[[").removesuffix("]]").strip().partition(" ")
        name = name.lower()
        if name not in FAULTS:
            close = closest(name, FAULTS)
            raise ValueError(f"unknown fault `{name}`" + (f"; did you mean `{close}`?" if close else ""))
        values[name] = _arguments(FAULTS[name], rest)
    return FaultSet(values)


def _arguments(fault: Fault, text: str) -> dict[str, str]:
    """Return a fault's arguments; the last one takes the rest of the text."""
    names = fault.takes.replace("[", "").replace("]", "").split()
    needed = len(fault.takes.partition("[")[0].split())
    given = text.split(maxsplit=max(0, len(names) - 1)) if names else text.split()
    if not needed <= len(given) <= len(names):
        raise ValueError(f"`[[{fault.name}{text}]]` should be `{fault.usage}`")
    arguments = {name: each.strip() for name, each in zip(names, given, strict=False)}
    for name, value in arguments.items():
        try:
            valid = name not in _ARGUMENTS or _ARGUMENTS[name][0](value)
        except (ValueError, LookupError, RecursionError):
            valid = False
        if not valid:
            raise ValueError(f"invalid value `{value[:60]}` for `{fault.usage}`: {name} is {_ARGUMENTS[name][1]}")
    return arguments


def _is_number(text: str, low: int, high: int) -> bool:
    return text.isascii() and text.isdigit() and low <= int(text[:9]) <= high


_ARGUMENTS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "CODE": (lambda text: _is_number(text, 200, 599), "200 to 599"),
    "TIMES": (lambda text: _is_number(text, 1, 1_000_000), "a whole number from 1"),
    "SECONDS": (lambda text: 0 <= float(text) <= 1_000_000, "a number from 0"),
    "FIELD": (lambda text: text in REASON_FIELDS, f"one of {', '.join(REASON_FIELDS)}"),
    "FORMAT": (lambda text: text in FORMATS, f"one of {', '.join(FORMATS)}"),
    "JSON": (lambda text: [json.loads(text)], "JSON"),
    "CHARSET": (lambda text: ["{}".encode(text)], "the name of a charset"),
    **dict.fromkeys(("CODING", "RETRY-AFTER", "URL"), (str.isprintable, "text without control characters")),
}
"""The check of each argument, which is true for valid values, and their description. Others can be any text."""
