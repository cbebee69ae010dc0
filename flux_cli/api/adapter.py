"""The adapter of our sessions: its connections can be aborted, and skip interim responses.

A module of its own, since requests and urllib3 take 100 ms to import.
"""

import http.client
import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from flux_cli.api.connections import current_abort

MAX_INTERIM_RESPONSES = 20
"""Responses with a 1xx status that may come before the final one."""


class FinalResponse(http.client.HTTPResponse):
    """Skips interim responses: http.client returns a 103 as the final one, and reads 100s without a limit."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_RESPONSES + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc] # not in typeshed
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {MAX_INTERIM_RESPONSES} interim responses")


class _PlainConnection(HTTPConnection):
    """Shows its sockets to the `Abort` of the thread that uses it."""

    response_class = FinalResponse

    def connect(self) -> None:
        super().connect()
        _attach(self.sock)

    def request(self, *args: Any, **named: Any) -> None:
        _attach(self.sock)
        super().request(*args, **named)


class _EncryptedConnection(_PlainConnection, HTTPSConnection):
    _during_handshake: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()
        # The handshake takes the descriptor away from this object, and is shut down with another one.
        self._during_handshake = sock.dup()
        _attach(self._during_handshake)
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            if self._during_handshake is not None:
                self._during_handshake.close()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


_POOLS = {"http": _PlainPool, "https": _EncryptedPool}


class Adapter(HTTPAdapter):
    """Makes such connections, directly or through a proxy."""

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        """Set the pools for direct connections."""
        super().init_poolmanager(*args, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        """Return the manager of a proxy, with our pools."""
        manager = super().proxy_manager_for(proxy, **named)
        if not proxy.lower().startswith("socks"):  # which needs pools of its own
            manager.pool_classes_by_scheme = _POOLS
        return manager


def _attach(sock: socket.socket | None) -> None:
    abort = current_abort()
    if abort is not None:
        abort.attach(sock)
