"""One exchange with the service over requests: a whole answer within a time, or one plain error.

Here is what every call has in common: the key that goes to one origin and into no message, no redirects, bounds
on time and size, and the knowledge whether a request that failed can have reached the service at all.
"""

import contextlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from flux_cli import __version__
from flux_cli.errors import BadResponseError, FluxError, ServiceDownError, UsageError

if TYPE_CHECKING:
    import requests

USER_AGENT = f"flux-cli/{__version__}"

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
"""How long a peer that has accepted a connection may send nothing; a call's own bound may be shorter."""

MAX_IDLE_SECONDS = 1.0
"""A submission does not go over a connection that was idle for longer: a peer that closes it just then leaves the
outcome unknown. Servers close idle connections after anything from two seconds to some minutes."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024

MIN_KEY_CHARACTERS, MIN_SECRET_CHARACTERS = 8, 16
"""Shorter ones are not blotted out of answers. A webhook secret is what its owner made up: a short one could be a
word that an id or a URL holds as well."""

_Result = TypeVar("_Result")
Trace = Callable[[str], None]


class NotSentError(ServiceDownError):
    """The request certainly did not reach the service. `permanent`: trying again cannot help."""

    def __init__(self, message: str, hint: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(message, hint)
        self.permanent = permanent


@dataclass(frozen=True)
class Answer:
    """A whole answer: its status code, its headers, its bytes; without the `secrets`."""

    code: int
    headers: Mapping[str, str]
    content: bytes
    secrets: Sequence[str] = field(default=(), repr=False)

    def json(self) -> Any:  # JSON from outside is Any until it has been looked at
        """Return the parsed body. Raises ValueError for anything that is not sane JSON."""
        try:
            value = _parsed(self.content)
            # JSON has many ways to write the same text, so secrets are looked for in one that we wrote.
            text = json.dumps(value, ensure_ascii=False)
            blotted = text
            for secret in self.secrets:
                blotted = blotted.replace(json.dumps(secret, ensure_ascii=False)[1:-1], "[redacted]")
            return value if blotted == text else _parsed(blotted)
        except RecursionError:
            raise ValueError("nested beyond reason") from None


def ways_to_write(secret: str, least: int = MIN_SECRET_CHARACTERS) -> list[str]:
    """Return a secret as it stands, and as JSON, JSON in JSON, and URLs write it; nothing for one too short."""
    ways = {secret: None} if len(secret) >= least else {}
    for _ in range(2):
        for way in list(ways):
            ways |= {json.dumps(way)[1:-1]: None, json.dumps(way, ensure_ascii=False)[1:-1]: None}
            ways |= {quote(way, safe=""): None}
    return sorted(ways, key=len, reverse=True)


class Departure:
    """The moment at which a request's body leaves: it can be called off before, and not after.

    Name look-up, connecting and the TLS handshake come before that moment, so a failure with `left` false has
    certainly reached no service. (Guessing that from requests' exceptions is not possible: an SSLError, for one,
    can come before or after.)
    """

    def __init__(self) -> None:
        self.left = False
        self._withdrawn = False
        self._lock = threading.Lock()

    def leave(self) -> None:
        """Note that the body leaves now. Raises NotSentError where it was called off."""
        with self._lock:
            if self._withdrawn:
                raise NotSentError("the request was called off before it was sent")
            self.left = True

    def withdraw(self) -> bool:
        """Call the request off; return whether that was in time, so that nothing of it ever leaves."""
        with self._lock:
            self._withdrawn = True
            return not self.left


class Transport:
    """Exchanges with one origin, with one key; safe to use from several threads.

    `trace` gets a line per request and per answer, with the key and the other `secrets` blotted out.
    """

    def __init__(
        self, api_url: str, api_key: str, secrets: tuple[str, ...] = (), trace: Trace | None = None
    ) -> None:
        self.api_url = api_url
        self._api_key = api_key
        self._secrets = ways_to_write(api_key, MIN_KEY_CHARACTERS)
        self._secrets += [way for secret in secrets for way in ways_to_write(secret)]
        self._trace = trace
        self._idle: queue.LifoQueue[tuple[requests.Session, float]] = queue.LifoQueue()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        seconds: float,
        departure: Departure | None = None,
    ) -> Answer:
        """Send one request and return the whole answer, within `seconds`, whatever the peer does.

        The work runs in a thread of its own, since neither a name look-up nor an answer that trickles in can be
        bounded from inside. A `departure` is given for a submission, which must not be in doubt.

        Raises:
            UsageError: The body cannot be written as JSON in UTF-8; nothing left.
            NotSentError: The request did not leave; it is safe to try again.
            ServiceDownError: It left, and no whole answer came.
            BadResponseError: The answer is too large.
        """
        max_idle = math.inf if departure is None else MAX_IDLE_SECONDS
        departure = departure or Departure()
        payload = None if body is None else _Payload(body, departure)
        self.say(f"> {method} {self.api_url}{path}{'' if body is None else ' ' + _elided(body)}")
        began = time.monotonic()
        try:
            answer = _within(seconds, lambda: self._exchange(method, path, payload, seconds, max_idle), departure)
        except FluxError as error:
            self.say(f"< {error.message} ({time.monotonic() - began:.2f} s)")
            raise
        self.say(
            f"< {answer.code} ({time.monotonic() - began:.2f} s) {answer.content[:2000].decode(errors='replace')}"
        )
        return answer

    def _exchange(
        self, method: str, path: str, payload: "_Payload | None", seconds: float, max_idle: float
    ) -> Answer:
        import requests
        from requests.structures import CaseInsensitiveDict

        with self._session(max_idle) as session:
            try:
                response = session.request(
                    method,
                    self.api_url + path,
                    data=payload,
                    headers={"Content-Type": "application/json"} if payload else None,
                    # A little more than the call has, which ends with a clearer word.
                    timeout=(min(seconds + 1, CONNECT_SECONDS), min(seconds + 1, SILENCE_SECONDS)),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    content = _read_capped(response)
                if response.status_code < 200:
                    # A hint like 103: the answer is still to come, and must not be taken for the next call's.
                    session.close()
            except (requests.RequestException, OSError, ValueError) as error:
                raise self._translated(error, payload is not None and payload.departure.left) from error
        for secret in self._secrets:
            content = content.replace(secret.encode(), b"[redacted]")
        headers = CaseInsensitiveDict({name: self._blotted(value) for name, value in response.headers.items()})
        return Answer(response.status_code, headers, content, self._secrets)

    def _translated(self, error: Exception, left: bool) -> FluxError:
        what, permanent = cause(error)
        hint = "check the network, the proxy settings and --api-url"
        if left:
            return ServiceDownError(f"no answer from {self.api_url}: {self._blotted(what)}", hint)
        return NotSentError(f"cannot reach {self.api_url}: {self._blotted(what)}", hint, permanent=permanent)

    @contextlib.contextmanager
    def _session(self, max_idle: float) -> Iterator["requests.Session"]:
        """Lend a session to one call; sessions keep their connections but do not like to be shared by threads."""
        try:
            session, since = self._idle.get_nowait()
            if time.monotonic() - since > max_idle:
                session.close()  # its connections; it makes new ones
        except queue.Empty:
            session = _new_session(self._api_key)
        yield session
        self._idle.put((session, time.monotonic()))

    def _blotted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text

    def say(self, line: str) -> None:
        """Let the trace have a line, with the secrets blotted out."""
        if self._trace:
            self._trace(self._blotted(line))


class _Payload:
    """A JSON body that is read by the connection, and so knows when it leaves."""

    def __init__(self, body: Mapping[str, object], departure: Departure) -> None:
        try:
            self._bytes = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UsageError("the request holds text that is not UTF-8") from None
        self._position = 0
        self.departure = departure

    def __len__(self) -> int:
        return len(self._bytes)

    def __iter__(self) -> Iterator[bytes]:  # requests streams what can be iterated, and then calls `read`
        yield self.read()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises NotSentError where the request was called off before the first."""
        if not self.departure.left:
            self.departure.leave()
        end = len(self._bytes) if size is None or size < 0 else self._position + size
        chunk = self._bytes[self._position : end]
        self._position += len(chunk)
        return chunk


