"""Parts made by whoever is asked: here, by the callable that Ray's workers run, on a cluster."""

import contextlib
import functools
import importlib.util
import logging
import pickle
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import make_in_parts, make_part, part_file, ranges
from prmkd_jax.common.sealed import is_sealed
from prmkd_jax.data.task import make_task
from teachers_torch import cluster, ray_data, store
from teachers_torch.cluster import PartMaker, make_parts, require_cluster
from teachers_torch.config import TextConfig
from teachers_torch.items.text import _sentence_encoder
from teachers_torch.registry import identity, kind
from teachers_torch.settings import TeacherSettings
from teachers_torch.shards import _encoding, encode_in_shards
from teachers_torch.teacher import TeacherCard
from tests.teachers_torch.worlds import ring_world, text_vectors

SENTENCES = tuple(f"Steel bolt number {n}, " + "zinc plated " * (n % 7) for n in range(10))


def silent(done: int, total: int) -> None:
    """Nothing is told."""


def counting(folder: Path):
    """What makes rows that tell their place, and notes in a file that it was asked."""

    def make(start: int, stop: int) -> np.ndarray:
        with (folder / "asked").open("a") as stream:
            stream.write(f"{start} ")
        return np.arange(start, stop, dtype=np.float32)[:, None]

    return make


def failing():
    """A recipe whose encoder can't be loaded."""
    raise UserError("--text_encoder: found nothing, expected an encoder")


def batch(*parts: tuple[int, int]) -> dict[str, np.ndarray]:
    """Parts as Ray Data hands them over."""
    starts, stops = np.array(parts).T
    return {"start": starts, "stop": stops}


def sent(maker: PartMaker) -> PartMaker:
    """The maker as another process has it."""
    return pickle.loads(pickle.dumps(maker))


def test_the_callable_encodes_texts_as_one_process_does(tmp_path):
    """Sent to a worker, it makes the same bits, whatever the order of the parts."""
    recipe = functools.partial(_sentence_encoder, SENTENCES, TextConfig(text_batch_size=3))
    expected = make_in_parts(tmp_path / "here", 10, 4, recipe()).array()
    maker = sent(PartMaker(tmp_path / "there", recipe))
    for part in reversed(ranges(10, 4)):
        done = maker(batch(part))
        assert done["fault"].tolist() == [""]
        assert (done["start"], done["stop"]) == part
    found = make_parts(tmp_path / "there", 10, 4, failing, silent).array()
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """A teacher on disk: itself, and what reads it elsewhere."""
    monkeypatch.setattr("teachers_torch.items.inputs.encode_texts", text_vectors)
    task, settings, cache = make_task(ring_world()), TeacherSettings(), Cache(tmp_path)
    found = identity("unisrec", task, settings, 0)
    torch.manual_seed(0)
    teacher = kind("unisrec").build(task, settings, cache, lambda event: None)
    card = TeacherCard("unisrec", "ring", "", "random", 0, {}, {}, {}, 0.0, 0, 0, 0, 0)
    store.save(teacher, card, tmp_path / "tuned")
    stored = functools.partial(
        store.stored_teacher, found, tmp_path / "tuned", task, settings, cache
    )
    return teacher, stored


def test_a_stored_teacher_encodes_instances_as_the_tuned_one_does(tuned, tmp_path):
    """The files that a worker writes are the same byte for byte."""
    teacher, stored = tuned
    expected = encode_in_shards(teacher, 500, tmp_path / "here", silent, shard_size=200)
    maker = sent(PartMaker(tmp_path / "there", functools.partial(_encoding, stored)))
    assert maker(batch(*ranges(500, 200)))["fault"].tolist() == ["", "", ""]
    for part in ranges(500, 200):
        here, there = (part_file(tmp_path / name, *part) for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()
    assert np.abs(expected.array()).max() > 0.1


def test_a_worker_with_other_files_or_versions_makes_nothing(tuned, tmp_path, monkeypatch):
    """The error says what differs, and no row is encoded."""
    stored = tuned[1]
    found, *rest = stored.args
    other = functools.partial(stored.func, type(found)("unisrec", {}, 0), *rest)
    with pytest.raises(UserError, match=r"teacher unisrec: found other files on .*, expected"):
        other()
    maker = PartMaker(tmp_path / "parts", functools.partial(counting, tmp_path))
    monkeypatch.setattr(cluster, "ENCODER_VERSION", -1)
    assert "'encoder': '-1'}, expected the versions" in maker(batch((0, 4)))["fault"][0]
    assert not (tmp_path / "asked").exists()


def test_a_half_written_part_is_made_again_and_a_finished_one_is_not(tmp_path):
    """Whole parts are made once, also where Ray asks twice, and in the end all are whole."""
    maker = PartMaker(tmp_path / "parts", functools.partial(counting, tmp_path))
    maker(batch((0, 4), (4, 8)))
    path = part_file(tmp_path / "parts", 4, 8)
    path.write_bytes(path.read_bytes()[:-40])
    maker = sent(maker)
    maker(batch((0, 4), (4, 8), (8, 9)))
    assert (tmp_path / "asked").read_text() == "0 4 4 8 "
    assert all(is_sealed(part_file(tmp_path / "parts", *part)) for part in ranges(9, 4))


def test_a_users_mistake_comes_back_as_one_line(tmp_path):
    """The worker's fault is the encoder's own message, not Ray's traceback."""
    maker = PartMaker(tmp_path, failing)
    assert maker(batch((0, 4)))["fault"].tolist() == [
        "--text_encoder: found nothing, expected an encoder"
    ]


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "autos", "a:b", "h:1234567", " "])
def test_no_address_is_told_in_a_line(monkeypatch, address):
    monkeypatch.setenv("PRMKD_RAY", address)
    with pytest.raises(UserError, match=r"\$PRMKD_RAY: found .*, expected local, auto or HOST:PO"):
        require_cluster()


