"""New items' rows against closed forms in float64, and what they are worth."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve import new_items
from prmkd_jax.serve import recommender as module
from prmkd_jax.serve.new_items import Map, Ridge, RowMap, choose_map, extend, text_vectors
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.renew import only_items
from prmkd_jax.serve.scorer import StudentScorer
from prmkd_jax.students import student
from prmkd_jax.students.config import BUILT_IN
from tests.checking import uncheck
from tests.serve.exports import export
from tests.students import fields
from tests.worlds import student_config

ITEMS = fields.WORLD.num_items
TITLES = tuple(f"{'lamp' if n % 2 else 'kettle'} of kind {n % 5}" for n in range(ITEMS))
WORLD = dataclasses.replace(fields.WORLD, catalogue=Catalogue({**fields.TEXTS, "title": TITLES}))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Name → recommender of random weights."""
    made = {}

    def serve(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("served") / name
            made[name] = Recommender.load(export(folder, WORLD, 5, name))
        return made[name]

    return serve


def test_the_map_is_the_ridge_regressions_minimum():
    """It solves the normal equations with a column of ones that isn't penalised."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)) + 3, rng.normal(size=(50, 4)) - 1
    centred = x - x.mean(0)
    penalty = 0.3 * np.trace(centred.T @ centred) / 6
    ones = np.hstack([x, np.ones((50, 1))])
    expected = np.linalg.solve(ones.T @ ones + penalty * np.diag([1.0] * 6 + [0.0]), ones.T @ y)
    found = Ridge(x).fit(y, 0.3)
    new = rng.normal(size=(7, 6))
    np.testing.assert_allclose(found(new), np.hstack([new, np.ones((7, 1))]) @ expected, rtol=1e-9)


def test_vectors_that_say_nothing_give_the_mean_row():
    """Equal vectors cause no division by zero."""
    x, y = np.ones((9, 3)), np.arange(18.0).reshape(9, 2)
    np.testing.assert_allclose(Ridge(x).fit(y, 1e-4)(np.ones((2, 3))), [y.mean(0)] * 2)


def test_the_map_is_the_one_that_serves_held_out_items_best():
    """Maps are fitted without those items; of equal ones the strongest and shortest wins."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    tried = [(s, g) for s in (0.1, 1.0, 10.0) for g in (0.5, 1.0)]
    worth = dict(zip(tried, (0.2, 0.7, 0.7, 0.1, 0.7, 0.7), strict=True))
    seen = []

    def agree(held, predicted):
        known = np.setdiff1d(np.arange(40), held)
        strength, gain = tried[len(seen)]
        seen.append(held)
        mean = y[known].mean(0)
        beyond = Ridge(x[known]).fit(y[known], strength)(x[held]) - mean
        own = np.linalg.norm(y[held] - mean, axis=1).mean()
        expected = mean + gain * own / np.linalg.norm(beyond, axis=1).mean() * beyond
        np.testing.assert_allclose(predicted, expected, rtol=1e-8)
        return worth[strength, gain]

    found = choose_map(RowMap(x), y, agree, (0.1, 1.0, 10.0), (0.5, 1.0))
    assert found == Map(10.0, 0.5, 0.7)
    assert len(seen) == 6
    assert all(len(held) == 4 for held in seen)


def test_mapped_rows_are_as_long_as_known_ones():
    """The short rows of a weak regression are lengthened, so that they can be recommended."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 6))
    y = x @ rng.normal(size=(6, 8)) * 0.4 + rng.normal(size=(500, 8)) * 3 + 1
    new = rng.normal(size=(200, 6))
    lengths = np.linalg.norm(y - y.mean(0), axis=1).mean()
    found = RowMap(x).rows(y, new, 0.01, 1.0)
    mapped = np.linalg.norm(found - y.mean(0), axis=1).mean()
    assert mapped == pytest.approx(lengths, rel=0.2)
    short = np.linalg.norm(Ridge(x).fit(y, 0.01)(new) - y.mean(0), axis=1).mean()
    assert short < 0.5 * lengths


@pytest.mark.parametrize("name", BUILT_IN)
def test_rows_that_vectors_tell_exactly_are_found(served, name, monkeypatch):
    """Copies of known items score as their originals, and the known items' scores stay."""
    monkeypatch.setattr(module, "choose_map", lambda *_: Map(1e-9, 1.0, 1.0))
    # Without the held-out items too few are left to tell the rows: their lengths mean nothing.
    monkeypatch.setattr(RowMap, "_longer", lambda *_: 1.0)
    recommender = served(name)
    flat = [np.asarray(recommender.exported.items, np.float64)]
    if recommender.exported.fold_in is not None:
        flat.append(np.asarray(recommender.exported.fold_in, np.float64))
    for array in nnx.to_flat_state(nnx.State(recommender.exported.params)):
        leaf = np.asarray(array[1])
        if leaf.ndim and len(leaf) == ITEMS:
            flat.append(leaf.reshape(ITEMS, -1).astype(np.float64))
    vectors = np.hstack(flat)
    copies = [3, 7, 30]
    larger = recommender.add_items(["a", "b", "c"], vectors[copies], vectors)
    assert recommender.exported.item_ids == tuple(WORLD.item_ids)

    read = [["i5", "i9"], ["i30", "i7", "i1"], ["i11"]]
    old = recommender.recommend(read, ITEMS, filter_seen=False)
    new = larger.recommend(read, ITEMS + 3, filter_seen=False)
    for before, after in zip(old, new, strict=True):
        scores = {one.item: one.score for one in after.items}
        assert {one.item: scores[one.item] for one in before.items} == pytest.approx(
            {one.item: one.score for one in before.items}, rel=1e-5, abs=1e-5
        )
        spread = np.ptp(list(scores.values()))
        for item, row in zip("abc", copies, strict=True):
            assert scores[item] == pytest.approx(scores[f"i{row}"], abs=1e-3 * spread)

    # Among the known items nothing moves: the rows that scores are made of are the same bits.
    np.testing.assert_array_equal(larger.exported.items[:ITEMS], recommender.exported.items)
    among = larger.recommend(read, ITEMS, filter_seen=False, deny=["a", "b", "c"])
    for before, after in zip(old, among, strict=True):
        assert [one.item for one in after.items] == [one.item for one in before.items]

    copied = [["a", "i9"], ["c", "b", "i1"]]
    originals = [["i3", "i9"], ["i30", "i7", "i1"]]
    for one, other in zip(
        larger.recommend(copied, ITEMS + 3, filter_seen=False),
        larger.recommend(originals, ITEMS + 3, filter_seen=False),
        strict=True,
    ):
        assert one.unknown_items == 0
        found = {each.item: each.score for each in one.items}
        expected = {each.item: each.score for each in other.items}
        spread = np.ptp(list(expected.values()))
        assert found == pytest.approx(expected, abs=1e-3 * spread)


class Transitions(nnx.Module):
    """A student whose only parameter has a row and a column an item."""

    def __init__(self, config, facts, *, rngs):
        self.counts = nnx.Param(rngs.params.normal((facts.num_items, facts.num_items)))


def test_a_table_of_pairs_of_items_grows_along_both_axes(served, monkeypatch):
    """Copies have their originals' rows and columns, and without them it is as before."""
    exported = served("sasrec").exported
    monkeypatch.setattr(student, "student_class", lambda _: Transitions)
    counts = np.random.default_rng(0).normal(size=(ITEMS, ITEMS)).astype(np.float32)
    # Settings of no other test: what is known of a student's shapes is kept.
    other = student_config(gru_size=1)
    exported = dataclasses.replace(exported, config=other, params={"counts": counts})
    copied = [*range(ITEMS), 3, 7]
    larger = extend(exported, ["a", "b"], None, lambda table: table[[3, 7]])
    np.testing.assert_array_equal(larger.params["counts"], counts[np.ix_(copied, copied)])
    again = only_items(larger, exported.item_ids)
    np.testing.assert_array_equal(again.params["counts"], counts)


@pytest.mark.parametrize("name", ["sasrec", "deepfm", "lightgcn"])
def test_held_out_items_are_judged_by_the_lists_that_they_should_be_in(served, name):
    """The judge gives 1 for the true rows, and for others what counting by hand gives."""
    recommender = served(name)
    judge = StudentScorer(recommender.exported).judge()
    table = np.asarray(recommender.exported.items, np.float64)
    held = np.arange(0, ITEMS, 4)
    assert judge(held, table[held]) == 1.0
    predicted = table[held] + np.random.default_rng(0).normal(0, table.std(), table[held].shape)
    ids = np.array(WORLD.item_ids)
    changed = table.copy()
    changed[held] = predicted
    other = Recommender(dataclasses.replace(recommender.exported, items=changed.astype(np.float32)))
    read = [[item] for item in WORLD.item_ids]
    hits = total = 0
    for true, found in zip(recommender.recommend(read), other.recommend(read), strict=True):
        wanted = {one.item for one in true.items} & set(ids[held])
        there = {one.item for one in found.items} & set(ids[held])
        total += len(wanted) + len(there)
        hits += len(wanted & there)
    assert judge(held, predicted) == pytest.approx(2 * hits / total, abs=0.02)
    assert 0 < 2 * hits < total


def test_titles_alone_are_enough(served):
    """A new item lies nearest to the known items of its title, and lists show the title."""
    recommender = served("sasrec")
    table = np.asarray(recommender.exported.items)
    kinds = {title: np.flatnonzero(np.array(TITLES) == title) for title in set(TITLES)}
    larger = recommender.add_items(["new"], titles=[TITLES[4]])
    row = larger.exported.items[-1]
    known = {title: table[rows].mean(0) for title, rows in kinds.items()}
    mean = table.mean(0)
    cosines = {title: float((row - mean) @ (one - mean)) for title, one in known.items()}
    assert max(cosines, key=lambda title: cosines[title]) == TITLES[4]
    (answer,) = larger.recommend([["i1"]], ITEMS + 1, explain=True)
    assert {one.item: one.title for one in answer.items}["new"] == TITLES[4]
    assert [one.item for one in larger.similar("new", 3)]


@pytest.mark.parametrize("kind", [tuple, iter, np.array])
def test_ids_and_titles_may_come_in_any_iterable(served, kind, monkeypatch):
    uncheck(module, monkeypatch)
    recommender = served("sasrec")
    ids, titles = ["new", "newer"], [TITLES[4], TITLES[1]]
    larger = recommender.add_items(kind(ids), titles=kind(titles))
    expected = recommender.add_items(ids, titles=titles)
    assert larger.recommend([["new"]], 5, titles=True) == expected.recommend(
        [["new"]], 5, titles=True
    )


def test_titles_may_be_read_by_an_encoder(served):
    """The result is that of the encoder's vectors for known and new titles."""
    recommender = served("gru4rec")
    table = np.random.default_rng(0).normal(size=(5, 4))

    def encode(titles):
        return np.stack([table[int(title[-1])] for title in titles])

    new = [TITLES[4], TITLES[2]]
    found = recommender.add_items(["a", "b"], titles=new, encode=encode)
    expected = recommender.add_items(["a", "b"], encode(new), encode(TITLES), titles=new)
    np.testing.assert_array_equal(found.exported.items, expected.exported.items)
    assert found.map == expected.map


def test_words_are_weighted_by_how_rare_they_are():
    """A word of every known text weighs less than a rare one; an empty text gives zeros."""
    (vector,) = text_vectors(["Oak lamp"], ["lamp a", "lamp oak", "lamp"], width=4096)
    oak, lamp = np.log(4 / 2) + 1, np.log(4 / 4) + 1
    expected = np.array([lamp, oak]) / np.hypot(oak, lamp)
    np.testing.assert_allclose(np.sort(vector[vector > 0]), expected)
    np.testing.assert_array_equal(text_vectors([""], ["lamp"]), np.zeros((1, 1024)))


def test_mistakes_are_told(served, monkeypatch):
    """Known ids, other shapes and numbers that aren't finite are named in the message."""
    uncheck(module, monkeypatch)
    uncheck(new_items, monkeypatch)
    recommender = served("sasrec")
    known = np.random.default_rng(0).normal(size=(ITEMS, 3))
    for message, call in {
        "ids: found 'i3', expected new ones": (["i3"], known[:1], known),
        "ids: found 'one id twice'": (["a", "a"], known[:2], known),
        r"vectors: found shape \(1, 2\), expected 1 rows": (["a"], known[:1, :2], known),
        r"known_vectors: found shape \(9, 3\)": (["a"], known[:1], known[:9]),
        "vectors: found nan": (["a"], known[:1] * np.nan, known),
        "expected vectors and known_vectors, or titles": (["a"], known[:1]),
        "ids: found 'a', expected a list of strings": ("a", known[:1], known),
        r"ids: found \[1\], expected a list of strings": ([1], known[:1], known),
        "ids: found none, expected at least one": ([], known[:0], known),
        r"vectors: found shape \(3,\), expected 1 rows": (["a"], known[0], known),
        r"known_vectors: found shape \(\), expected": (["a"], known[:1], 3.0),
        "vectors: found no table of numbers": (["a"], [["x", "y", "z"]], known),
    }.items():
        with pytest.raises(UserError, match=message):
            recommender.add_items(*call)
    with pytest.raises(UserError, match="titles: found 2, expected 1"):
        recommender.add_items(["a"], known[:1], known, titles=["x", "y"])
    with pytest.raises(UserError, match="titles: found 'xy', expected a list of strings"):
        recommender.add_items(["a", "b"], titles="xy")
