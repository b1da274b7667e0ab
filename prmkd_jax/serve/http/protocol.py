"""How requests arrive: uvicorn's reader of HTTP, with limits on what comes before a body.

What an application sees begins where the headers end; until then uvicorn has no limits.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST = 2**16
"""Bytes of an address with its headers, and of anything else that isn't a body's content."""
_TOO_LARGE = f"the address and the headers are longer than {MOST} bytes"
_LINE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


class _TooLarge(Exception):
    """Ends the parsing of a request; the parser makes an error of its own of it."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        seconds: time for the first request's headers to come, for a later one's from its first
            byte on, and for the rest of a body that was answered before its end.
    """

    seconds = 10.0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        # Bytes of the address and the headers, and those since the parser last knew what they are.
        self._head = self._unknown = 0
        self._large = False
        # Between the headers of a request and its end.
        self._within = False

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what came; of unfinished headers no more than `MOST` bytes are kept."""
        if self._large or self.parser is None:
            return
        if not self._within:
            self._wait()
        self._unknown += len(data)
        super().data_received(data)
        if self._unknown > MOST and not self.transport.is_closing():
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        """Tells what was wrong, once."""
        if self._large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request's first byte came."""
        super().on_message_begin()
        self._head = self._unknown = 0
        self._wait()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A complete header, or one of those that may follow a body."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is a body."""
        self._unknown, self._within = 0, True
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unknown = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request's last byte came."""
        self._unknown, self._within = 0, False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has left; its request may still be coming."""
        super().on_response_complete()
        if self._within:
            self._wait()

    def _count(self, size: int) -> None:
        self._head, self._unknown = self._head + size, 0
        if self._head > MOST:
            self._large = True
            raise _TooLarge

    def _refuse(self) -> None:
        """Answers 431, unless the answer to an earlier request would be cut by it, and closes."""
        self._large = True
        if not self._is_answering():
            error = {"error": {"code": "headers_too_large", "message": _TOO_LARGE}}
            body = json.dumps(error, separators=(",", ":")).encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(_LINE + head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_answering():
            self._wait()  # what follows isn't read until the answer has left
        elif not self.transport.is_closing():
            self.transport.close()
