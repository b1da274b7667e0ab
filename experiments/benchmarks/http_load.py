"""Asks a service of this machine at a fixed rate, good and hostile requests alike."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

# Open connections; a request waits for a free one.
_CONNECTIONS = 64
# Seconds before each further part of a request that comes in parts.
_PAUSE = 0.05
_GOOD, _REFUSED = frozenset({200}), frozenset({400, 404, 405, 413, 422, 431})
# Bodies for /recommend that are answered.
_ODD_BODIES = (
    b'{"histories":[["<script>", "\\u0000", "i1"]],"titles":true}',
    json.dumps({"histories": [["i1"]], "deny": [f"i{n}" for n in range(512)]}).encode(),
    json.dumps({"histories": [["i1"]] * 64, "k": 100}).encode(),
    json.dumps({"histories": [["灯", "😀", "a" * 100_000, "i1"]]}).encode(),
    json.dumps({"histories": [[]]}).encode(),
    json.dumps({"histories": [["i1"]], "allow": []}).encode(),
)
# What no honest caller sends: bodies for /recommend.
_HOSTILE_BODIES = (
    b"{",
    b"[" * 20_000,
    b'{"histories":[["i1"]],"k":' + b"9" * 6000 + b"}",
    b'{"histories":[["\\ud800"],[3]]}',
    b'{"histories":[[' + b",".join([b"1"] * 50_000) + b"]]}",
    b'{"histories":[["i1"]],"k":-1}',
    b'{"histories":[["i1"]],"k":NaN}',
    b'{"histories":[["i1"]],"k":1e400}',
    b'{"histories":[["i1"]],"k":10,"k":"10"}',
    b'{"histories":[["i1"]],"allow":[["i1"],["i2"]]}',
    b'{"histories":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"histories":[{"a":' + b"[" * 3000 + b"]" * 3000 + b"}]}",
    json.dumps({"histories": [["i1"] * 600]}).encode(),
    json.dumps({"histories": [["i1"]] * 65}).encode(),
    b" " * (2**20 + 1),
    b"\xff\xfe",
)
_HOSTILE_PATHS = (
    "/similar?item=%00%ff&k=5",
    "/similar?item=i1&k=999999999999999999999",
    "/similar?item=" + "x" * 5000,
    "/images?item=../../../etc/passwd",
    "/../../etc/passwd",
    "/recommend",
    "/nowhere",
)


class Request(NamedTuple):
    """Bytes to send.

    Attributes:
        data: the whole request, or several at once.
        expected: statuses of HTTP that are right for it; empty where the caller doesn't wait.
        answers: how many come.
        pieces: number of parts in which it is sent, with a pause before each further one.
        shuts: whether the caller closes its half of the connection after it.
    """

    data: bytes
    expected: frozenset[int] = frozenset({200})
    answers: int = 1
    pieces: int = 1
    shuts: bool = False


class Sent(NamedTuple):
    """One request's outcome.

    Attributes:
        status: HTTP status code; 0 where the connection ended without an answer, −1 where the
            caller left.
        seconds: time from when the request should have left to its answer.
        expected: whether this status is right.
    """

    status: int
    seconds: float
    expected: bool


def post(
    body: bytes, path: str = "/recommend", head: str = "", expected: frozenset[int] = _GOOD
) -> Request:
    """A POST of JSON."""
    first = f"POST {path} HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n{head}"
    return Request(f"{first}content-length: {len(body)}\r\n\r\n".encode() + body, expected)


def get(path: str, expected: frozenset[int] = _GOOD) -> Request:
    """A GET."""
    return Request(f"GET {path} HTTP/1.1\r\nhost: load\r\n\r\n".encode(), expected)


def good_requests(items: int, seed: int) -> Iterator[Request]:
    """One history of 1 to 15 items each, without end."""
    draws = random.Random(seed)
    while True:
        history = [f"i{draws.randrange(items)}" for _ in range(draws.randint(1, 15))]
        yield post(json.dumps({"histories": [history], "k": 10}).encode())


def mixed_requests(items: int, seed: int) -> Iterator[Request]:
    """Half of them good; the others odd, wrong, too large, slow, broken off or no HTTP at all."""
    draws, good = random.Random(seed), good_requests(items, seed)
    others = [*_odd(next(good).data), *_hostile(next(good).data)]
    while True:
        yield next(good) if draws.random() < 0.5 else draws.choice(others)


def _odd(good: bytes) -> list[Request]:
    """What is allowed, though few do it."""
    body = good.partition(b"\r\n\r\n")[2]
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[n : n + 1]) for n in range(len(body)))
    chunked = b"POST /recommend HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
    return [
        *(post(body) for body in _ODD_BODIES),
        Request(good * 3, answers=3),
        Request(good, pieces=4),
        # The server's framework ends a connection whose other half is closed.
        Request(good, frozenset({0, 200}), shuts=True),
        Request(chunked + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", pieces=3),
        post(body, head="content-type: application/json; charset=utf-8\r\n"),
        get("/items?search=" + "%F0%9F%92%A9" * 60),
        get("/"),
        get("/metrics"),
    ]


def _hostile(good: bytes) -> list[Request]:
    """What no honest caller sends."""
    cut = post(b"x" * 5000).data[:1000]
    head = b"POST /recommend HTTP/1.1\r\nhost: load\r\n"
    return [
        *(post(body, expected=_REFUSED) for body in _HOSTILE_BODIES),
        *(get(path, _REFUSED) for path in _HOSTILE_PATHS),
        post(b"{}", head="x-filler: " + "x" * 100_000 + "\r\n", expected=_REFUSED),
        post(b"{}", head="x: y\r\n" * 2000, expected=_REFUSED),
        Request(cut, frozenset()),
        Request(good, frozenset()),
        Request(good[:-5], frozenset({0, 400, 422}), shuts=True),
        Request(head + b"content-length: -5\r\n\r\n", frozenset({400})),
        Request(head + b"transfer-encoding: chunked\r\n\r\nzz\r\n", frozenset({400})),
        Request(b"\x16\x03\x01\x02\x00\x01\x00 no HTTP\r\n\r\n", frozenset({400})),
        *(
            Request(f"{method} /recommend HTTP/1.1\r\nhost: load\r\n\r\n".encode(), _REFUSED)
            for method in ("DELETE", "PUT", "PATCH", "OPTIONS")
        ),
    ]


async def send(port: int, requests: Iterator[Request], count: int, rate: float) -> list[Sent]:
    """Sends requests, each at its own time.

    A request's time begins when it should have left: a service that falls behind is seen to.

    Args:
        port: the port of the service, on this machine.
        requests: the requests to send, in order.
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
            right = status in (request.expected or {-1})
            sent.append(Sent(status, time.perf_counter() - due, right))
        connection.close()

    await asyncio.gather(*(caller() for _ in range(min(_CONNECTIONS, count))))
    return sent


async def fetch(port: int, path: str) -> str:
    """What a GET gives, as text."""
    connection = _Connection(port)
    _, body = await connection.ask(get(path))
    connection.close()
    return body.decode()


async def _write(writer: asyncio.StreamWriter, request: Request) -> None:
    size = -(-len(request.data) // request.pieces)
    for first in range(0, len(request.data), size):
        if first:
            await asyncio.sleep(_PAUSE)
        writer.write(request.data[first : first + size])
        await writer.drain()
    if request.shuts:
        writer.write_eof()


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
            await _write(writer, request)
            if not request.expected:
                self.close()
                return -1, b""
            answers = [await self._answer(reader) for _ in range(request.answers)]
            if request.shuts:
                self.close()
            # Of several the worst one counts.
            return max(answers)
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
