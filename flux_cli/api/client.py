"""The API itself: the only module that knows its paths, bodies and status codes.

Whatever can go wrong leaves here as one of `flux_cli.errors`.
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_cli.api.request import Body
from flux_cli.api.task import Status, Task, read_error, read_task
from flux_cli.api.transport import Dispatch, NotSentError, Response, Transport
from flux_cli.errors import (
    BadResponseError,
    FluxError,
    NotAllowedError,
    OutcomeUnknownError,
    ServiceDownError,
    TaskFailedError,
    UsageError,
)

DEFAULT_API_URL = "https://api.apiframe.pro"

SUBMIT_SECONDS = 120.0
"""How long an answer to a submission may take. Generous, since giving up leaves its outcome unknown."""
CALL_SECONDS = 60.0
"""How long any other call may take as a whole, however the answer trickles in."""

MAX_FETCH_MANY = 20
"""The most ids that one `/fetch-many` takes; it wants at least two."""


class RateLimitedError(ServiceDownError):
    """429: refused for now. `retry_after` is what the service asks for, in seconds, or None."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message, "wait a little, then try again")
        self.retry_after = retry_after


class UnknownTaskError(TaskFailedError):
    """The service does not know the task's id."""


@dataclass(frozen=True)
class Account:
    """What `/account` tells; each value as it came, None where it is absent."""

    email: object
    credits: object
    total_images: object
    plan: object
    response: Mapping[str, object]


class Client:
    """The service, spoken to through one transport; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def trace(self, line: str) -> None:
        """Write a line about other network traffic to the trace, with the secrets redacted."""
        self._transport.trace(line)

    def submit(self, body: Body, dispatch: Dispatch, seconds: float = SUBMIT_SECONDS) -> str:
        """Send one submission, once, and return its task id.

        Once `dispatch.sent` is true the service may accept and bill it.

        Raises:
            NotSentError: The body never left; it is safe to try again.
            RateLimitedError, UsageError, NotAllowedError, TaskFailedError: Refused (429; 400; 401-403; 404).
            OutcomeUnknownError: The body left and no usable answer came. Never send it again.
        """
        try:
            answer = self._transport.call("POST", "/flux-imagine", body, seconds, dispatch)
        except (NotSentError, UsageError):
            raise
        except Exception as error:
            raise OutcomeUnknownError(str(error)) from error
        if answer.code == 400:  # whatever else its words may sound like
            raise _bad_request(answer)
        if answer.code == 404:
            raise TaskFailedError(f"the service takes no submissions there: {_told(answer)}", "check --api-url")
        if answer.code in (401, 402, 403, 429):
            raise _refusal(answer)
        if not 200 <= answer.code < 300:
            raise OutcomeUnknownError(_told(answer))
        try:
            task_id = answer.json()["task_id"]
        except (ValueError, LookupError, TypeError):
            raise OutcomeUnknownError(
                f"{_told(answer)}: the answer holds no task id: {_excerpt(answer)}"
            ) from None
        if not isinstance(task_id, str) or not is_task_id(task_id):
            raise OutcomeUnknownError(f"{_told(answer)}: no usable task id: {_excerpt(answer)}")
        return task_id

    def fetch(self, task_id: str, seconds: float = CALL_SECONDS) -> Task:
        """Ask for one task.

        Raises:
            UnknownTaskError: The service does not know it.
            NotAllowedError, UsageError: The key, or the id, is refused.
            ServiceDownError, BadResponseError: Nothing usable came; asking again may help.
        """
        answer = self._ask("POST", "/fetch", {"task_id": task_id}, seconds)
        return _read(answer, task_id)

    def fetch_many(self, task_ids: Sequence[str], seconds: float = CALL_SECONDS) -> dict[str, Task | FluxError]:
        """Ask for up to 20 tasks at once and return what became of each id.

        Ids that the common answer leaves out, and all of them where it is refused as a whole, are asked for one
        by one, so that one bad id costs the others nothing.

        Raises:
            ServiceDownError, BadResponseError, NotAllowedError: As for `fetch`; then nothing is known of any id.
        """
        found: dict[str, Task | FluxError] = {}
        if len(task_ids) > 1:
            try:
                answer = self._ask("POST", "/fetch-many", {"task_ids": list(task_ids)}, seconds)
                found.update(_read_many(answer, task_ids))
            except (UnknownTaskError, UsageError):
                pass
        common: FluxError | None = None  # what the rest would meet as well; asking for it would make it worse
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

    def account(self, seconds: float = CALL_SECONDS) -> Account:
        """Ask for the account behind the key. Raises as `fetch` does, but for UnknownTaskError."""
        try:
            answer = self._ask("GET", "/account", None, seconds)
        except UnknownTaskError as error:
            raise ServiceDownError(
                f"there is no account to be asked for: {error.message}", "check --api-url"
            ) from None
        return Account(
            answer.get("email"), answer.get("credits"), answer.get("total_images"), answer.get("plan"), answer
        )

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None, seconds: float) -> dict[str, object]:
        answer = self._transport.call(method, path, body, seconds)
        if answer.code in (404, 410) and _is_page(answer):
            # The service's own "not found" is JSON; a page comes from a gateway, while the service is redeployed.
            raise ServiceDownError(
                f"the service is in trouble: {_told(answer)}", "try again later; check --api-url"
            )
        if answer.code != 200:
            raise _refusal(answer)
        try:
            value = answer.json()
        except ValueError:
            raise BadResponseError(
                f"the service's answer to {path} is not JSON: {_told(answer)}", "check --api-url"
            ) from None
        if not isinstance(value, dict):
            raise BadResponseError(f"the service's answer to {path} is not a JSON object", "check --api-url")
        return value


def is_task_id(text: str) -> bool:
    """Say whether a text can be a task id: 1 to 200 visible ASCII characters. The service's own are UUIDs."""
    return 1 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text


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


