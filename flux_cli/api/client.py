"""The service's API: the only module that knows its paths, request bodies and status codes.

Every failure leaves this module as one of `flux_cli.errors`.
"""

import contextlib
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from flux_cli.api import lenient_json
from flux_cli.api.reasons import nested, read_error, read_reason
from flux_cli.api.request import Body
from flux_cli.api.task import (
    FAILED_WORDS,
    NOT_FOUND_WORDS,
    Status,
    Task,
    clean_task_id,
    is_refusal,
    normal_word,
    read_task,
    read_task_id,
)
from flux_cli.api.transport import Dispatch, NotSentError, Response, Transport, TruncatedError
from flux_cli.errors import (
    BadResponseError,
    ExitCode,
    FluxError,
    NotAllowedError,
    OutcomeUnknownError,
    ServiceDownError,
    TaskFailedError,
    UsageError,
)

DEFAULT_API_URL = "https://api.apiframe.pro"

SUBMIT_SECONDS = 120.0
"""The limit for a submission. Generous, since its outcome is unknown after a timeout."""
CALL_SECONDS = 60.0
"""The limit for any other call."""

MAX_FETCH_MANY = 20
"""The most IDs that one `/fetch-many` takes; it wants at least two."""

_NOT_FOUND = re.compile(r"not found|no such task|unknown task", re.IGNORECASE)
_OTHER_API_KEY = re.compile(r"\bkey\b.*\bafk_|\bafk_.*\bkey\b", re.IGNORECASE | re.DOTALL)
_OTHER_API_HINT = (
    "flux-cli speaks only v1 of the API, whose keys do not start with afk_: "
    "store a v1 key with `flux-cli login`, or set APIFRAME_API_KEY"
)
_SALVAGED_ID = re.compile(r'"task_id"\s*:\s*(?:"([^"\\]{1,250})"|(\d{1,100})\s*[,}])')


class RateLimitedError(ServiceDownError):
    """429: rejected for now. `retry_after` is the pause in seconds that the service asks for, or None."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message, "wait, then try again")
        self.retry_after = retry_after


class ForbiddenError(NotAllowedError):
    """403: the key is rejected, or a gateway rejects this one request, for example a word in its prompt."""


class UnknownTaskError(TaskFailedError):
    """The service does not know the task's ID."""


class EndpointError(FluxError):
    """The API URL takes no submissions (404, 405, a redirect): it would reject any other, too."""

    exit_code = ExitCode.USAGE


