"""An opener of addresses whose answers come in time, headers and redirects included.

A timeout of Python's sockets is one of a single read, so a server that sends a byte now and then
is waited for as long as it likes.
"""

import functools
import http.client
import io
import socket
import time
import urllib.request
from typing import Any


def deadline_opener(
    ends: float, silence: float, *handlers: urllib.request.BaseHandler
) -> urllib.request.OpenerDirector:
    """An opener for one address.

    Args:
        ends: time by `time.monotonic` after which nothing is read.
        silence: seconds that a single read may take.
        handlers: further handlers, such as one of redirects.
    """
    connected = functools.partial(_connected, ends, silence)
    return urllib.request.build_opener(_Http(connected), _Https(connected), *handlers)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connected: Any):
        super().__init__()
        self._connected = connected

    def http_open(self, req):
        """Opens an address."""
        return self.do_open(functools.partial(self._connected, http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connected: Any):
        super().__init__()
        self._connected = connected

    def https_open(self, req):
        """Opens an address."""
        return self.do_open(functools.partial(self._connected, http.client.HTTPSConnection), req)


def _connected(
    ends: float, silence: float, kind: type[http.client.HTTPConnection], host: str, **options: Any
) -> http.client.HTTPConnection:
    options["timeout"] = _left(ends, silence)
    connection = kind(host, **options)
    connection.response_class = functools.partial(_Response, ends=ends, silence=silence)  # pyright: ignore[reportAttributeAccessIssue]
    connection._create_connection = functools.partial(_connect, ends, silence)  # pyright: ignore[reportAttributeAccessIssue]
    return connection


def _connect(ends: float, silence: float, address: tuple[str, int], *_: object) -> socket.socket:
    """A connection to one of a host's addresses, of which a name may have thousands."""
    host, port = address
    failed: OSError | None = None
    for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        left = _left(ends, silence)
        try:
            return socket.create_connection((str(found[4][0]), port), left)
        except OSError as error:
            failed = error
    raise failed or OSError(f"{host} has no address")


class _Response(http.client.HTTPResponse):
    """An answer that is read until the deadline."""

    def __init__(
        self, sock: socket.socket, *args: Any, ends: float, silence: float, **options: Any
    ):
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, ends, silence))


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, ends: float, silence: float):
        self._raw, self._sock, self._ends, self._silence = raw, sock, ends, silence

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._ends, self._silence))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(ends: float, silence: float) -> float:
    """Seconds that the next step may take.

    Raises:
        TimeoutError: none is left.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return min(left, silence)