def _read(answer: Mapping[str, object], task_id: str) -> Task:
    other = answer.get("task_id")
    if isinstance(other, str) and other != task_id:
        raise BadResponseError("the service's answer is about another task")
    try:
        return read_task(answer, task_id)
    except ValueError as error:
        raise BadResponseError(f"the service's answer cannot be understood: {error}") from None


def _read_many(answer: Mapping[str, object], asked: Sequence[str]) -> dict[str, Task | FluxError]:
    """Match the tasks of a `/fetch-many` answer to the ids by their `task_id`: it promises no order.

    What is not understood is left out, and so is an error without a status: it may speak of the id and not of a
    task. Asked alone, the service has a status code to tell them apart.
    """
    tasks = answer.get("tasks")
    if not isinstance(tasks, list):
        raise BadResponseError("the service's answer to /fetch-many holds no list of tasks")
    found: dict[str, Task | FluxError] = {}
    for each in tasks:
        task_id = each.get("task_id") if isinstance(each, dict) else None
        if isinstance(task_id, str) and task_id in asked:
            with contextlib.suppress(BadResponseError):
                task = _read(each, task_id)
                if task.status is not Status.FAILED or each.get("status"):
                    found[task_id] = task
    return found


def _excerpt(answer: Response) -> str:
    """Return the beginning of an answer, so that an odd id in it can be found again."""
    return answer.text(200)


def _is_page(answer: Response) -> bool:
    return answer.content.lstrip()[:1] == b"<"


def _refusal(answer: Response) -> FluxError:
    """Translate a status code that is not 200 into what it means."""
    told = _told(answer)
    code = answer.code
    if code == 400:
        if any(words in told.lower() for words in ("not found", "no such task", "unknown task")):
            return UnknownTaskError(f"the service does not know the task: {told}")
        return _bad_request(answer)
    if code in (401, 403):
        return NotAllowedError(
            f"the service refuses the key: {told}",
            "store a valid key with `flux-cli login`, or set APIFRAME_API_KEY",
        )
    if code == 402:
        return NotAllowedError(f"out of credits: {told}", "see `flux-cli account`")
    if code in (404, 410):
        return UnknownTaskError(f"the service does not know it: {told}", "check the id and --api-url")
    if code == 429:
        wait = parse_retry_after(answer.headers.get("Retry-After"), time.time())
        return RateLimitedError(f"the service asks to slow down: {told}", wait)
    if code >= 500 or code in (408, 425):
        return ServiceDownError(f"the service is in trouble: {told}", "try again later")
    return BadResponseError(f"the service answered in an unexpected way: {told}", "check --api-url")


def _bad_request(answer: Response) -> UsageError:
    return UsageError(f"the service refuses the request: {_told(answer)}")


def _told(answer: Response) -> str:
    """Return what the answer says of itself in a few words: its status and its reason, if it gives one."""
    reason = None
    with contextlib.suppress(ValueError):
        reason = read_error(answer.json())
    if reason is None and _is_page(answer):
        reason = "an HTML page"
    if 300 <= answer.code < 400:
        reason = f"a redirect to {answer.headers.get('Location', 'nowhere')[:200]}"
    return f"HTTP {answer.code}{', ' + reason if reason else ''}"