def test_a_missing_ray_is_told_in_a_line_before_anything_is_made(tmp_path, monkeypatch):
    """The line names the pip command; without $PRMKD_RAY, ray isn't needed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PRMKD_RAY", "local")
    with pytest.raises(UserError, match=r"^\$PRMKD_RAY: found no ray .*pip install 'prmkd-jax\[ra"):
        require_cluster()
    with pytest.raises(UserError, match="found no ray"):
        make_parts(tmp_path / "parts", 9, 4, failing, silent)
    monkeypatch.delenv("PRMKD_RAY")
    require_cluster()


@pytest.mark.parametrize("port", [1, 99999])
def test_a_cluster_that_nobody_runs_is_told_at_once(monkeypatch, port):
    """The line names $PRMKD_RAY and the address, also one with an impossible port."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("PRMKD_RAY", f"127.0.0.1:{port}")
    with pytest.raises(
        UserError, match=rf"^\$PRMKD_RAY: found that the cluster 127.0.0.1:{port} f"
    ):
        require_cluster()


@pytest.fixture
def rounds(monkeypatch):
    """Stands in for Ray: the parts that each pass over the missing ones gives."""
    monkeypatch.setenv("PRMKD_RAY", "head:6379")
    monkeypatch.setattr(ray_data, "_PATIENCE", 1)
    monkeypatch.setattr(ray_data, "_PAUSE", 0.0)
    ray = types.SimpleNamespace(exceptions=types.SimpleNamespace(RayError=ChildProcessError))
    monkeypatch.setattr(ray_data, "_connected", lambda address: contextlib.nullcontext(ray))
    passes, asked = [], []

    def round_of(ray, parts, maker):
        asked.append(list(parts))
        for part in passes.pop(0):
            if part is None:
                raise ChildProcessError
            (fault,) = maker(batch(part))["fault"]
            yield *part, fault

    monkeypatch.setattr(ray_data, "_round", round_of)
    return passes, asked


def test_parts_of_a_lost_node_are_asked_for_again_alone(rounds, tmp_path, caplog):
    """Finished parts aren't made again, a warning counts the lost, and no row is missing."""
    passes, asked = rounds
    told, recipe = [], functools.partial(counting, tmp_path)
    make_part(tmp_path / "parts", 4, 8, recipe())
    passes += [[(8, 9), None], [None], [(0, 4)]]
    with caplog.at_level(logging.WARNING):
        parts = make_parts(tmp_path / "parts", 9, 4, recipe, lambda *done: told.append(done))
    assert asked == [[(0, 4), (8, 9)], [(0, 4)], [(0, 4)]]
    assert (tmp_path / "asked").read_text() == "4 8 0 "
    assert told[:2] == [(5, 9), (9, 9)]
    assert "1 parts are asked for again" in caplog.text
    np.testing.assert_array_equal(parts.array()[:, 0], np.arange(9))
    make_parts(tmp_path / "parts", 9, 4, failing, silent)  # all are there: nobody is asked
    assert len(asked) == 3


def test_a_cluster_that_makes_nothing_is_given_up(rounds, tmp_path, monkeypatch):
    """Two rounds without a part end it, and a user's mistake ends it after one."""
    passes, asked = rounds
    passes += [[], []]
    with pytest.raises(UserError, match="none of 3 parts was made on head:6379"):
        make_parts(tmp_path / "parts", 9, 4, functools.partial(counting, tmp_path), silent)
    passes += [[None], [None]]
    with pytest.raises(ChildProcessError):
        make_parts(tmp_path / "parts", 9, 4, functools.partial(counting, tmp_path), silent)
    passes += [[(0, 4), (4, 8)]]
    with pytest.raises(UserError, match="--text_encoder: found nothing"):
        make_parts(tmp_path / "parts", 9, 4, failing, silent)
    assert len(asked) == 5


def test_a_part_that_another_machine_keeps_to_itself_is_told(rounds, tmp_path, monkeypatch):
    """The error says that all nodes must share the folder."""
    passes, _ = rounds
    passes += [[(0, 4)]]
    monkeypatch.setattr(ray_data, "_SEEN_AFTER", -1.0)
    monkeypatch.setattr(PartMaker, "_fault", lambda self, start, stop: "")
    with pytest.raises(UserError, match=r"0-4\.npy: found no part .* a folder that all nodes sha"):
        make_parts(tmp_path / "parts", 9, 4, functools.partial(counting, tmp_path), silent)


class FakeRay:
    """Tells of nodes."""

    def __init__(self, *nodes: dict[str, float], alive: bool = True):
        self._nodes = [{"Alive": alive, "Resources": node} for node in nodes]

    def nodes(self):
        """As Ray's."""
        return self._nodes


def test_workers_take_this_process_threads_or_a_gpu_each(monkeypatch):
    """A worker has 4 CPUs or one GPU; if no living node has 4 CPUs, that is an error."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    two = FakeRay({"CPU": 9.0}, {"CPU": 4.0}, {})
    assert ray_data._slots(two) == (3, {"num_cpus": 4, "num_gpus": 0})
    one = FakeRay({"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0})
    assert ray_data._slots(one) == (8, {"num_cpus": 1, "num_gpus": 1})
    for small in (FakeRay({"CPU": 3.0}, {"CPU": 3.0}), FakeRay({"CPU": 3.0}, {"CPU": 8.0})):
        small.nodes()[1]["Alive"] = False
        with pytest.raises(UserError, match="found 3 CPUs on the largest node, expected 4, the th"):
            ray_data._slots(small)
