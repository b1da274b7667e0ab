"""The load generator against a service: its verdicts can be trusted."""

import asyncio

import pytest

from experiments.benchmarks import serve_load
from experiments.benchmarks.http_load import (
    Request,
    Sent,
    fetch,
    good_requests,
    mixed_requests,
    send,
)
from experiments.benchmarks.random_student import export_random_student
from experiments.benchmarks.serve_load import measure
from experiments.cli.options import LoadConfig
from experiments.commands.load import COMMAND
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import make_call
from tests.serve.exports import export
from tests.serve.http.running import running
from tests.worlds import random_world


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = export(tmp_path_factory.mktemp("load") / "sasrec", random_world(), 1)
    with running(model=str(folder), reload_every=0) as service:
        yield service


def test_every_good_and_every_hostile_request_gets_a_right_status(served):
    """Half of 500 are hostile, of every kind; none is a bug, and good ones are answered."""
    sent = asyncio.run(send(served.port, mixed_requests(40, 3), 500, 1000.0))
    wrong = [one.status for one in sent if not one.expected]
    assert wrong == []
    statuses = {one.status for one in sent}
    assert {-1, 200, 400, 404, 405, 413, 422} <= statuses
    assert "\nprmkd_unhandled_errors_total 0.0" in asyncio.run(fetch(served.port, "/metrics"))
    assert all(
        one.expected for one in asyncio.run(send(served.port, good_requests(40, 1), 50, 1e3))
    )


def test_a_wrong_status_is_told(served):
    """An unexpected status or a missing answer is counted as wrong."""
    requests = iter([next(good_requests(40, 1))._replace(expected=frozenset({503}))])
    (sent,) = asyncio.run(send(served.port, requests, 1, 1.0))
    assert (sent.status, sent.expected) == (200, False)
    lost = iter([Request(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", answers=2, shuts=True)])
    (sent,) = asyncio.run(send(served.port, lost, 1, 1.0))
    assert not sent.expected


def test_a_request_that_fails_at_the_steady_rate_ends_the_command(monkeypatch):
    """A good p99 of the others doesn't make up for lost requests."""
    sent = [
        Sent(200, 0.01, True),
        Sent(503, 0.0, False),
        Sent(0, 0.0, False),
        Sent(200, 0.02, True),
    ]
    found = serve_load._latency(sent, LoadConfig(rate=2, seconds=2))
    assert (found["requests"], found["answered"], found["failed"]) == (4, 2, 2)
    monkeypatch.setattr(serve_load, "export_random_student", lambda *_, **__: None)
    monkeypatch.setattr(serve_load, "measure", lambda *_: found)
    call, _ = make_call(COMMAND, [])
    with pytest.raises(UserError, match="found requests that failed"):
        serve_load.run(call)


@pytest.mark.slow
def test_the_command_measures_a_service_of_its_own(tmp_path):
    """A small service answers every request, also during a reload and hostile requests."""
    for seed, name in enumerate(("first", "second")):
        export_random_student(tmp_path / name, seed=seed, items=4385, users=200)
    config = LoadConfig(rate=50, seconds=2, mixed=60, reloads=1, many=200)
    found = measure(tmp_path, config, lambda _: None)
    assert found["answered"] == found["requests"] == 100
    assert found["failed"] == 0
    assert found["reloads"] == 1
    assert found["many"] == 200
    for name in ("unhandled_errors", "failed_during_reloads", "mixed_wrong_statuses"):
        assert found[name] == 0, found
    assert found["many_failed"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert min(found["memory_mib"].values()) > 50
