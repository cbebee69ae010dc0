"""One call to the service over requests: a complete response within a time limit, or one plain error.

What every call has in common is here: the key goes to one origin and into no message, redirects are not followed,
time and size are limited, and for a request that failed it is known whether it can have reached the service.
"""

import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

from flux_cli import __version__
from flux_cli.api import lenient_json
from flux_cli.api.connections import OverdueError, Sessions, current_abort, send, session, within
from flux_cli.api.redaction import MIN_KEY_CHARACTERS, REDACTED, Redactor, without_secret_fields
from flux_cli.errors import BadResponseError, FluxError, ServiceDownError, UsageError, install_command

if TYPE_CHECKING:
    import requests

USER_AGENT = f"flux-cli/{__version__}"

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
"""How long a peer that has accepted a connection may send nothing; a call's own bound may be shorter."""

MAX_IDLE_SECONDS = 1.0
"""A submission uses no connection that was idle for longer: a peer that closes it just then leaves the outcome
unknown. Servers close idle connections after anything from two seconds to some minutes."""

MAX_RESPONSE_BYTES = 8 * 1024 * 1024

_BASE64 = re.compile(r"[A-Za-z0-9+/]{400,}={0,2}")

Trace = Callable[[str], None]


class NotSentError(ServiceDownError):
    """The request certainly did not reach the service. `permanent`: trying again cannot help."""

    def __init__(self, message: str, hint: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(message, hint)
        self.permanent = permanent


@dataclass(frozen=True)
class Response:
    """A complete response. Only `content` can hold a secret: show people `text`, and use `json`."""

    code: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    redactor: Redactor = field(default_factory=Redactor, repr=False)

    def text(self, limit: int = 2000) -> str:
        """Return the beginning of the body, without the secrets and without base64."""
        text = lenient_json.decode(self.content, self.headers.get("Content-Type", ""))
        elided = _BASE64.sub(lambda found: f"[{len(found[0])} characters of base64]", text)
        return without_secret_fields(self.redactor.text(elided))[:limit]

    def json(self) -> Any:  # JSON from outside is Any until it has been looked at
        """Return the parsed body, without the secrets. Raises ValueError if it has no JSON; see `lenient_json`."""
        text = lenient_json.decode(self.content, self.headers.get("Content-Type", ""))
        try:
            return self._redacted(lenient_json.parse(text))
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redactor.text(value)
        if isinstance(value, list):
            return [self._redacted(each) for each in value]
        if isinstance(value, dict):
            return {self.redactor.text(name): self._redacted(each) for name, each in value.items()}
        return value


class TruncatedError(ServiceDownError):
    """The connection ended within a response; `response` has what arrived, perhaps only the header."""

    def __init__(self, error: FluxError, response: Response) -> None:
        super().__init__(error.message, error.hint)
        self.response = response


class Dispatch:
    """The moment at which a request's body is sent: it can be canceled before, and not after.

    DNS lookup, connecting and the TLS handshake come before that moment, so a failure with `sent` false has
    certainly reached no service. (Guessing that from requests' exceptions is not possible: an SSLError, for one,
    can come before or after.)
    """

    def __init__(self) -> None:
        self.sent = False
        self._canceled = False
        self._lock = threading.Lock()

    def send(self) -> None:
        """Note that the body is sent now. Raises NotSentError if it was canceled."""
        with self._lock:
            if self._canceled:
                raise NotSentError("the request was canceled before it was sent")
            self.sent = True

    def cancel(self) -> bool:
        """Cancel the request; return whether that was in time, so that nothing of it is ever sent."""
        with self._lock:
            self._canceled = True
            return not self.sent


class Transport:
    """Calls to one origin, with one key; safe to use from several threads.

    `trace` gets a line per request and per response, with the key and the other `secrets` redacted.
    """

    def __init__(
        self, api_url: str, api_key: str, secrets: tuple[str, ...] = (), trace: Trace | None = None
    ) -> None:
        self.api_url = api_url
        self._redactor = Redactor()
        self._redactor.add(api_key, MIN_KEY_CHARACTERS)
        for secret in secrets:
            self._redactor.add(secret)
        self._trace = trace
        self._sessions = Sessions(lambda: _new_session(api_key))

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        seconds: float,
        dispatch: Dispatch | None = None,
    ) -> Response:
        """Send one request and return the complete response, within `seconds`, whatever the peer does.

        In a thread that has an `Abort` its owner watches the time. Any other thread lets the call run in one of
        its own, since neither a DNS lookup nor a response that trickles in can be limited from inside. A
        `dispatch` is given for a submission, whose outcome must not be in doubt.

        Raises:
            UsageError, NotSentError: Nothing was sent; the body is not UTF-8, or it is safe to try again.
            ServiceDownError, BadResponseError: It was sent; no complete response came, or it is too large.
        """
        max_idle = math.inf if dispatch is None else MAX_IDLE_SECONDS
        dispatch = dispatch or Dispatch()
        payload = None if body is None else _Payload(body, dispatch)
        self.trace(f"> {method} {self.api_url}{path}{'' if body is None else ' ' + _elided(body)}")
        began = time.monotonic()
        exchange = partial(self._exchange, method, path, payload, seconds, max_idle)
        try:
            response = exchange() if current_abort() else within(seconds, exchange)
        except OverdueError:
            error = overdue(seconds, dispatch)
            self.trace(f"< {error.message}")
            raise error from None
        except FluxError as error:
            self.trace(f"< {error.message} ({time.monotonic() - began:.2f} s)")
            raise
        if self._trace:
            self.trace(f"< {response.code} ({time.monotonic() - began:.2f} s) {response.text()}")
        return response

    def _exchange(
        self, method: str, path: str, payload: "_Payload | None", seconds: float, max_idle: float
    ) -> Response:
        import requests
        from urllib3.exceptions import HTTPError

        content = bytearray()
        received: requests.Response | None = None
        with self._sessions.lend(max_idle) as session:
            try:
                received = send(
                    session,
                    method,
                    self.api_url + path,
                    body=payload,
                    headers={"Content-Type": "application/json"} if payload else None,
                    # A little more than the call has, which ends with a clearer message.
                    timeout=(min(seconds + 1, CONNECT_SECONDS), min(seconds + 1, SILENCE_SECONDS)),
                )
                with received:
                    _read_capped(received, content)
            except (requests.RequestException, HTTPError, OSError, ValueError, HTTPException) as error:
                translated = self._translated(error, payload is not None and payload.dispatch.sent)
                if received is not None:
                    raise TruncatedError(translated, self._response(received, content)) from error
                raise translated from error
        return self._response(received, content)

    def _response(self, received: "requests.Response", content: bytearray) -> Response:
        from requests.structures import CaseInsensitiveDict

        redacted = self._redactor.text
        headers = CaseInsensitiveDict({name: redacted(value) for name, value in received.headers.items()})
        return Response(received.status_code, headers, bytes(content), self._redactor)

    def _translated(self, error: Exception, sent: bool) -> FluxError:
        found = cause(error)
        what = self._redactor.text(found.text)
        hint = found.hint or "check the network, the proxy settings and --api-url"
        if sent:
            return ServiceDownError(f"no response from {self.api_url}: {what}", hint)
        return NotSentError(f"cannot reach {self.api_url}: {what}", hint, permanent=found.permanent)

    def trace(self, line: str) -> None:
        """Write a line to the trace, with the secrets redacted."""
        if self._trace:
            self._trace(self._redactor.text(line))


