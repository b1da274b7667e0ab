"""A service on a free port of this machine, in a thread, and how to ask it."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.server import listen, make_server
from prmkd_jax.serve.http.service import Service


class Running(NamedTuple):
    """A service that answers."""

    address: str
    port: int
    service: Service
    said: list[str]

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request; status and JSON content, or text. Bytes are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        head = {"content-type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, sent, {**head, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
            if response.headers["content-type"] == "application/json":
                return response.status, json.loads(content)
            return response.status, content.decode("utf-8", "replace")
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """A POST of JSON."""
        return self.ask("POST", path, body)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Running]:
    """Serves while the context lasts.

    Args:
        options: fields of `ServeConfig`.
    """
    config = ServeConfig(port=0, **options)
    said: list[str] = []
    ready = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("serving "):
            ready.set()

    listening = listen(config)
    with listening:
        service = Service(config, say)
        server, address = make_server(service, listening, say)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert ready.wait(60)
            yield Running(address, listening.getsockname()[1], service, said)
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


def histories(count: int, items: int, seed: int = 0) -> list[list[str]]:
    """Random ones, of 1 to 9 items, some unknown."""
    rng = np.random.default_rng(seed)
    return [[f"i{item}" for item in rng.integers(0, items + 3, rng.integers(1, 10))]
            for _ in range(count)]  # fmt: skip