class Client:
    """The API of one service; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.trace = transport.trace

    def submit(self, body: Body, dispatch: Dispatch, seconds: float = SUBMIT_SECONDS) -> str:
        """Send one submission, once, and return its task ID.

        Once `dispatch.sent` is true the service may accept and charge it.

        Raises:
            NotSentError: The body was not sent; it is safe to try again.
            RateLimitedError, UsageError, EndpointError, NotAllowedError: The service rejected it.
            OutcomeUnknownError: The body was sent and no usable response arrived. Never send it again.
        """
        truncated: TruncatedError | None = None
        try:
            response = self._transport.call("POST", "/flux-imagine", body, seconds, dispatch)
        except (NotSentError, UsageError):
            raise
        except TruncatedError as error:
            response, truncated = error.response, error
        except Exception as error:
            raise OutcomeUnknownError(str(error)) from error
        # Whatever the status code says: a task with an ID exists, and another submission would be charged again.
        if task_id := _submitted_id(response):
            return task_id
        if rejection := _error(response, submission=True) or _stated_rejection(response):
            raise rejection
        what = str(truncated) if truncated else _describe(response)
        if 200 <= response.code < 300:
            what += f": no usable task ID: {response.text(200).strip() or 'an empty body'}"
        raise OutcomeUnknownError(what)

    def fetch(self, task_id: str, seconds: float = CALL_SECONDS) -> Task:
        """Fetch one task.

        Raises UnknownTaskError, or NotAllowedError or UsageError if the service rejects the key or the ID; with
        ServiceDownError and BadResponseError another attempt may help.
        """
        return self._read(self._call("POST", "/fetch", {"task_id": task_id}, seconds), task_id)

    def fetch_many(self, task_ids: Sequence[str], seconds: float = CALL_SECONDS) -> dict[str, Task | FluxError]:
        """Fetch up to 20 tasks with one request; return the task or the error of each ID.

        IDs that the common response lacks are fetched one by one, and so are all of them if the service rejects
        the request as a whole: one bad ID costs the others nothing. If it raises an error of `fetch`, nothing is
        known of any ID.
        """
        found: dict[str, Task | FluxError] = {}
        if len(task_ids) > 1:
            try:
                response = self._call("POST", "/fetch-many", {"task_ids": list(task_ids)}, seconds)
                found.update(self._read_many(response, task_ids))
            except (UnknownTaskError, UsageError):
                pass
        common: FluxError | None = None  # what the other IDs would meet as well: more requests would make it worse
        for task_id in task_ids:
            if task_id in found:
                continue
            try:
                found[task_id] = self.fetch(task_id, seconds) if common is None else common
            except FluxError as error:
                shared = isinstance(error, RateLimitedError | NotSentError | NotAllowedError)
                if len(task_ids) == 1 or (shared and not found):
                    raise
                common = error if shared else None
                found[task_id] = error
        return found

    def account(self, seconds: float = CALL_SECONDS) -> dict[str, object]:
        """Fetch the account of the key: values as received, None if absent.

        Raises the errors of `fetch`, except UnknownTaskError.
        """
        try:
            response = self._call("GET", "/account", None, seconds)
        except UnknownTaskError as error:
            what = error.message.removeprefix("the service does not know the task: ")
            raise ServiceDownError(f"the service has no /account: {what}", "check --api-url") from None
        levels = [response, *nested(response)]
        names = ("email", "credits", "total_images", "plan")
        return {name: next((level[name] for level in levels if name in level), None) for name in names}

    def _call(self, method: str, path: str, body: Mapping[str, object] | None, seconds: float) -> dict[str, Any]:
        """Send a request that may be repeated, and return the JSON object of the response."""
        response = self._transport.call(method, path, body, seconds)
        if response.code in (404, 410) and _is_page(response):
            # The service's own "not found" is JSON; a page comes from a gateway, while the service is redeployed.
            raise ServiceDownError(
                f"the service failed: {_describe(response)}", "try again later; check --api-url"
            )
        if not 200 <= response.code < 300:
            what = f"unexpected response of the service: {_describe(response)}"
            raise _error(response) or BadResponseError(what, "check --api-url")
        try:
            value = response.json()
        except ValueError:
            raise BadResponseError(
                f"the response of {path} is not JSON: {_describe(response)}", "check --api-url"
            ) from None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            raise BadResponseError(f"the response of {path} is not a JSON object", "check --api-url")
        return value

    def _read(self, response: Mapping[str, Any], task_id: str) -> Task:
        other = next((each for level in (response, *nested(response)) if (each := level.get("task_id"))), None)
        if (other_id := clean_task_id(other)) and other_id.lower() != task_id.lower():
            raise BadResponseError("the response is about another task")
        try:
            task = read_task(response, task_id, self._transport.api_url)
        except ValueError as error:
            if _NOT_FOUND.search(str(error)):
                raise UnknownTaskError(f"the service does not know task {task_id}: {error}") from None
            raise BadResponseError(f"the response cannot be interpreted: {error}") from None
        if task.status is Status.FAILED:
            by_reason = not task.word and _NOT_FOUND.search(task.error or "")
            if by_reason or normal_word(task.word) in NOT_FOUND_WORDS:
                raise UnknownTaskError(f"the service does not know task {task_id}: {task.error}")
        return task

    def _read_many(self, response: Mapping[str, Any], task_ids: Sequence[str]) -> dict[str, Task | FluxError]:
        """Match the tasks of a `/fetch-many` response to the IDs by their `task_id`: it promises no order.

        What cannot be interpreted is left out, and so is an error without a status: it may be about the ID and
        not about a task. If the ID is fetched alone, the status code tells them apart.
        """
        places = [
            level.get(name) for level in (response, *nested(response)) for name in ("tasks", "data", "result")
        ]
        tasks = next((place for place in places if isinstance(place, list)), None)
        if tasks is None:
            raise BadResponseError("the response of /fetch-many has no list of tasks")
        wanted = {task_id.lower(): task_id for task_id in task_ids}
        found: dict[str, Task | FluxError] = {}
        for each in tasks:
            task_id = wanted.get((read_task_id(each) or "").lower())
            if task_id and isinstance(each, dict):
                with contextlib.suppress(BadResponseError, UnknownTaskError):
                    task = self._read(each, task_id)
                    if task.status is not Status.FAILED or task.word:
                        found[task_id] = task
        return found


def check_key_kind(key: str, api_url: str) -> None:
    """Raise NotAllowedError if the key belongs to the service's other API and the URL is the default one."""
    if key.lower().startswith("afk_") and urlsplit(api_url).hostname == urlsplit(DEFAULT_API_URL).hostname:
        raise NotAllowedError("the key starts with afk_: it belongs to the service's other API", _OTHER_API_HINT)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, never negative and at most a day, else None.

    It is seconds or an HTTP date (RFC 9110, 10.2.3); urllib3's own parser raises on what servers really send.
    `now` is the Unix time.
    """
    from email.utils import parsedate_to_datetime

    if value is None:
        return None
    value = value.strip()[:64]
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    if math.isnan(seconds):
        return None
    return min(86400.0, max(0.0, seconds))


def _submitted_id(response: Response) -> str | None:
    """Return the task ID in a response to a submission, even if it is not valid JSON."""
    try:
        return read_task_id(response.json())
    except ValueError:
        text = lenient_json.decode(response.content, response.headers.get("Content-Type", ""))
        found = _SALVAGED_ID.search(response.redactor.text(text))
        return clean_task_id(found[1] or found[2]) if found else None


def _stated_rejection(response: Response) -> FluxError | None:
    """Return the rejection that a 2xx response without a task ID states, if any. An HTML page states none."""
    if not 200 <= response.code < 300 or _is_page(response):
        return None
    try:
        value = response.json()
    except ValueError:
        return None
    failed = isinstance(value, dict) and (is_refusal(value) or normal_word(value.get("status")) in FAILED_WORDS)
    reason = read_error(value) or (read_reason(value) if failed else None)
    return UsageError(f"the service rejected the request: {reason}") if reason else None


def _error(response: Response, *, submission: bool = False) -> FluxError | None:
    """Translate a status code other than 2xx; return None for one with an unknown meaning.

    A submission may have been accepted in spite of a 303, 408, 409, 425 or 5xx, so its error is None, too.
    """
    code, what = response.code, _describe(response)
    if code in (400, 401, 403) and _OTHER_API_KEY.search(what):
        return NotAllowedError(f"the service rejected the key: {what}", _OTHER_API_HINT)
    if code in (401, 403):
        rejected = ForbiddenError if code == 403 else NotAllowedError
        hint = "store a valid key with `flux-cli login`, or set APIFRAME_API_KEY"
        return rejected(f"the service rejected the key: {what}", hint)
    if code == 402:
        return NotAllowedError(f"out of credits: {what}", "see `flux-cli account`")
    if code == 429:
        pause = parse_retry_after(response.headers.get("Retry-After"), time.time())
        return RateLimitedError(f"rate limit reached: {what}", pause)
    if submission and code in (301, 302, 307, 308):
        return EndpointError(f"the service redirected the submission: {what}", "check --api-url")
    if submission and code in (404, 405, 410):
        return EndpointError(f"the API URL takes no submissions: {what}", "check --api-url")
    if submission and code == 413:
        return UsageError(f"the service rejected the request as too large: {what}", "use a smaller image prompt")
    if not submission and (code in (404, 410) or (code == 400 and _NOT_FOUND.search(what))):
        unknown = f"the service does not know the task: {what}"
        return UnknownTaskError(unknown, None if code == 400 else "check the ID and --api-url")
    if not submission and (code >= 500 or code in (408, 425)):
        return ServiceDownError(f"the service failed: {what}", "try again later")
    if code == 400 or (submission and 400 <= code < 500 and code not in (408, 409, 425)):
        return UsageError(f"the service rejected the request: {what}")
    return None


def _is_page(response: Response) -> bool:
    return response.content.lstrip()[:1] == b"<"


def _describe(response: Response) -> str:
    """Return a response's status code and its reason, if it states one."""
    reason = None
    with contextlib.suppress(ValueError):
        reason = read_reason(response.json())
    if reason is None and _is_page(response):
        reason = "an HTML page"
    if 300 <= response.code < 400:
        reason = f"a redirect to {response.headers.get('Location', 'nowhere')[:200]}"
    return f"HTTP {response.code}{', ' + reason if reason else ''}"