def _new_session(api_key: str) -> "requests.Session":
    import requests
    from requests.auth import AuthBase

    class RawKey(AuthBase):
        """The bare key, as the service wants it. As an auth object, so that no netrc entry takes its place."""

        def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
            prepared.headers["Authorization"] = api_key
            return prepared

    session = requests.Session()
    session.auth = RawKey()
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept"] = "application/json"
    return session


def _within(seconds: float, work: Callable[[], _Result], departure: Departure) -> _Result:
    """Run `work` in a daemon thread; return or raise what it does, or give up on it after `seconds`."""
    outcome: queue.SimpleQueue[_Result | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(work())
        except BaseException as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = outcome.get(timeout=max(0.0, seconds))
    except queue.Empty:
        message, hint = f"no whole answer within {seconds:.0f} s", "try again later"
        raise (NotSentError if departure.withdraw() else ServiceDownError)(message, hint) from None
    if isinstance(result, BaseException):
        raise result
    return result


def _read_capped(response: "requests.Response") -> bytes:
    content = bytearray()
    for chunk in response.iter_content(64 * 1024):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise BadResponseError(f"the service's answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")
    return bytes(content)


def cause(error: BaseException) -> tuple[str, bool]:
    """Find the innermost plain reason of requests' nested exceptions, and whether it is a matter of trust."""
    import http.client
    import socket
    import ssl

    from urllib3.exceptions import IncompleteRead

    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        inner = getattr(each, "reason", None)
        args = [arg for arg in each.args if isinstance(arg, BaseException)]
        each = (
            inner
            if isinstance(inner, BaseException)
            else each.__cause__ or next(iter(args), None) or each.__context__
        )
    for each in reversed(seen):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({each.verify_message})", True
        if isinstance(each, socket.gaierror):
            return "its name cannot be looked up", False
        if isinstance(each, TimeoutError):
            return "it did not answer in time", False
        if isinstance(each, http.client.RemoteDisconnected):
            return "it closed the connection without an answer", False
        if isinstance(each, IncompleteRead | http.client.IncompleteRead):
            return "the connection ended too early", False
        if isinstance(each, ssl.SSLError) and each.reason:
            return f"TLS failed ({each.reason.replace('_', ' ').lower()})", False
        if isinstance(each, OSError) and each.strerror:
            return each.strerror.lower(), False
    words = str(seen[-1]) or type(seen[-1]).__name__
    return words[:200], isinstance(error, ValueError) and not isinstance(error, OSError)


def _elided(body: Mapping[str, object]) -> str:
    shown = dict(body)
    if isinstance(image := shown.get("image_prompt"), str):
        shown["image_prompt"] = f"[{len(image)} characters of base64]"
    if "webhook_secret" in shown:
        shown["webhook_secret"] = "[redacted]"  # noqa: S105 - the opposite of a password
    return json.dumps(shown, ensure_ascii=False)


def _parsed(text: str | bytes) -> Any:  # as `Answer.json`
    return json.loads(text, parse_float=_finite, parse_constant=lambda _: None, parse_int=_sane_integer)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _sane_integer(text: str) -> int | None:
    return int(text) if len(text) <= 300 else None
