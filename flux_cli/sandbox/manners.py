"""The ways in which an answer of the API goes wrong: the faults of a submission, and the same of a fetch."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from time import time

from aiohttp import web

from flux_cli.sandbox.asked import Asked
from flux_cli.sandbox.wire import Silence, hang, html_page, raw, refusal, refuse_with, reset, trickle

HUGE_ANSWER_BYTES = 64 * 1024 * 1024
DEPTH = 100_000
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Spoiled:
    """An answer that is to go wrong.

    Attributes:
        request: What it answers.
        answer: What would have been said, JSON.
        asked: The faults, for their arguments.
        name: The fault that happens, as it was asked for.
        elsewhere: Where a redirect leads that names no URL.
    """

    request: web.BaseRequest
    answer: str
    asked: Asked
    name: str
    elsewhere: str

    def argument(self, name: str) -> str | None:
        """Return an argument of the fault as text."""
        value = self.asked.argument(self.name, name)
        return None if value is None else str(value)


async def spoil(spoiled: Spoiled, number: int) -> web.StreamResponse:
    """Answer in the way that a fault wants, for the `number`th time (from 0)."""
    name = spoiled.name.removeprefix("fetch-")
    if name == "flaky":
        return await FLAKY[number % len(FLAKY)](spoiled)
    return await MANNERS[name](spoiled)


async def _http(spoiled: Spoiled) -> web.StreamResponse:
    return refuse_with(int(spoiled.argument("CODE") or 500))


async def _html(_: Spoiled) -> web.StreamResponse:
    return html_page(200)


async def _reset(spoiled: Spoiled) -> web.StreamResponse:
    return reset(spoiled.request)


async def _lost_reply(_: Spoiled) -> web.StreamResponse:
    return Silence()


async def _empty(_: Spoiled) -> web.StreamResponse:
    return web.Response(content_type="application/json")


async def _truncated_json(spoiled: Spoiled) -> web.StreamResponse:
    return web.Response(text=spoiled.answer[: len(spoiled.answer) // 2], content_type="application/json")


async def _cut_json(spoiled: Spoiled) -> web.StreamResponse:
    whole = spoiled.answer.encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(whole))}
    return raw(spoiled.request, headers, whole[: len(whole) // 2])


async def _json(spoiled: Spoiled) -> web.StreamResponse:
    return web.Response(text=spoiled.argument("JSON"), content_type="application/json")


async def _redirect(spoiled: Spoiled) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": spoiled.argument("URL") or spoiled.elsewhere})


async def _rate_limit(spoiled: Spoiled) -> web.StreamResponse:
    after = spoiled.argument("RETRY-AFTER") or "1"
    if after == "date":
        after = formatdate(time() + 1, usegmt=True)
    headers = {} if after == "none" else {"Retry-After": after}
    return refusal(429, "too many requests", headers=headers)


async def _trickle(spoiled: Spoiled) -> web.StreamResponse:
    return await trickle(spoiled.request, b" " * 100_000, "application/json")


async def _hang(_: Spoiled) -> web.StreamResponse:
    return await hang()


async def _huge_answer(spoiled: Spoiled) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(spoiled.request)
    await response.write(spoiled.answer[:-1].encode() + b', "padding": "')
    for _ in range(HUGE_ANSWER_BYTES // _CHUNK):
        await response.write(b"x" * _CHUNK)
    await response.write(b'"}')
    return response


async def _deep_json(_: Spoiled) -> web.StreamResponse:
    return web.Response(text="[" * DEPTH + "]" * DEPTH, content_type="application/json")


async def _unavailable(_: Spoiled) -> web.StreamResponse:
    return html_page(503)


async def _gateway_timeout(_: Spoiled) -> web.StreamResponse:
    return html_page(504)


async def _server_error(_: Spoiled) -> web.StreamResponse:
    return refusal(500)


Manner = Callable[[Spoiled], Awaitable[web.StreamResponse]]

MANNERS: Mapping[str, Manner] = {
    "http": _http,
    "html": _html,
    "reset": _reset,
    "lost-reply": _lost_reply,
    "empty": _empty,
    "truncated-json": _truncated_json,
    "cut-json": _cut_json,
    "json": _json,
    "redirect": _redirect,
    "rate-limit": _rate_limit,
    "trickle": _trickle,
    "hang": _hang,
    "huge-answer": _huge_answer,
    "deep-json": _deep_json,
}

FLAKY: tuple[Manner, ...] = (_unavailable, _reset, _rate_limit, _html, _server_error, _cut_json, _gateway_timeout)
"""The ways of `fetch-flaky`, in turn."""

SUBMISSION_MANNERS = frozenset(MANNERS)
FETCH_MANNERS = frozenset({f"fetch-{name}" for name in MANNERS} | {"fetch-flaky"})
