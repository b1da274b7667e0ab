"""A service on a free port of this machine, in a thread, and how to ask it."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.exported import export_student
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.server import listen, make_server
from prmkd_jax.serve.http.service import Service
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, student_config


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


def export(folder: Path, world: Dataset, seed: int, student: str = "sasrec") -> Path:
    """An export of random weights."""
    config = student_config(student=student)
    known = facts(world, window(config, MAX_SEQ_LEN))
    params = random_params(nnx.to_pure_dict(create_student(config, known, 0)[1]), seed=seed)
    export_student(folder, params, config, known, world)
    return folder


def histories(count: int, items: int, seed: int = 0) -> list[list[str]]:
    """Random ones, of 1 to 9 items, some unknown."""
    rng = np.random.default_rng(seed)
    return [[f"i{item}" for item in rng.integers(0, items + 3, rng.integers(1, 10))]
            for _ in range(count)]  # fmt: skip
