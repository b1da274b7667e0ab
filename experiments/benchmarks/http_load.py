"""Asks a service of this machine at a fixed rate, good and hostile requests alike."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

# Open connections; a request waits for a free one.
_CONNECTIONS = 64
# What no honest caller sends: bodies for /recommend.
_HOSTILE_BODIES = (
    b"{",
    b"[" * 20_000,
    b'{"histories":[["i1"]],"k":' + b"9" * 6000 + b"}",
    b'{"histories":[["\\ud800"],[3]]}',
    b'{"histories":[[' + b",".join([b"1"] * 50_000) + b"]]}",
    b'{"histories":[["i1"]],"k":-1}',
    b'{"histories":[["i1"]],"k":NaN}',
    b'{"histories":[["<script>", "\\u0000", "i1"]],"titles":true}',
    b'{"histories":[["i1"]],"allow":[["i1"],["i2"]]}',
    json.dumps({"histories": [["i1"] * 600]}).encode(),
    json.dumps({"histories": [["i1"]] * 65}).encode(),
    json.dumps({"histories": [["i1"]], "deny": [f"i{n}" for n in range(512)]}).encode(),
    json.dumps({"histories": [["i1"]] * 64, "k": 100}).encode(),
    b" " * (2**20 + 1),
    b"\xff\xfe",
)
_HOSTILE_PATHS = (
    "/similar?item=%00%ff&k=5",
    "/similar?item=i1&k=999999999999999999999",
    "/similar?item=" + "x" * 5000,
    "/items?search=" + "%F0%9F%92%A9" * 60,
    "/images?item=../../../etc/passwd",
    "/../../etc/passwd",
    "/recommend",
    "/nowhere",
)


class Request(NamedTuple):
    """Bytes to send.

    Attributes:
        data: the whole request.
        leaves: whether the caller hangs up instead of waiting for the answer.
    """

    data: bytes
    leaves: bool = False


class Sent(NamedTuple):
    """One request's outcome.

    Attributes:
        status: of HTTP; 0 where the connection ended without an answer, −1 where the caller left.
        seconds: from when it should have left to its answer.
    """

    status: int
    seconds: float


def post(body: bytes, path: str = "/recommend") -> Request:
    """A POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
    return Request(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def get(path: str) -> Request:
    """A GET."""
    return Request(f"GET {path} HTTP/1.1\r\nhost: load\r\n\r\n".encode())


def good_requests(items: int, seed: int) -> Iterator[Request]:
    """One history of 1 to 15 items each, without end."""
    draws = random.Random(seed)
    while True:
        history = [f"i{draws.randrange(items)}" for _ in range(draws.randint(1, 15))]
        yield post(json.dumps({"histories": [history], "k": 10}).encode())


def mixed_requests(items: int, seed: int) -> Iterator[Request]:
    """Half of them good; the others wrong, too large, broken off or no HTTP at all."""
    draws, good = random.Random(seed), good_requests(items, seed)
    cut = post(b"x" * 5000)
    others = [
        *map(post, _HOSTILE_BODIES),
        *map(get, _HOSTILE_PATHS),
        Request(cut.data[:1000], leaves=True),
        Request(next(good).data, leaves=True),
        Request(b"\x16\x03\x01\x02\x00\x01\x00 no HTTP\r\n\r\n"),
        Request(b"DELETE /recommend HTTP/1.1\r\nhost: load\r\n\r\n"),
    ]
    while True:
        yield next(good) if draws.random() < 0.5 else draws.choice(others)


async def send(port: int, requests: Iterator[Request], count: int, rate: float) -> list[Sent]:
    """Sends requests, each at its own time.

    A request's time begins when it should have left: a service that falls behind is seen to.

    Args:
        port: of the service, on this machine.
        requests: what is sent, in order.
        count: how many.
        rate: a second.
    """
    sent: list[Sent] = []
    number = 0
    started = time.perf_counter()

    async def caller() -> None:
        nonlocal number
        connection = _Connection(port)
        while number < count:
            due = started + number / rate
            number += 1
            request = next(requests)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, _ = await connection.ask(request)
            sent.append(Sent(status, time.perf_counter() - due))
        connection.close()

    await asyncio.gather(*(caller() for _ in range(min(_CONNECTIONS, count))))
    return sent


async def fetch(port: int, path: str) -> str:
    """What a GET gives, as text."""
    connection = _Connection(port)
    _, body = await connection.ask(get(path))
    connection.close()
    return body.decode()


class _Connection:
    """Kept open from request to request, and opened again where it was closed."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> tuple[int, bytes]:
        """Sends a request; status and body of its answer."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request.data)
            await writer.drain()
            if request.leaves:
                self.close()
                return -1, b""
            return await self._answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(maxsplit=2)[1])
        length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
        if not length:  # the server's own word on what is no HTTP: it hangs up after it
            self.close()
            return status, b""
        body = await reader.readexactly(int(length))
        if b"connection: close" in head:
            self.close()
        return status, body

    def close(self) -> None:
        """Hangs up."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None
