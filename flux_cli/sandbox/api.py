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

from flux_cli.sandbox.cdn import Cdn
from flux_cli.sandbox.faults import Fault, FaultSet, Stage, parse_prompt, unknown_names
from flux_cli.sandbox.injection import Injection, inject
from flux_cli.sandbox.responses import FAULT, TASK, RequestHandler, error_response, json_response, logged
from flux_cli.sandbox.service import PICTURES_PATH, SandboxService
from flux_cli.sandbox.tasks import RawJson, Submission, json_id, task_seconds
from flux_cli.sandbox.validation import (
    MAX_BODY_BYTES,
    RejectedError,
    ValidRequest,
    parse_object,
    parse_submission,
)

FETCH_MANY = range(2, 21)
"""How many IDs /fetch-many takes."""
BODY_SECONDS = 60.0
"""A body that takes longer to arrive gets a 408."""
STATS_PATH = "/_sandbox/stats"
UNLIMITED_CREDITS = 1_000_000
"""The balance that an embedded sandbox reports: it never charges."""
OTHER_API = "the key starts with afk_, which belongs to the v2 API; this endpoint is v1"


class Api:
    """The handlers of one server."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service
        self._settings = service.settings

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(
            middlewares=[logged(self._settings.log), self._authorized], client_max_size=MAX_BODY_BYTES
        )
        router = application.router
        router.add_post("/flux-imagine", self._submit)
        router.add_post("/fetch", self._fetch)
        router.add_post("/fetch-many", self._fetch_many)
        router.add_get("/account", self._account)
        router.add_get(STATS_PATH, self._stats)
        router.add_get(PICTURES_PATH + "/{name}.{extension}", Cdn(self._service).picture)
        return application

    @web.middleware
    async def _authorized(self, request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        """Require a key: bare, as in the service's documentation, or after `Bearer`, as in the official SDK."""
        if request.path == STATS_PATH or request.path.startswith(f"{PICTURES_PATH}/"):
            return await handler(request)
        given = request.headers.get("Authorization", "").strip()
        key = re.sub(r"(?i)^bearer(\s+|$)", "", given)
        valid = self._settings.key
        if key.startswith("afk_"):
            return error_response(400, OTHER_API)
        if not key or (valid is not None and not hmac.compare_digest(_bytes(key), _bytes(valid))):
            return error_response(401)
        self._service.remember_key(key)
        return await handler(request)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.submissions += 1
        valid = await self._parse_submission(request)
        prompt = str(valid.body["prompt"])
        faults = parse_prompt(prompt).merged(self._settings.faults)
        for name in unknown_names(prompt):
            self._settings.log(f"note: [[{name}]] is ignored: there is no fault {name!r}")
        subject = hashlib.sha256(_bytes(prompt)).hexdigest()
        fault = self._service.counter.next(subject, faults, Stage.SUBMISSION)
        if fault and not faults.accepts(fault[0]):
            return await self._respond(request, {}, faults, fault)
        submission = new_submission(valid, faults, self._settings.seconds)
        request[TASK] = submission.task_id
        if not await self._service.accept(submission, valid.image_prompt):
            return error_response(402, "no credits left; refill with `flux-cli sandbox --credits 1000`")
        task_id = json_id(submission, faults)
        body: dict[str, object] = {"task_id": f"  {task_id} " if "spaced-id" in faults else task_id}
        if "task-id" in faults:
            body = {"task_id": RawJson(faults.argument("task-id", "JSON"))}
        return await self._respond(request, {} if "no-task-id" in faults else body, faults, fault)

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.fetches += 1
        task_id = self._task_id((await self._parse_object(request)).get("task_id"))
        if task_id is None:
            return error_response(400, "`task_id` must be text")
        request[TASK] = task_id
        submission = await self._service.find(task_id)
        faults = self._service.faults(submission) if submission else self._settings.faults
        fault = self._service.counter.next(task_id, faults, Stage.FETCH)
        if submission is None and not fault:
            return error_response(404, "unknown task")
        body = await self._describe(request, submission) if submission else {}
        return await self._respond(request, body, faults, fault)

    async def _fetch_many(self, request: web.Request) -> web.StreamResponse:
        """Respond for several tasks, in reverse order: the service guarantees none."""
        self._service.stats.fetches += 1
        values = (await self._parse_object(request)).get("task_ids")
        task_ids = [self._task_id(each) for each in values] if isinstance(values, list) else [None]
        if None in task_ids:
            return error_response(400, "`task_ids` must be a list of texts")
        if len(task_ids) not in FETCH_MANY:
            return error_response(400, f"`task_ids` takes {FETCH_MANY[0]} to {FETCH_MANY[-1]} IDs")
        request[TASK] = f"{len(task_ids)} tasks"
        tasks: list[dict[str, object]] = []
        injected: tuple[FaultSet, tuple[Fault, int] | None] = self._settings.faults, None
        for task_id in filter(None, reversed(task_ids)):
            submission = await self._service.find(task_id)
            faults = self._service.faults(submission) if submission else self._settings.faults
            if injected[1] is None:  # one fault per response; those of the other tasks happen later
                fault = self._service.counter.next(task_id, faults, Stage.FETCH, also=("left-out",))
                if fault and fault[0].name == "left-out":
                    continue
                injected = faults, fault
            unknown: dict[str, object] = {"task_id": task_id, "errors": [{"msg": "unknown task"}]}
            tasks.append(await self._describe(request, submission) if submission else unknown)
        return await self._respond(request, {"tasks": tasks}, *injected)

    async def _account(self, request: web.Request) -> web.StreamResponse:
        credits_left, images = await self._service.in_store(self._service.store.account)
        if self._settings.free:
            credits_left = UNLIMITED_CREDITS
        body = {"email": "you@example.com", "credits": credits_left, "total_images": images, "plan": "sandbox"}
        faults = self._settings.faults
        return await self._respond(
            request, body, faults, self._service.counter.next("account", faults, Stage.SUBMISSION)
        )

    async def _stats(self, _: web.Request) -> web.StreamResponse:
        return json_response(asdict(self._service.stats))

    def _task_id(self, value: object) -> str | None:
        """Return a task ID as text. A number is the ID of a task with the fault `number-id`."""
        is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15
        return str(value) if is_number or isinstance(value, str) else None

    async def _parse_object(self, request: web.Request) -> dict[str, object]:
        return parse_object(await self._read(request))

    async def _parse_submission(self, request: web.Request) -> ValidRequest:
        """Parse in a thread: 27 MiB of base64 would block the event loop."""
        body = await self._read(request)
        return await asyncio.to_thread(parse_submission, body, self._settings.allow_remote_webhooks)

    async def _read(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RejectedError(f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB", status=413)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError:
            raise RejectedError("the body took too long", status=408) from None
        except web.RequestPayloadError:
            raise RejectedError("the body does not match its header") from None

    async def _describe(self, request: web.Request, submission: Submission) -> dict[str, object]:
        return await self._service.describe(submission, self._service.images_url_for(request), time.time())

    async def _respond(
        self, request: web.Request, body: object, faults: FaultSet, fault: tuple[Fault, int] | None
    ) -> web.StreamResponse:
        """Return the response, altered by the fault if there is one."""
        response = json_response(body)
        if fault is None:
            return response
        request[FAULT] = fault[0].name
        location = f"{self._service.images_url_for(request)}{request.path}"
        return await inject(Injection(request, response, faults, *fault, location))


def new_submission(valid: ValidRequest, faults: FaultSet, seconds: float) -> Submission:
    """Return the task of a valid request. If it has no seed, one is chosen here and stored."""
    seed = valid.body.get("seed")
    task_id = f"9{random.randrange(10**14):014}" if "number-id" in faults else str(uuid.uuid4())  # noqa: S311
    return Submission(
        task_id=task_id,
        submitted=time.time(),
        seconds=task_seconds(faults, seconds),
        seed=seed if isinstance(seed, int) else random.randrange(2**32),  # noqa: S311 - not a secret
        body=valid.body,
        image_prompt=valid.digest,
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
