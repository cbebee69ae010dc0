"""The API's origin: /flux-imagine, /fetch, /fetch-many, /account."""

import asyncio
import hashlib
import hmac
import random
import re
import time
import uuid
from dataclasses import asdict

from aiohttp import web

from flux_cli.sandbox.access import FAULT, TASK, Handler, guarded
from flux_cli.sandbox.asked import Asked, asked_in, unknown_in
from flux_cli.sandbox.faults import Stage
from flux_cli.sandbox.intake import MAX_BODY_BYTES, Order, RefusedError, read_object, read_order
from flux_cli.sandbox.manners import FETCH_MANNERS, SUBMISSION_MANNERS, Spoiled, spoil
from flux_cli.sandbox.service import Service
from flux_cli.sandbox.tasks import Submission, Verbatim, length_of, to_json
from flux_cli.sandbox.wire import json_answer, refusal

FETCH_MANY = range(2, 21)
"""How many ids /fetch-many takes."""
BODY_SECONDS = 60.0
"""A body that takes longer to arrive is answered with 408."""
LARGE_BODY_BYTES = 256 * 1024
"""Larger bodies are read in a thread, one at a time: 27 MiB of base64 would hold up everybody else."""
STATS_PATH = "/_sandbox/stats"


class Api:
    """The handlers of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._large_bodies = asyncio.Semaphore(1)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(
            middlewares=[guarded(self._settings.log), self._allowed], client_max_size=MAX_BODY_BYTES
        )
        application.router.add_post("/flux-imagine", self._submit)
        application.router.add_post("/fetch", self._fetch)
        application.router.add_post("/fetch-many", self._fetch_many)
        application.router.add_get("/account", self._account)
        application.router.add_get(STATS_PATH, self._stats)
        return application

    @web.middleware
    async def _allowed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who has a key: raw, as the document says, or after `Bearer`, as the official SDK sends it."""
        if request.path != STATS_PATH:
            given = request.headers.get("Authorization", "").strip()
            key = re.sub(r"(?i)^bearer(\s+|$)", "", given)
            wanted = self._settings.key
            if not key or (wanted is not None and not hmac.compare_digest(_bytes(key), _bytes(wanted))):
                return refusal(401)
            self._service.saw_key(key)
        return await handler(request)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.submissions += 1
        order = await self._read_order(request)
        prompt = str(order.body["prompt"])
        asked = asked_in(prompt).over(self._settings.faults)
        for name in unknown_in(prompt):
            self._settings.log(f"note: no fault is called {name!r}, so [[{name}]] means nothing")
        subject = hashlib.sha256(_bytes(prompt)).hexdigest()
        fault = self._service.occurrences.next(subject, asked, Stage.SUBMISSION, SUBMISSION_MANNERS)
        if fault and is_refusal(fault[0], asked):
            return await self._spoil(request, "", asked, *fault)
        submission = new_submission(order, asked, self._settings.seconds)
        request[TASK] = submission.task_id
        if not await self._service.accept(submission, order.image_prompt):
            return refusal(402, "no credits left; `flux-cli sandbox --credits 1000` fills the sandbox's up again")
        answer: dict[str, object] = {"task_id": submission.task_id}
        if "no-task-id" in asked:
            answer = {}
        if "task-id" in asked:
            answer = {"task_id": Verbatim(asked.text("task-id", "JSON"))}
        if fault:
            return await self._spoil(request, to_json(answer), asked, *fault)
        return json_answer(answer)

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.fetches += 1
        task_id = (await self._read_object(request)).get("task_id")
        if not isinstance(task_id, str):
            return refusal(400, "`task_id` takes text")
        request[TASK] = task_id
        submission = await self._service.find(task_id)
        asked = self._service.asked(submission) if submission else self._settings.faults
        fault = self._service.occurrences.next(task_id, asked, Stage.FETCH, FETCH_MANNERS)
        if submission is None and not fault:
            return refusal(404, "no task has this id")
        answer = self._describe(request, submission) if submission else {}
        if fault:
            return await self._spoil(request, to_json(answer), asked, *fault)
        return json_answer(answer)

    async def _fetch_many(self, request: web.Request) -> web.StreamResponse:
        """Answer for several tasks, in the reverse of the order asked for: the service promises none."""
        self._service.stats.fetches += 1
        task_ids = (await self._read_object(request)).get("task_ids")
        if not isinstance(task_ids, list) or not all(isinstance(each, str) for each in task_ids):
            return refusal(400, "`task_ids` takes a list of texts")
        if len(task_ids) not in FETCH_MANY:
            return refusal(400, f"`task_ids` takes {FETCH_MANY[0]} to {FETCH_MANY[-1]} ids, not {len(task_ids)}")
        request[TASK] = f"{len(task_ids)} tasks"
        tasks: list[dict[str, object]] = []
        spoiled: tuple[Asked, str, int] | None = None
        for task_id in reversed(task_ids):
            submission = await self._service.find(task_id)
            asked = self._service.asked(submission) if submission else self._settings.faults
            if spoiled is None:  # an answer is spoiled once; the other tasks' faults wait for the next
                fault = self._service.occurrences.next(task_id, asked, Stage.FETCH, FETCH_MANNERS | {"left-out"})
                if fault and fault[0] == "left-out":
                    continue
                spoiled = fault and (asked, *fault)
            tasks.append(self._describe(request, submission) if submission else unknown(task_id))
        if spoiled:
            return await self._spoil(request, to_json({"tasks": tasks}), *spoiled)
        return json_answer({"tasks": tasks})

    async def _account(self, request: web.Request) -> web.StreamResponse:
        credits_left, images = await self._service.in_store(self._service.store.account)
        answer = {
            "email": "sandbox@example.com",
            "credits": credits_left,
            "total_images": images,
            "plan": "sandbox",
        }
        asked = self._settings.faults
        fault = self._service.occurrences.next("account", asked, Stage.SUBMISSION, SUBMISSION_MANNERS)
        if fault:
            return await self._spoil(request, to_json(answer), asked, *fault)
        return json_answer(answer)

    async def _stats(self, _: web.Request) -> web.StreamResponse:
        return json_answer(asdict(self._service.stats))

    async def _read_object(self, request: web.Request) -> dict[str, object]:
        return read_object(await self._read(request))

    async def _read_order(self, request: web.Request) -> Order:
        body, allow_remote = await self._read(request), self._settings.allow_remote_webhooks
        if len(body) <= LARGE_BODY_BYTES:
            return read_order(body, allow_remote)
        async with self._large_bodies:
            return await asyncio.to_thread(read_order, body, allow_remote)

    async def _read(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RefusedError(f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB", status=413)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError:
            raise RefusedError("the body took too long", status=408) from None
        except web.RequestPayloadError:
            raise RefusedError("the body is not what its headers say") from None

    def _describe(self, request: web.Request, submission: Submission) -> dict[str, object]:
        return self._service.describe(submission, self._service.images_url_for(request.host), time.time())

    async def _spoil(
        self, request: web.Request, answer: str, asked: Asked, name: str, number: int
    ) -> web.StreamResponse:
        request[FAULT] = name
        elsewhere = f"{self._service.images_url_for(request.host)}{request.path}"
        return await spoil(Spoiled(request, answer, asked, name, elsewhere), number)


def is_refusal(name: str, asked: Asked) -> bool:
    """Say whether a fault at submission means that the task is not accepted; all others spend a credit."""
    return name == "rate-limit" or (name == "http" and asked.text(name, "CODE").startswith("4"))


def new_submission(order: Order, asked: Asked, seconds: float) -> Submission:
    """Return the task that an order makes. Without a seed in the request, one is chosen here and kept."""
    seed = order.body.get("seed")
    return Submission(
        task_id=str(uuid.uuid4()),
        submitted=time.time(),
        seconds=length_of(asked, seconds),
        seed=seed if isinstance(seed, int) else random.randrange(2**32),  # noqa: S311 - no secret
        body=order.body,
        image_prompt=order.digest,
    )


def unknown(task_id: str) -> dict[str, object]:
    """Return what /fetch-many says of an id that it does not know."""
    return {"task_id": task_id, "errors": [{"msg": "no task has this id"}]}


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
