"""The faults that can be asked for, as a test card number asks for a payment to fail.

A prompt that contains `[[name]]` or `[[name argument]]` asks for one; several may stand in one prompt. The table
below is the only list of them: prompts are read by it, and `flux-cli sandbox --list-faults` prints it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where a fault happens."""

    TASK = "the task and what is said of it"
    SUBMISSION = "the answer to a submission"
    FETCH = "the answer of /fetch and /fetch-many"
    IMAGE = "the download of the picture"
    WEBHOOK = "the webhooks"


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        name: What stands between the brackets.
        stage: Where it happens.
        takes: The names of its arguments, those in `[]` optional, separated by spaces.
        effect: What happens, for people.
    """

    name: str
    stage: Stage
    takes: str
    effect: str

    @property
    def usage(self) -> str:
        """How it is written in a prompt."""
        return f"[[{self.name} {self.takes}]]" if self.takes else f"[[{self.name}]]"


_TASK = (
    ("fail", "[FIELD]", "fails at its end; FIELD has the reason: errors (as without it), error, message or none"),
    ("moderated", "", "fails early, with the reason that the content was moderated"),
    ("never", "", "never ends; its percentage creeps towards 99"),
    ("slow", "SECONDS", "takes this long"),
    ("seconds", "SECONDS", "the same as slow"),
    ("no-status", "", "the finished result has no status and no percentage, as in the service's document"),
    ("completed", "", "the finished result says `completed` instead of `finished`"),
    ("status", "WORD", "while running its status is this word (queued, staged, retry, …)"),
    ("no-percentage", "", "while running it has no percentage"),
    ("string-percentage", "", 'while running its percentage is a string ("40")'),
    ("percentage", "JSON", "while running its percentage is always this JSON value (null, -5, 1e400, {}, …)"),
    ("percentage-backwards", "", "half-way its percentage falls back to 10"),
    ("no-image", "", "it says `finished`, and never gives an image_url"),
    ("no-original", "", "the finished result has no original_image_url"),
    ("image-url", "URL", "the finished result gives this text as its URLs"),
    ("hostile-text", "", "fails; the reason holds markup, escape sequences, line breaks and bidi overrides"),
    ("unknown-task", "", "accepted, but later /fetch does not know it (404)"),
)

_ANSWERS = (
    ("http", "CODE [TIMES]", "this status, with the body that the service or a gateway gives it"),
    ("html", "[TIMES]", "an HTML page with status 200"),
    ("reset", "[TIMES]", "the connection is reset instead of an answer"),
    ("lost-reply", "[TIMES]", "the connection is closed instead of an answer"),
    ("empty", "[TIMES]", "status 200 and no body"),
    ("truncated-json", "[TIMES]", "JSON that ends half-way, with a Content-Length that agrees"),
    ("cut-json", "[TIMES]", "JSON that ends half-way, with a Content-Length that promises the rest"),
    ("json", "JSON", "this JSON value instead of the answer"),
    ("redirect", "[URL]", "307 to the URL; without one, to the images' origin"),
    (
        "rate-limit",
        "[TIMES [RETRY-AFTER]]",
        "429, once or TIMES times, with this Retry-After (without it 1; date: a date 1 s ahead; none: no header)",
    ),
    ("trickle", "[TIMES]", "a byte every 0.2 s, without end"),
    ("hang", "[TIMES]", "no answer, and the connection stays open"),
    ("huge-answer", "[TIMES]", "64 MiB of valid JSON"),
    ("deep-json", "[TIMES]", "JSON nested 100,000 deep"),
)

_SUBMISSION = (
    ("no-task-id", "", "the answer is an object without task_id"),
    ("task-id", "JSON", "the task_id in the answer is this JSON value instead"),
)

_FETCH = (
    ("left-out", "[TIMES]", "/fetch-many leaves it out of its answer"),
    (
        "fetch-flaky",
        "TIMES",
        "so many fetches go wrong, each in another way: 503, reset, 429, HTML, 500, cut, 504",
    ),
)

_IMAGE = (
    ("image-http", "CODE [TIMES]", "this status"),
    ("expired-url", "", "403 for the first URL and for ever; a fresh fetch gives one that works"),
    ("html-image", "[TIMES]", "an HTML page with status 200"),
    ("json-image", "[TIMES]", "a JSON object with status 200"),
    ("empty-image", "[TIMES]", "status 200 and no bytes"),
    ("image-reset", "[TIMES]", "the connection is reset half-way"),
    ("cut-download", "[TIMES]", "half of the bytes, with a Content-Length that promises the rest"),
    ("short-length", "[TIMES]", "half of the bytes, with a Content-Length that agrees"),
    ("no-length", "[TIMES]", "all bytes, no Content-Length, ended by closing the connection"),
    ("cut-no-length", "[TIMES]", "half of the bytes, no Content-Length, ended by closing the connection"),
    ("chunked", "[TIMES]", "all bytes, in chunks"),
    ("cut-chunked", "[TIMES]", "half of the bytes, in chunks, without the last one"),
    ("gzip", "[TIMES]", "compressed, though nobody asked for it"),
    ("cut-gzip", "[TIMES]", "half of the compressed bytes, with a Content-Length that agrees"),
    ("image-trickle", "[TIMES]", "a byte every 0.2 s"),
    ("image-hang", "[TIMES]", "half of the bytes, then silence"),
    ("huge-image", "[TIMES]", "300 MiB that begin like a PNG"),
    ("image-redirect", "[URL]", "302 to the URL; without one, to the picture under another path"),
    ("redirect-loop", "", "302 to itself"),
    ("jpeg-as-png", "", "a JPEG under a name that ends in .png, called image/png"),
    ("webp", "", "a WebP, named and called so"),
    ("gif", "", "a GIF, named and called so"),
)

_WEBHOOK = (
    ("webhook-twice", "", "every event is posted twice"),
    ("webhook-out-of-order", "", "after the final result an update arrives that is older"),
    ("webhook-no-secret", "", "the x-webhook-secret header is left out"),
    ("webhook-wrong-secret", "", "the x-webhook-secret header is wrong"),
    ("webhook-never", "", "nothing is posted"),
)


def _rows() -> Iterator[Fault]:
    yield from (Fault(name, Stage.TASK, takes, effect) for name, takes, effect in _TASK)
    for name, takes, effect in (*_SUBMISSION, *_ANSWERS):
        yield Fault(name, Stage.SUBMISSION, takes, effect)
    for name, takes, effect in _ANSWERS:
        yield Fault(f"fetch-{name}", Stage.FETCH, takes, effect)
    yield from (Fault(name, Stage.FETCH, takes, effect) for name, takes, effect in _FETCH)
    yield from (Fault(name, Stage.IMAGE, takes, effect) for name, takes, effect in _IMAGE)
    yield from (Fault(name, Stage.WEBHOOK, takes, effect) for name, takes, effect in _WEBHOOK)


FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _rows()}
"""Every fault, by name, in the order in which they are tried when a prompt asks for several at one stage."""

RULES = (
    "A fault is asked for by writing it in the prompt; several may stand in one.",
    "TIMES: it happens only so often, for each task (for a submission: each prompt); without it, every time.",
    "At submission a 4xx status means that the task was not accepted; after any other fault it was, for a credit.",
)
