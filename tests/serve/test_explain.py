"""Ranks by teachers and by the plain student, next to what was recommended."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve import explain
from prmkd_jax.serve.artifact import write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import ARRAYS, CARD, read_explanation, view_teacher
from prmkd_jax.serve.recommender import Recommender
from tests.serve.exports import export
from tests.students import fields

ITEMS = fields.WORLD.num_items
TITLES = tuple(f"Title {n}" for n in range(ITEMS))
WORLD = dataclasses.replace(fields.WORLD, catalogue=Catalogue({**fields.TEXTS, "title": TITLES}))
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(ITEMS, 6)).astype(np.float16)
HISTORIES = [RNG.integers(0, ITEMS, n).tolist() for n in RNG.integers(1, 9, 300)]


def own_vectors(histories):
    """A teacher that reads the mean and the newest item, in float64."""
    table = TABLE.astype(float)
    return np.stack([0.5 * table[h].mean(0) + 2 * table[h[-1]] - 0.3 for h in histories])


def ranks_of(answer):
    """The ranks of an answer that is explained."""
    assert answer.ranks is not None
    return answer.ranks


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """An artefact that explains, made of two students of random weights."""
    folder = tmp_path_factory.mktemp("explained")
    for seed, name in enumerate(("distilled", "plain")):
        export(folder / name, WORLD, seed)
    view = view_teacher(
        "linear", "Linear", TABLE, own_vectors(HISTORIES[:200]), HISTORIES[:200],
        (own_vectors(HISTORIES[200:]), HISTORIES[200:]),
    )  # fmt: skip
    asked = ExportConfig(
        model=str(folder / "distilled"),
        plain=str(folder / "plain"),
        output_dir=str(folder / "artefact"),
        formats=("vectors",),
    )
    write_artifact(asked, lambda line: None, [view])
    return folder


def test_a_teacher_that_is_linear_is_estimated_exactly(artefact):
    """Its ranks are within one of those counted in float64, with a fidelity above 0.95."""
    recommender = Recommender.load(artefact / "artefact")
    explanation = read_explanation(artefact / "artefact", WORLD.num_items)
    assert explanation is not None
    assert (explanation.teachers[0].fidelity or 0) > 0.95
    read = [["i3", "i9"], ["i11", "i7", "i1"]]
    for filter_seen in (True, False):
        answers = recommender.recommend(read, 5, explain=True, filter_seen=filter_seen)
        for history, answer in zip(read, answers, strict=True):
            rows = [int(item[1:]) for item in history]
            scores = TABLE.astype(float) @ own_vectors([rows])[0]
            rivals = [n for n in range(ITEMS) if not (filter_seen and n in rows)]
            for one, rank in zip(answer.items, ranks_of(answer)["linear"], strict=True):
                own = scores[int(one.item[1:])]
                assert rank is not None
                assert abs(rank - sum(scores[n] > own for n in rivals)) <= 1
                assert one.title == f"Title {one.item[1:]}"


def test_a_teachers_own_list_is_in_the_order_of_its_scores(artefact, monkeypatch):
    """The order is that of float64 in any size of block; seen items are left out on demand."""
    recommender = Recommender.load(artefact / "artefact")
    history = [11, 7, 1]
    scores = TABLE.astype(float) @ own_vectors([history])[0]
    for block, filter_seen in ((7, True), (65_536, False)):
        monkeypatch.setattr(explain, "_BLOCK", block)
        asked = ["i11", "unknown", "i7", "i1"]
        (found,) = recommender.by_teachers(asked, ITEMS, filter_seen=filter_seen).values()
        rows = [int(one.item[1:]) for one in found]
        assert sorted(rows) == [n for n in range(ITEMS) if not (filter_seen and n in history)]
        np.testing.assert_allclose([one.score for one in found], scores[rows], atol=0.01)
        assert [one.score for one in found] == sorted([one.score for one in found], reverse=True)
        assert [one.title for one in found] == [f"Title {row}" for row in rows]
    assert recommender.by_teachers(["unknown"]) == {"linear": []}
    assert Recommender.load(artefact / "plain").by_teachers(["i1"]) == {}


def test_the_plain_students_ranks_are_its_own(artefact):
    """They are the places in the list that it gives by itself."""
    recommender = Recommender.load(artefact / "artefact")
    read = [["i3", "i9"], ["i11", "i7", "i1"]]
    plain = Recommender.load(artefact / "plain").recommend(read, ITEMS)
    for answer, other in zip(recommender.recommend(read, 5, explain=True), plain, strict=True):
        order = [one.item for one in other.items]
        assert ranks_of(answer)["plain"] == [order.index(one.item) for one in answer.items]


def test_a_moved_link_changes_no_plain_student(artefact, tmp_path):
    """It is read when it is first needed, from beside the student that was opened."""
    link = tmp_path / "current"
    link.symlink_to(artefact / "artefact")
    recommender = Recommender.load(link)
    link.unlink()
    link.symlink_to(tmp_path)
    assert recommender.plain is not None
    plain = Recommender.load(artefact / "plain")
    assert recommender.plain.exported.card["digest"] == plain.exported.card["digest"]


def test_what_others_do_not_know_has_no_rank(artefact):
    """New items, and others for a history of new items, have None as their rank."""
    recommender = Recommender.load(artefact / "artefact")
    vectors = np.asarray(recommender.exported.items, np.float64)
    larger = recommender.add_items(["new"], vectors[:1] * 3, vectors, titles=["New"])
    (answer,) = larger.recommend([["i1"]], ITEMS + 1, explain=True, filter_seen=False)
    place = [one.item for one in answer.items].index("new")
    assert ranks_of(answer)["plain"][place] is None
    assert ranks_of(answer)["linear"][place] is None
    (answer,) = larger.recommend([["new"]], 3, explain=True)
    assert answer.ranks == {"plain": [None] * 3, "linear": [None] * 3}
    (answer,) = recommender.recommend([["i1"]], 3, titles=True)
    assert answer.ranks is None
    assert answer.items[0].title
    assert Recommender.load(artefact / "plain").recommend([["i1"]], explain=True)[0].ranks is None


def test_another_explanation_is_another_artefact(artefact):
    """The same student with another explanation needs a new folder or --overwrite."""
    asked = ExportConfig(
        model=str(artefact / "distilled"),
        output_dir=str(artefact / "artefact"),
        formats=("vectors",),
    )
    for plain in ("", str(artefact / "plain")):
        changed = dataclasses.replace(asked, plain=plain)
        with pytest.raises(UserError, match="expected a new folder, or --overwrite"):
            write_artifact(changed, lambda line: None)
    said = []
    view = Recommender.load(artefact / "artefact").explanation
    assert view is not None
    same = dataclasses.replace(asked, plain=str(artefact / "plain"))
    write_artifact(same, said.append, view.teachers)
    assert said[0].endswith("made before, of this student with these flags")


def test_damage_and_another_plain_student_are_told(artefact, tmp_path):
    """A plain student of other items is refused, and so is a changed byte."""
    other = dataclasses.replace(WORLD, item_ids=tuple(f"x{n}" for n in range(ITEMS)))
    asked = ExportConfig(
        model=str(artefact / "distilled"),
        plain=str(export(tmp_path / "other", other, 0)),
        output_dir=str(tmp_path / "out"),
        formats=("vectors",),
    )
    with pytest.raises(UserError, match=r"--plain: found .* with 40 items, expected the 40 of"):
        write_artifact(asked, lambda line: None)
    copied = shutil.copytree(artefact / "artefact", tmp_path / "artefact")
    content = (copied / ARRAYS).read_bytes()
    (copied / ARRAYS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"explain\.safetensors: damaged"):
        Recommender.load(copied)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("items", np.zeros((WORLD.num_items + 1, 4), np.float16), "found items float16"),
        ("items", np.zeros(TABLE.shape, np.float64), "found items float64"),
        ("weights", np.zeros((5, TABLE.shape[1]), np.float32), "and weights float32(5, "),
        ("weights", None, "found nan or infinity"),
    ],
)
def test_an_explanation_that_does_not_fit_the_student_is_refused(
    artefact, tmp_path, name, array, message
):
    """Wrong arrays under right digests are refused when the student is opened."""
    folder = tmp_path / "forged"
    shutil.copytree(artefact / "artefact", folder)
    arrays = safetensors.numpy.load_file(folder / ARRAYS)
    key = f"linear.{name}"
    arrays[key] = np.full_like(arrays[key], np.inf) if array is None else array
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    content = read_sealed_json(folder / CARD)
    write_sealed_json(folder / CARD, {**content, "sha256": file_digest(folder / ARRAYS)})
    with pytest.raises(UserError, match=re.escape(message)):
        Recommender.load(folder)


@pytest.mark.parametrize(
    "told", [{"label": 7}, {"name": None}, {"fidelity": float("1e999")}, {"fidelity": "high"}]
)
def test_what_is_told_of_a_teacher_is_of_its_type(artefact, tmp_path, told):
    """The service met it at every comparison, as a bug of its own."""
    folder = tmp_path / "forged"
    shutil.copytree(artefact / "artefact", folder)
    content = read_sealed_json(folder / CARD)
    content["teachers"][0] |= told
    (folder / CARD).write_text(json.dumps({**content, "digest": content_digest(content)}))
    with pytest.raises(UserError, match=r"explain\.json: teachers: found \[.*, expected objects"):
        Recommender.load(folder)