def overdue(seconds: float, dispatch: Dispatch) -> ServiceDownError:
    """Return the error for a call that took too long; one that was not sent yet is canceled."""
    message, hint = f"no complete response within {seconds:.0f} s", "try again later"
    return NotSentError(message, hint) if dispatch.cancel() else ServiceDownError(message, hint)


class _Payload(io.BytesIO):
    """A JSON body that is read by the connection, and so knows when it leaves."""

    def __init__(self, body: Mapping[str, object], dispatch: Dispatch) -> None:
        try:
            super().__init__(json.dumps(body, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise UsageError("the request contains text that is not UTF-8") from None
        self.dispatch = dispatch

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises NotSentError if the request was canceled before the first."""
        if not self.dispatch.sent:
            self.dispatch.send()
        return super().read(size)


def _new_session(api_key: str) -> "requests.Session":
    def raw_key(prepared: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """Set the bare key, as the service wants it; as `auth`, so that no netrc entry takes its place."""
        prepared.headers["Authorization"] = api_key
        return prepared

    made = session(raw_key)
    made.headers["User-Agent"] = USER_AGENT
    made.headers["Accept"] = "application/json"
    return made


def _read_capped(response: "requests.Response", content: bytearray) -> None:
    # Unlike iter_content, read1 returns what arrived before the connection ended.
    while chunk := response.raw.read1(64 * 1024, decode_content=True):
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise BadResponseError(f"the service's response is larger than {MAX_RESPONSE_BYTES // 2**20} MiB")


class Cause(NamedTuple):
    """Why a request failed. `permanent`: a retry cannot help. `hint`: the remedy, if there is a certain one."""

    text: str
    permanent: bool = False
    hint: str | None = None


def cause(error: BaseException) -> Cause:
    """Find the innermost plain reason of requests' nested exceptions."""
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
        wrapped = inner if isinstance(inner, BaseException) else each.__cause__
        each = wrapped or next(iter(args), None) or each.__context__
    for each in reversed(seen):
        if isinstance(each, ssl.SSLCertVerificationError):
            hint = "set REQUESTS_CA_BUNDLE to the file with your certificate authority"
            return Cause(f"its certificate is not trusted ({each.verify_message})", True, hint)
        if isinstance(each, socket.gaierror):
            return Cause("DNS lookup failed")
        if isinstance(each, TimeoutError):
            return Cause("no response in time")
        if isinstance(each, http.client.RemoteDisconnected):
            return Cause("the connection was closed without a response")
        if isinstance(each, IncompleteRead | http.client.IncompleteRead):
            return Cause("the connection ended too early")
        if isinstance(each, ssl.SSLError) and (reason := getattr(each, "reason", None)):  # only OpenSSL sets it
            return Cause(f"TLS failed ({reason.replace('_', ' ').lower()})")
        if isinstance(each, OSError) and each.strerror:
            return Cause(each.strerror.lower())
    words = str(seen[-1]) or type(seen[-1]).__name__
    if words.startswith("Missing dependencies for SOCKS"):
        return Cause("a SOCKS proxy needs PySocks", True, f"install it: {install_command('PySocks')}")
    if words.startswith("Could not find a suitable TLS CA certificate bundle"):
        path = words.rpartition("invalid path: ")[2]
        hint = "correct REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE"
        return Cause(f"no certificates at {path}", True, hint)
    return Cause(words[:200], isinstance(error, ValueError) and not isinstance(error, OSError))


def _elided(body: Mapping[str, object]) -> str:
    shown = dict(body)
    if isinstance(image := shown.get("image_prompt"), str):
        shown["image_prompt"] = f"[{len(image)} characters of base64]"
    if "webhook_secret" in shown:
        shown["webhook_secret"] = REDACTED
    return json.dumps(shown, ensure_ascii=False)
