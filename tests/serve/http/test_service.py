"""The service as its callers meet it: answers, limits, mistakes, newer models, the end."""

import concurrent.futures
import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from pydantic import ValidationError

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve.artifact import write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.exported import read_card, read_exported
from prmkd_jax.serve.http import messages, models
from prmkd_jax.serve.http import service as service_module
from prmkd_jax.serve.http.batching import Job, answer_jobs
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.server import listen
from prmkd_jax.serve.http.service import MAIN, Service
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.rows import padded_list, padded_window
from tests.packages import ROOT, run_beside
from tests.serve.compiled_sizes import compiled_sizes
from tests.serve.exports import export
from tests.serve.http.running import histories, running
from tests.worlds import random_world

WORLD = random_world()
TITLES = tuple(f"Title {item} <b>" for item in range(WORLD.num_items))
WORLD = dataclasses.replace(WORLD, catalogue=Catalogue({**WORLD.catalogue.texts, "title": TITLES}))
IMAGE = b"no image at all"
LIMITS = {"max_histories": 8, "max_history": 20, "max_list": 30, "max_k": 40, "max_body": 20_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(tmp_path_factory.mktemp("served") / "sasrec-base-seed0", WORLD, 1)


@pytest.fixture(scope="module")
def recommender(folder):
    return Recommender.load(folder)


@pytest.fixture(scope="module")
def served(folder):
    listed = folder.parent / "images.json"
    listed.write_text(json.dumps({"i0": "x" * 300 + ".png", "i1": "one.png"}))
    listed.with_name("one.png").write_bytes(IMAGE)
    limits = {"images": str(listed), "reload_every": 0, **LIMITS}
    with running(model=str(folder), **limits) as service:
        yield service


def same(found, answer, titles=False):
    """Whether JSON holds a `Recommender`'s answer."""
    assert [one["item"] for one in found["items"]] == [one.item for one in answer.items]
    scores = [one.score for one in answer.items]
    assert [one["score"] for one in found["items"]] == pytest.approx(scores, rel=1e-5, abs=1e-6)
    expected = [one.title if titles else None for one in answer.items]
    assert [one["title"] for one in found["items"]] == expected
    assert found["unknown_items"] == answer.unknown_items


def test_answers_are_the_recommenders(served, recommender):
    """Every argument gives them, for one history and for several."""
    read = histories(8, WORLD.num_items)
    items = list(WORLD.item_ids)
    for some, arguments in (
        (read[:1], {"k": 5}),
        (read, {"k": 40}),
        (read[:3], {"filter_seen": False}),
        (read[:3], {"allow": items[:9], "deny": items[4:6]}),
        (read[:3], {"allow": [items[:3], items[10:30], []]}),
        (read[:3], {"deny": [items[20:], [], ["unknown", items[0]]]}),
        (read[:2], {"allow": []}),
        (read[:2], {"users": ["u3", None]}),
    ):
        status, found = served.post("/recommend", histories=some, titles=True, **arguments)
        assert status == 200, found
        for one, answer in zip(
            found["answers"], recommender.recommend(some, explain=True, **arguments), strict=True
        ):
            same(one, answer, titles=True)


def test_the_short_way_answers_what_the_frameworks_way_answers(served):
    """JSON goes past the framework, other types through it; mistakes are answered alike."""
    body = {"histories": [["i1", "i2"], []], "k": 3, "titles": True, "deny": ["i3"]}
    other = {"content-type": "application/vnd.api+json"}
    assert served.ask("POST", "/recommend", body) == served.ask("POST", "/recommend", body, other)
    for wrong in ({"histories": []}, {"histories": [["i1"]], "k": 41}, b"{", b"[" * 5000):
        first = served.ask("POST", "/recommend", wrong)
        assert first == served.ask("POST", "/recommend", wrong, other)
        assert first[0] in (400, 422)


def test_requests_that_share_a_batch_get_their_own_answers(served, recommender):
    """Requests with other k, lists and filters share a batch."""
    read = histories(60, WORLD.num_items, seed=3)
    items = list(WORLD.item_ids)
    kinds = [{}, {"k": 3}, {"filter_seen": False}, {"deny": items[:10]}, {"allow": items[5:30]}]
    asked = [({"histories": [one], **kinds[n % len(kinds)]}) for n, one in enumerate(read)]
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        found = list(pool.map(lambda body: served.ask("POST", "/recommend", body), asked))
    for body, (status, content) in zip(asked, found, strict=True):
        assert status == 200, content
        (answer,) = recommender.recommend(**body)
        same(content["answers"][0], answer)
    _, text = served.ask("GET", "/metrics")
    batches = float(text.split("prmkd_batch_histories_count ")[1].split()[0])
    rows = float(text.split("prmkd_batch_histories_sum ")[1].split()[0])
    assert rows / batches > 1.5


def test_similar_items_and_searches(served, recommender):
    """They are those of `Recommender.similar`, and a search matches the words of titles."""
    status, found = served.ask("GET", "/similar?item=i5&k=4&titles=true")
    assert status == 200
    expected = recommender.similar("i5", 4, explain=True)
    assert [(one["item"], one["title"]) for one in found["items"]] == [
        (one.item, one.title) for one in expected
    ]
    scores = [one.score for one in expected]
    assert [one["score"] for one in found["items"]] == pytest.approx(scores, rel=1e-6)
    assert served.ask("GET", "/similar?item=new")[1]["error"]["code"] == "unknown_item"
    _, found = served.ask("GET", "/items?search=title+%3CB%3E+17")
    assert [one["item"] for one in found["items"]] == ["i17"]


WRONG = {
    "no JSON": (b"{", 422, "invalid_json"),
    "no object": (b"[]", 422, "invalid_request"),
    "deep": (b"[" * 5000, 400, "invalid_json"),
    "a huge number": (b'{"histories":[["i1"]],"k":' + b"9" * 5000 + b"}", 400, "invalid_json"),
    "no histories": ({}, 422, "invalid_request"),
    "none": ({"histories": []}, 422, "invalid_request"),
    "a string": ({"histories": "i1"}, 422, "invalid_request"),
    "numbers": ({"histories": [[1, 2]]}, 422, "invalid_request"),
    "thousands of numbers": ({"histories": [[1] * 5000]}, 422, "invalid_request"),
    "half a pair": ({"histories": [["\ud800"], [3]]}, 422, "invalid_request"),
    "a field too many": ({"histories": [["i1"]], "\ud800": 3}, 422, "invalid_request"),
    "k of none": ({"histories": [["i1"]], "k": 0}, 422, "invalid_request"),
    "k as text": ({"histories": [["i1"]], "k": "3"}, 422, "invalid_request"),
    "a large k": ({"histories": [["i1"]], "k": 41}, 422, "over_limit"),
    "a k of 4000 digits": (b'{"histories":[["i1"]],"k":' + b"9" * 4000 + b"}", 422, "over_limit"),
    "many histories": ({"histories": [["i1"]] * 9}, 422, "over_limit"),
    "a long history": ({"histories": [["i1"] * 21]}, 422, "over_limit"),
    "a long list": ({"histories": [["i1"]], "deny": ["i1"] * 31}, 422, "over_limit"),
    "lists": ({"histories": [["i1"]], "allow": [["i1"], []]}, 422, "invalid_request"),
    "users": ({"histories": [["i1"]], "users": []}, 422, "invalid_request"),
    "one field twice": (b'{"histories":[["i1"]],"k":1,"k":2}', 422, "invalid_request"),
    "a long body": (b" " * 20_001, 413, "body_too_large"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_in_one_form(served, case):
    """The answer has a status, a code and a short line, and no error is unhandled."""
    body, status, code = WRONG[case]
    found, content = served.ask("POST", "/recommend", body)
    assert (found, content["error"]["code"]) == (status, code), content
    assert set(content) == {"error"}
    assert 0 < len(content["error"]["message"]) < 250
    assert "prmkd_unhandled_errors_total 0.0" in served.ask("GET", "/metrics")[1]


def test_a_body_of_many_mistakes_holds_up_nobody(served):
    """One mistake is reported; an error for each would hold up all callers for seconds."""
    for kind, asked in (
        (messages.RecommendRequest, {"histories": [["i1"]]}),
        (messages.CompareRequest, {"history": ["i1"]}),
    ):
        body = {**asked, **{f"no{number}": 0 for number in range(5000)}}
        with pytest.raises(ValidationError) as raised:
            kind.model_validate_json(json.dumps(body))
        assert raised.value.error_count() == 1
        with pytest.raises(ValidationError) as raised:
            kind.model_validate(body)
        assert raised.value.error_count() == 1
    body = {"histories": [["i1"]], **{f"no{number}": number for number in range(1000)}}
    status, found = served.ask("POST", "/recommend", body)
    assert status == 422
    assert found["error"]["message"] == "no0: found 0, Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("allow", "shown"), [("x", "'x'"), (["i1", ["i2"]], "'i1'"), ([["i1", 3]], "3"), (7, "7")]
)
def test_lists_of_two_kinds_are_told_by_what_both_are(served, allow, shown):
    """The message asks for item ids and has none of the framework's names of types."""
    status, content = served.post("/recommend", histories=[["i1"]], allow=allow)
    expected = "expected a list of item ids, or one for each history"
    assert (status, content["error"]["message"]) == (422, f"allow: found {shown}, {expected}")


def test_other_addresses_and_methods_are_told_alike(served):
    """The framework's own errors have the service's codes."""
    assert served.ask("GET", "/nowhere")[1]["error"]["code"] == "not_found"
    assert served.ask("GET", "/recommend")[1]["error"]["code"] == "method_not_allowed"
    assert served.ask("GET", "/similar?item=i1&k=x")[1]["error"]["code"] == "invalid_request"
    assert served.ask("GET", "/images?item=..%2F..%2Fetc%2Fpasswd")[0] == 404
    status, content = served.ask("POST", "/recommend", b"{}", {"content-type": "text/plain"})
    assert (status, content["error"]["code"]) == (422, "invalid_request")


def test_a_body_of_another_type_is_told_by_its_type(served):
    """What curl sends by itself is a form's type: the body itself may be right."""
    body = b'{"histories": [["i1"]]}'
    for kind in ("application/x-www-form-urlencoded", "text/plain; charset=utf-8"):
        status, content = served.ask("POST", "/recommend", body, {"content-type": kind})
        shown = kind.partition(";")[0]
        told = f"content-type: found {shown!r}, expected application/json"
        assert (status, content["error"]["message"]) == (422, told)
    assert served.ask("POST", "/similar", body, {"content-type": "text/plain"})[0] == 405
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
        assert served.ask("POST", "/recommend", body, {"content-type": kind})[0] == 200


@pytest.mark.parametrize(
    ("method", "address", "expected"),
    [
        ("GET", "/items?q=lamp", "one of search, item"),
        ("GET", "/similar?item=i1&n=2", "one of item, k, titles"),
        ("POST", "/recommend?k=5", "none: fields are in the body"),
    ],
)
def test_a_parameter_that_is_not_read_is_refused(served, method, address, expected):
    """It would be passed over, and other items answered than were asked for."""
    body = b'{"histories": [["i1"]]}' if method == "POST" else None
    status, content = served.ask(method, address, body, {"content-type": "application/json"})
    name = address.replace("&", "?").split("?")[-1].partition("=")[0]
    told = f"'{name}': found as a parameter of the address, expected {expected}"
    assert (status, content["error"]["message"]) == (422, told)


def test_what_watches_the_service_may_ask_with_any_parameter(served):
    """Load balancers and browsers add some, against caches."""
    assert served.ask("GET", "/health?now=1")[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/recommend/", "/similar/", "/health/"])
def test_an_address_with_a_slash_too_many_is_a_wrong_one(served, method, path):
    """It isn't sent elsewhere, which some callers wouldn't follow."""
    status, content = served.ask(method, path)
    assert (status, content["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "name"),
    [("item=i1&k=1&k=2", "k"), ("item=i1&item=i2", "item"), ("item=i1&%6b=1&k=", "k")],
)
def test_a_parameter_that_stands_twice_is_refused(served, query, name):
    status, content = served.ask("GET", f"/similar?{query}")
    assert (status, content["error"]["message"]) == (422, f"'{name}': found twice, expected once")


def test_items_are_asked_for_by_several_ids(served):
    found = served.ask("GET", "/items?item=i1&item=i2")[1]["items"]
    assert [one["item"] for one in found] == ["i1", "i2"]
    assert served.ask("GET", "/items?search=a&search=b")[0] == 422


def test_an_image_that_cannot_be_is_none(served):
    """A name too long for the file system gives a 404, not an unhandled error."""
    status, content = served.ask("GET", "/images?item=i0")
    assert (status, content["error"]["code"]) == (404, "no_image")
    assert "prmkd_unhandled_errors_total 0" in served.ask("GET", "/metrics")[1]


@pytest.mark.parametrize("part", ["bytes=0-3", "bytes=99-", "bytes=a-", "miles=1-2"])
def test_images_come_whole(served, part):
    """A range in the request, even a wrong one, is ignored."""
    answer = served.ask("GET", "/images?item=i1", headers={"range": part})
    assert answer == (200, IMAGE.decode())


def test_a_caller_that_reads_nothing_holds_no_place(folder, tmp_path):
    """A few of them, and the service sent everybody away, for ever."""
    (tmp_path / "large.png").write_bytes(bytes(2**25))
    (tmp_path / "images.json").write_text(json.dumps({"i1": "large.png"}))
    limits = {"images": str(tmp_path / "images.json"), "timeout": 4.0, "max_requests": 1}
    with running(model=str(folder), reload_every=0, **{**LIMITS, **limits}) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(b"GET /images?item=i1 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
            assert service.ask("GET", "/items")[0] == 503
            waited = time.monotonic() + 30
            while service.ask("GET", "/items")[0] == 503:
                assert time.monotonic() < waited
                time.sleep(0.1)
        assert "prmkd_unhandled_errors_total 0.0" in service.ask("GET", "/metrics")[1]


def test_a_chunked_body_without_end_is_cut_off(served):
    """It gets a 413, although its length was never announced."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        head = "POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(5):
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert b" 413 " in connection.recv(4096)


def connected(service):
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def send_on(connection, piece, most=2**23):
    """Sends until the other end has enough; the bytes that it took."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    return sent


HEAD = b"GET /health HTTP/1.1\r\nhost: x\r\n"
ENDLESS = {
    "header": (HEAD + b"a: ", b"b" * 4096),
    "name": (HEAD, b"b" * 4096),
    "headers": (HEAD, b"a: b\r\n" * 512),
    "address": (b"GET /health?a=", b"b" * 4096),
    "lines": (b"", b"\r\n" * 2048),
    "trailer": (
        b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ",
        b"b" * 4096,
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_comes_before_a_body_has_a_limit(served, case):
    """Wherever it has no end, the connection is closed; memory would grow with it."""
    begin, piece = ENDLESS[case]
    with connected(served) as connection:
        connection.sendall(begin)
        assert send_on(connection, piece) < 2**23
    assert served.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("size", [60_000, 70_000])
@pytest.mark.parametrize("where", ["address", "header", "headers"])
def test_headers_that_are_too_large_are_told(served, where, size):
    """By 431, in the form of all errors; a little less is answered."""
    path, rest = "/health", ""
    if where == "address":
        path += "?a=" + "b" * size
    elif where == "header":
        rest = "a: " + "b" * size + "\r\n"
    else:
        rest = "a: b\r\n" * (size // 6)
    with connected(served) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{rest}\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        content = json.loads(response.read())
    assert response.status == (200 if size < 2**16 else 431)
    if size > 2**16:
        assert content["error"]["code"] == "headers_too_large"


SLOW = {
    "nothing": b"",
    "half a header": HEAD,
    "after an answer": HEAD + b"\r\n" + HEAD,
    "a body that nobody waits for": b"POST /nowhere HTTP/1.1\r\nhost: x\r\n"
    b"content-length: 99999\r\n\r\n",
}


def test_a_caller_that_drips_is_given_up(folder):
    """A byte now and then keeps no connection open beyond `--timeout`."""
    with running(model=str(folder), reload_every=0, timeout=1.0, **LIMITS) as service:
        for begin in SLOW.values():
            with connected(service) as connection:
                connection.sendall(begin)
                connection.settimeout(0.2)
                started = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while time.monotonic() < started + 30:
                        with contextlib.suppress(TimeoutError):
                            if not connection.recv(4096):
                                break
                        if begin:
                            connection.sendall(b"a")
                assert time.monotonic() < started + 30


def test_health_openapi_and_metrics(served):
    """All three are answered; `/openapi.json` lists the paths and a request's fields."""
    status, health = served.ask("GET", "/health")
    assert (status, health["status"]) == (200, "ok")
    assert health["models"]["model"]["name"] == "sasrec-base-seed0"
    _, page = served.ask("GET", "/openapi.json")
    assert {"/recommend", "/similar", "/health", "/metrics", "/compare"} <= set(page["paths"])
    schema = page["components"]["schemas"]["RecommendRequest"]
    assert {"histories", "k", "filter_seen", "allow", "deny"} <= set(schema["properties"])
    _, text = served.ask("GET", "/metrics")
    assert 'prmkd_requests_total{path="/health",status="200"}' in text
    assert "prmkd_request_seconds_bucket" in text


def test_too_many_requests_at_once_are_sent_away(folder, monkeypatch):
    """The second gets a 503 while the first waits for the model; `/health` still answers."""
    entered, leave = threading.Event(), threading.Event()
    answer = answer_jobs

    def slow(*arguments):
        entered.set()
        assert leave.wait(30)
        return answer(*arguments)

    with running(model=str(folder), max_requests=1, reload_every=0, **LIMITS) as served:
        monkeypatch.setattr(service_module, "answer_jobs", slow)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.post, "/recommend", histories=[["i1"]])
            assert entered.wait(30)
            status, content = served.post("/recommend", histories=[["i1"]])
            assert (status, content["error"]["code"]) == (503, "overloaded")
            assert served.ask("GET", "/health")[0] == 200
            leave.set()
            assert first.result()[0] == 200


def test_a_request_is_given_up_after_its_time(folder, monkeypatch):
    """It gets a 504, and the next request is answered."""
    leave, left = threading.Event(), threading.Event()
    answer = answer_jobs

    def slow(*arguments):
        assert leave.wait(30)
        found = answer(*arguments)
        left.set()
        return found

    with running(model=str(folder), timeout=0.5, reload_every=0, **LIMITS) as served:
        monkeypatch.setattr(service_module, "answer_jobs", slow)
        status, content = served.post("/recommend", histories=[["i1"]])
        assert (status, content["error"]["code"]) == (504, "timeout")
        monkeypatch.setattr(service_module, "answer_jobs", answer)
        leave.set()
        assert left.wait(30)
        assert served.post("/recommend", histories=[["i1"]])[0] == 200


def test_a_bug_is_told_as_an_error_and_counted(folder, monkeypatch, caplog):
    """Its details go to the log, not into the answer."""

    def broken(*_):
        raise RuntimeError("secret")

    with running(model=str(folder), reload_every=0, **LIMITS) as served:
        monkeypatch.setattr(service_module, "answer_jobs", broken)
        status, content = served.post("/recommend", histories=[["i1"]])
        assert (status, content["error"]["code"]) == (500, "internal")
        assert "secret" not in json.dumps(content)
        # The answer goes first, then the log.
        end = time.monotonic() + 10
        while "secret" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        assert "secret" in caplog.text
        assert "prmkd_unhandled_errors_total 1.0" in served.ask("GET", "/metrics")[1]


def test_a_newer_model_is_served_without_losing_a_request(tmp_path):
    """A moved link or a folder written again is picked up; a damaged one is refused."""
    first = export(tmp_path / "first", WORLD, 1)
    second = export(tmp_path / "second", random_world(items=43), 2)
    link = tmp_path / "current"
    link.symlink_to(first)
    failed, digests, stop = [], set(), threading.Event()

    def load():
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        while not stop.is_set():
            body = json.dumps({"histories": [["i1", "i2"]]})
            connection.request("POST", "/recommend", body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status == 200:
                digests.add(content["model"]["digest"])
            else:
                failed.append(content)
        connection.close()

    def name():
        return served.ask("GET", "/health")[1]["models"]["model"]["name"]

    with running(model=str(link), reload_every=0.1, **LIMITS) as served:
        thread = threading.Thread(target=load)
        thread.start()
        try:
            before = served.ask("GET", "/health")[1]["models"]["model"]["digest"]
            replaced = tmp_path / "replaced"
            replaced.symlink_to(second)
            os.replace(replaced, link)
            wait_for(served, lambda: name() == "second")
            export(second, WORLD, 3)  # the same folder, written again
            wait_for(served, lambda: len(digests) == 3)
            shutil.copytree(second, tmp_path / "damaged")
            with (tmp_path / "damaged" / "served.safetensors").open("ab") as stream:
                stream.write(b"x")
            card = json.loads((first / "student.json").read_text())
            assert card["digest"] == before
            (tmp_path / "damaged" / "student.json").write_text(json.dumps(card))
            replaced.symlink_to(tmp_path / "damaged")
            os.replace(replaced, link)
            wait_for(served, lambda: any("is not served: " in line for line in served.said))
            assert name() == "second"
        finally:
            stop.set()
            thread.join(60)
        assert failed == []
        assert len(digests) == 3
        (answer,) = Recommender.load(second).recommend([["i1", "i2"]])
        _, found = served.post("/recommend", histories=[["i1", "i2"]])
        same(found["answers"][0], answer)
        text = served.ask("GET", "/metrics")[1]
        assert 'prmkd_reloads_total{result="done"} 2.0' in text
        assert 'prmkd_reloads_total{result="refused"} 1.0' in text


def test_a_model_that_is_copied_file_by_file_is_served_once_it_is_whole(tmp_path):
    """A card without its weights, as `cp` leaves it for a while, is refused at first."""
    folder = export(tmp_path / "model", WORLD, 1)
    newer = export(tmp_path / "newer", WORLD, 2)
    names = sorted(path.name for path in newer.iterdir())
    assert names.index("student.json") < names.index("weights.safetensors")
    with running(model=str(folder), reload_every=0.05, **LIMITS) as served:
        for name in names:
            shutil.copyfile(newer / name, folder / name)
            if name == "student.json":
                wait_for(served, lambda: any("is not served: " in line for line in served.said))
        wait_for(served, lambda: any("now serving " in line for line in served.said))
        (answer,) = Recommender.load(newer).recommend([["i1", "i2"]])
        same(served.post("/recommend", histories=[["i1", "i2"]])[1]["answers"][0], answer)


def test_an_artefact_that_is_copied_file_by_file_is_served_once_it_is_whole(tmp_path):
    """A student without its self-check or its plain student is refused at first."""
    folders = []
    for number in (1, 3):
        student = export(tmp_path / f"student{number}", WORLD, number)
        plain = export(tmp_path / f"plain{number}", WORLD, number + 1)
        folders.append(tmp_path / f"artefact{number}")
        asked = ExportConfig(
            model=str(student), plain=str(plain), output_dir=str(folders[-1]), formats=("vectors",)
        )
        write_artifact(asked, lambda line: None)
    folder, newer = folders
    body = {"history": ["i1", "i2"], "k": 5, "filter_seen": True}
    files = sorted(
        (path.relative_to(newer) for path in newer.rglob("*") if path.is_file()),
        key=lambda file: (file.name == "check.npz", file.parts[0] == "plain", file),
    )
    with running(model=str(folder), reload_every=0.05, **LIMITS) as served:

        def refused():
            return sum("is not served: " in line for line in served.said)

        for file in files:
            before = refused()
            shutil.copyfile(newer / file, folder / file)
            if file.name == "student.json" or file == files[-2]:
                wait_for(served, lambda before=before: refused() > before)
        wait_for(served, lambda: any("now serving " in line for line in served.said))
        (_, plain) = served.post("/compare", **body)[1]["models"]
        (answer,) = Recommender.load(newer / "plain").recommend([body["history"]], 5)
        assert [one["item"] for one in plain["items"]] == [one.item for one in answer.items]


def test_another_plain_student_of_the_same_student_is_a_newer_model(tmp_path):
    """`/compare` shows the other plain student once the artefact is made again."""
    student = export(tmp_path / "student", WORLD, 1)
    plains = [export(tmp_path / f"plain{seed}", WORLD, seed) for seed in (2, 3)]
    folder = tmp_path / "artefact"

    def make(plain):
        asked = {"model": str(student), "plain": str(plain), "output_dir": str(folder)}
        write_artifact(
            ExportConfig(**asked, formats=("vectors",), overwrite=True), lambda line: None
        )

    def shown():
        models = served.post("/compare", history=["i1"], k=5)[1]["models"]
        return models[1]["model"]["digest"]

    make(plains[0])
    with running(model=str(folder), reload_every=0.05, **LIMITS) as served:
        assert shown() == read_card(plains[0])["digest"]
        make(plains[1])
        wait_for(served, lambda: shown() == read_card(plains[1])["digest"])


def test_a_link_that_leads_to_itself_for_a_while_ends_no_watching(tmp_path, folder):
    """After `ln -sfn current current` the next good model is still served."""
    newer = export(tmp_path / "newer", WORLD, 2)
    link, moved = tmp_path / "current", tmp_path / "moved"
    link.symlink_to(folder)
    with running(model=str(link), reload_every=0.05, **LIMITS) as served:
        for place in (link, newer):
            moved.symlink_to(place)
            os.replace(moved, link)
            time.sleep(0.5)
        wait_for(served, lambda: any("now serving newer" in line for line in served.said))


def test_a_look_that_fails_is_logged_and_the_next_one_comes(tmp_path, folder, monkeypatch, caplog):
    """After two unexpected errors the newer model is still served."""
    newer = export(tmp_path / "newer", WORLD, 2)
    link, moved = tmp_path / "current", tmp_path / "moved"
    link.symlink_to(folder)
    found, fails = models.found_version, iter([True, True])

    def failing(place):
        if next(fails, False):
            raise RuntimeError("nobody thought of it")
        return found(place)

    monkeypatch.setattr(models, "found_version", failing)
    with running(model=str(link), reload_every=0.05, **LIMITS) as served:
        moved.symlink_to(newer)
        os.replace(moved, link)
        wait_for(served, lambda: any("now serving newer" in line for line in served.said))
    assert caplog.text.count("can't be looked at") == 2


def test_nothing_is_compiled_for_a_request_within_the_limits(tmp_path):
    """Batches of any size and lists of any length run in programs compiled at the start."""
    # Sizes that no other test has.
    folder = export(tmp_path / "model", random_world(items=47), 1)
    limits = {"max_histories": 2, "batch_rows": 60, "max_list": 1100, "max_history": 70}
    with running(model=str(folder), reload_every=0, batch_wait=500.0, **limits) as served:
        recommender = served.service.models[MAIN].current.recommender
        sizes = compiled_sizes(recommender)
        read = histories(40, WORLD.num_items)
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            found = list(pool.map(lambda one: served.post("/recommend", histories=[one]), read))
        assert {status for status, _ in found} == {200}
        for name, count in itertools.product(("allow", "deny"), (0, 10, 100, 1100)):
            lists = {name: ["i1"] * count}
            assert served.post("/recommend", histories=[["i2"]], **lists)[0] == 200
        assert compiled_sizes(recommender) == sizes


def wait_for(served, condition):
    """Until it holds, for a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, served.said
        time.sleep(0.05)


def test_limits_of_a_billion_are_prepared_for_at_once():
    """A count of all lengths up to a limit that somebody meant as none: the service never began."""
    assert models._longest(10**9, padded_list) == [*(64 * 16**n for n in range(6)), 10**9]
    assert models._longest(50, lambda count: padded_window(count, 50), 1) == [16, 32, 50]


def test_one_requests_mistake_is_not_its_neighbours(tmp_path):
    """In one batch a user is refused, and the others get their own answers."""
    folder = export(tmp_path / "lightgcn", WORLD, 1, "lightgcn")
    recommender = Recommender(dataclasses.replace(read_exported(folder), fold_in=None))
    jobs = [Job([["i1"]], 5, ["u1"]), Job([["i1"]], 5, ["stranger"]), Job([["i2"]], 5, ["u2"])]
    first, refused, last = answer_jobs(recommender, jobs, 40)
    assert isinstance(refused, UserError)
    for answers, job in ((first, jobs[0]), (last, jobs[2])):
        expected = recommender.recommend(job.histories, 5, users=job.users)
        assert [one.item for one in answers[0].items] == [one.item for one in expected[0].items]


@pytest.mark.parametrize("student", ["gru4rec", "bert4rec", "fm", "deepfm", "lightgcn", "recguru"])
def test_every_student_can_be_served(tmp_path, student):
    """Each student other than SASRec answers as its recommender does."""
    folder = export(tmp_path / student, WORLD, 1, student)
    service = Service(ServeConfig(model=str(folder), **{**LIMITS, "max_histories": 1}), print)
    recommender = service.models["model"].current.recommender
    ((answer,),) = answer_jobs(recommender, [Job([["i1", "i2"]], 5)], 40)
    (expected,) = recommender.recommend([["i1", "i2"]], 5)
    assert [one.item for one in answer.items] == [one.item for one in expected.items]


def test_mistakes_are_told_before_the_model_is_loaded(tmp_path):
    """A taken port or a missing model is refused; an address open to others has a warning."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"found 127.0.0.1:{port}, expected an address of"):
            listen(ServeConfig(model="m", port=port))
    with pytest.raises(UserError, match="--model: found none, expected the folder of an"):
        Service(ServeConfig(), print)
    with pytest.raises(UserError, match="missing, expected an exported student"):
        Service(ServeConfig(model=str(tmp_path)), print)
    assert ServeConfig().warnings == ServeConfig(host="::1").warnings == []
    (warning,) = ServeConfig(host="0.0.0.0").warnings
    assert warning.startswith("--host=0.0.0.0: every machine that reaches this one can ask")


def test_the_command_serves_until_sigterm_and_answers_what_is_open(folder, tmp_path):
    """A deployment that stops it loses no answer; the status is that of success.

    A container without PyTorch and Orbax runs it as well.
    """
    for name in ("torch", "transformers", "orbax", "polars", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not there')")
    command = [sys.executable, "-m", "experiments", "serve", f"--model={folder}", "--port=0"]
    limits = [f"--{name}={value}" for name, value in LIMITS.items()]
    environment = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [*command, *limits, "--batch_wait=900"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        try:
            port = 0
            for line in process.stdout:
                if " at http://127.0.0.1:" in line:
                    port = int(line.rpartition(":")[2].strip().strip("/"))
                    break
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps({"histories": [["i1"]]})
            connection.request("POST", "/recommend", body, {"content-type": "application/json"})
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            response = connection.getresponse()
            assert response.status == 200
            assert json.loads(response.read())["answers"][0]["items"]
            assert process.wait(60) == 0
            assert process.stdout.read().splitlines()[-1] == "stopped"
            assert process.stderr.read() == ""
        finally:
            process.kill()


# Where importing what serving must not need raises; flax imports optax, of which nothing is called.
NOTHING_ELSE = """
import importlib.abc, json, sys, types
BLOCKED = ("torch", "orbax", "transformers", "teachers_torch", "bridge", "experiments", "polars")
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED or name.startswith("prmkd_jax.train"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Block())
optax = types.ModuleType("optax")
for name in ("GradientTransformation", "GradientTransformationExtraArgs", "OptState", "Params"):
    setattr(optax, name, object)
sys.modules["optax"] = optax
from prmkd_jax.serve.http import server
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] in BLOCKED)))
"""


def test_the_service_needs_neither_torch_nor_optax_nor_orbax(tmp_path):
    """A serving image holds jax, flax, numpy, safetensors, pyarrow and the extra `serve`."""
    assert run_beside(tmp_path, NOTHING_ELSE) == []
