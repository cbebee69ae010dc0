"""The API's origin: /flux-imagine, /fetch, /fetch-many, /account."""

import asyncio
import hashlib
import random
import re
import time
import uuid
from dataclasses import asdict

from aiohttp import web
from aiohttp.typedefs import Handler

from flux_cli.sandbox.cdn import Cdn
from flux_cli.sandbox.faults import Faults, Stage, faults_in
from flux_cli.sandbox.injection import Occurrence, inject
from flux_cli.sandbox.responses import TASK, error_response, json_response, logged
from flux_cli.sandbox.service import PICTURES_PATH, SandboxService
from flux_cli.sandbox.tasks import RawJson, Task
from flux_cli.sandbox.validation import MAX_BODY_BYTES, RejectedError, parse_object, parse_submission

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

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(
            middlewares=[logged(self._service.log), self._authorized], client_max_size=MAX_BODY_BYTES
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
    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Require a key: bare, as in the service's documentation, or after `Bearer`, as in the official SDK."""
        if request.path == STATS_PATH or request.path.startswith(f"{PICTURES_PATH}/"):
            return await handler(request)
        given = request.headers.get("Authorization", "").strip()
        key = re.sub(r"(?i)^bearer(\s+|$)", "", given)
        if key.startswith("afk_"):
            return error_response(400, OTHER_API)
        if not key or self._service.key not in (None, key):
            return error_response(401)
        self._service.remember_key(key)
        return await handler(request)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.submissions += 1
        content = await self._read(request)
        # In a thread: 27 MiB of base64 would block the event loop.
        body, image_prompt = await asyncio.to_thread(
            parse_submission, content, self._service.allow_remote_webhooks
        )
        prompt = str(body["prompt"])
        faults = {**self._service.faults, **faults_in(prompt)}
        fault = self._service.counter.next(str(hash(prompt)), faults, Stage.SUBMISSION)
        if fault and fault.is_rejection:
            return await self._respond(request, {}, fault)
        task = self._new_task(body, faults, image_prompt)
        request[TASK] = task.task_id
        if not self._service.accept(task, image_prompt):
            return error_response(402, "no credits left; refill with `flux-cli sandbox --credits 1000`")
        task_id = f"  {task.json_id} " if "spaced-id" in faults else task.json_id
        response = {"task_id": RawJson(faults["task-id"]) if "task-id" in faults else task_id}
        return await self._respond(request, {} if "no-task-id" in faults else response, fault)

    def _new_task(self, body: dict[str, object], faults: Faults, image_prompt: bytes | None) -> Task:
        """Return the task of a valid request. If it has no seed, one is chosen here and stored."""
        seed = body.get("seed")
        task_id = f"9{random.randrange(10**14):014}" if "number-id" in faults else str(uuid.uuid4())  # noqa: S311
        return Task(
            task_id=task_id,
            submitted=time.time(),
            seconds=float(faults.get("slow") or faults.get("seconds") or self._service.seconds),
            seed=seed if isinstance(seed, int) else random.randrange(2**32),  # noqa: S311 - not a secret
            body=body,
            faults=faults,
            image_prompt=hashlib.sha256(image_prompt).hexdigest() if image_prompt else None,
        )

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self._service.stats.fetches += 1
        task_id = _task_id(parse_object(await self._read(request)).get("task_id"))
        request[TASK] = task_id
        task = self._service.store.find(task_id)
        fault = self._service.counter.next(task_id, task.faults if task else self._service.faults, Stage.FETCH)
        if task is None and not fault:
            return error_response(404, "unknown task")
        return await self._respond(request, await self._describe(request, task) if task else {}, fault)

    async def _fetch_many(self, request: web.Request) -> web.StreamResponse:
        """Respond for several tasks, in reverse order: the service guarantees none."""
        self._service.stats.fetches += 1
        values = parse_object(await self._read(request)).get("task_ids")
        if not isinstance(values, list) or len(values) not in FETCH_MANY:
            return error_response(400, f"`task_ids` must be a list of {FETCH_MANY[0]} to {FETCH_MANY[-1]} IDs")
        request[TASK] = f"{len(values)} tasks"
        tasks: list[dict[str, object]] = []
        injected: Occurrence | None = None
        for task_id in reversed([_task_id(each) for each in values]):
            task = self._service.store.find(task_id)
            if injected is None:  # one fault per response; those of the other tasks happen later
                faults = task.faults if task else self._service.faults
                fault = self._service.counter.next(task_id, faults, Stage.FETCH, also="left-out")
                if fault and fault.name == "left-out":
                    continue
                injected = fault
            unknown: dict[str, object] = {"task_id": task_id, "errors": [{"msg": "unknown task"}]}
            tasks.append(await self._describe(request, task) if task else unknown)
        return await self._respond(request, {"tasks": tasks}, injected)

    async def _account(self, request: web.Request) -> web.StreamResponse:
        stored, images = self._service.store.account()
        left = UNLIMITED_CREDITS if self._service.free else stored
        body = {"email": "you@example.com", "credits": left, "total_images": images, "plan": "sandbox"}
        fault = self._service.counter.next("account", self._service.faults, Stage.SUBMISSION)
        return await self._respond(request, body, fault)

    async def _stats(self, _: web.Request) -> web.StreamResponse:
        return json_response(asdict(self._service.stats))

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

    async def _describe(self, request: web.Request, task: Task) -> dict[str, object]:
        return await self._service.describe(task, self._service.images_url_for(request), time.time())

    async def _respond(self, request: web.Request, body: object, fault: Occurrence | None) -> web.StreamResponse:
        location = f"{self._service.images_url_for(request)}{request.path}"
        return await inject(request, json_response(body), fault, location)


def _task_id(value: object) -> str:
    """Return a task ID as text; a number is the ID of a task with the fault `number-id`."""
    if isinstance(value, str) or (type(value) is int and 0 <= value < 10**15):
        return str(value)
    raise RejectedError("a task ID must be text")
