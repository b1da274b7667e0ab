"""Teachers that give scores teach as those do that give vectors."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from bridge.live_teachers import LiveTeachers
from bridge.score_sources import permuted
from bridge.teacher_bank import SIDES, TeacherBank
from bridge.teacher_vectors import Vectors, read_vectors, write_lists
from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.per_user import distill_batch
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.step import user_inputs
from teachers_torch.ranked_lists import RankedLists, as_lists, best
from tests.worlds import make_run, random_world

WORLD = random_world()
N, V = len(WORLD.interactions.items), WORLD.num_items
UNKNOWN = WORLD.interactions.indptr[3]  # and its user's second instance


def vectors() -> list[Vectors]:
    """Three teachers; the last one knows not every instance."""
    rng = np.random.default_rng(0)
    found = []
    for k, width in enumerate((8, 3, 5)):
        instances, items = (rng.normal(size=(n, width)).astype(np.float16) for n in (N, V))
        if k == 2:
            instances[UNKNOWN : UNKNOWN + 2] = 0
        found.append(Vectors(f"teacher{k}", 1.5 + k, instances, items))
    return found


def scores_of(teacher: Vectors) -> np.ndarray:
    """The training logits of all items for all instances, nan where it knows none."""
    products = teacher.instances.astype(np.float32) @ teacher.items.astype(np.float32).T
    scores = np.float32(teacher.scale) * products
    scores[~teacher.instances.any(axis=1)] = np.nan
    return scores


def listed(teacher: Vectors, top: int = V) -> RankedLists:
    """Its ranked lists."""
    return as_lists(teacher.name, best(scores_of(teacher), top), V)


class Function:
    """A teacher that is asked for every batch."""

    top = None

    def __init__(self, teacher: Vectors):
        self.name = teacher.name
        self.scores = scores_of(teacher)

    def score(self, instance_ids, items):
        """Rows and columns of an array."""
        return self.scores[instance_ids][:, items]


@functools.partial(jax.jit, static_argnums=0)
def losses(config, logits, distill, constants):
    """The loss and the teachers' measures of each instance."""
    users = user_inputs(distill, constants)
    return distill_batch(logits, users, constants.default_weights, constants.threshold, config)


def taught(run) -> list:
    """`losses` of two batches, whatever stands at padding left out."""
    constants = run_constants(run)
    rng = np.random.default_rng(5)
    found = []
    inputs = distill_inputs(run, training_batches(run).epoch(0))
    for batch, distill in itertools.islice(inputs, 2):
        logits = rng.normal(size=distill.columns.valid.shape).astype(np.float32)
        values = losses(run.distill, logits, distill, constants)
        known = batch.is_instance
        found.append(jax.tree.map(lambda x, known=known: np.asarray(x)[known], values))
    return found


def run_with(tmp_path, teachers, **config):
    """A distilled run with its threshold."""
    run = make_run(WORLD, tmp_path, distill=DistillConfig(**config), teachers=teachers)
    return dataclasses.replace(run, threshold=calibrate_threshold(run))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("columns", ["in_batch", "catalogue"])
def test_complete_lists_and_functions_teach_as_their_vectors_do(tmp_path, side, columns):
    """Loss, threshold, weights and measures are those of the vectors, up to rounding."""
    exact = vectors()
    mixed = [Function(exact[0]), exact[1], listed(exact[2])]
    weights = [0.2, 0.3, 0.5]
    runs = [
        run_with(tmp_path, TeacherBank(sources, weights, side), negatives=columns)
        for sources in (exact, mixed)
    ]
    assert runs[1].threshold == pytest.approx(runs[0].threshold, rel=1e-5)
    # A little above, so that rounding excludes no other teacher where a row is the quantile.
    threshold = 1.001 * runs[0].threshold
    expected, found = (taught(dataclasses.replace(run, threshold=threshold)) for run in runs)
    assert runs[0].teachers.names == runs[1].teachers.names
    excluded = 0.0
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other[0], one[0], rtol=1e-6, atol=1e-6)
        for field, a, b in zip(one[1]._fields, one[1], other[1], strict=True):
            if field in ("entropy", "kl", "weight"):
                np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        excluded += one[1].excluded.sum()
    assert excluded > 0


def test_vectors_keep_their_bits_next_to_a_teacher_that_gives_scores(tmp_path):
    """A vector teacher's scores don't change where another teacher's are given."""
    exact = vectors()
    alone, mixed = (
        TeacherBank(sources, [1, 1, 1], "jax")
        for sources in (exact, [*exact[:2], Function(exact[2])])
    )
    assert alone.tables.complete
    assert not mixed.tables.complete
    runs = [make_run(WORLD, tmp_path, distill=DistillConfig(), teachers=b) for b in (alone, mixed)]
    first = [next(distill_inputs(run, training_batches(run).epoch(0)))[1] for run in runs]
    assert first[0].scores is None
    assert first[1].scores.scores.shape[1] == 1
    a, b = (user_inputs(d, run_constants(run)) for d, run in zip(first, runs, strict=True))
    np.testing.assert_array_equal(a.teacher_scores[:, :2], b.teacher_scores[:, :2])
    np.testing.assert_array_equal(a.available[:, :2], b.available[:, :2])


def test_live_teachers_may_give_scores():
    """A live teacher needs no vectors, and what it doesn't know is unavailable."""
    exact = vectors()[0]
    live = LiveTeachers([Function(exact)])
    ids, items = np.array([5, 0, 9]), np.array([3, 1])
    found = live.for_batch(ids, items)
    np.testing.assert_array_equal(
        np.asarray(found.scores)[::2, 0], scores_of(exact)[ids[::2]][:, items]
    )
    assert np.asarray(found.available)[:, 0].tolist() == [True, False, True]


def test_permuted_teachers_score_each_item_as_another():
    """The order of the items is the same for vectors, for a function and for lists."""
    exact = vectors()[1]
    order = np.random.default_rng(1).permutation(V)
    ids, items = np.arange(1, 5), np.arange(V)
    sources = [permuted(x, order) for x in (exact, Function(exact), listed(exact))]
    for source in sources:
        bank = TeacherBank([source], [1.0], "torch")
        found = np.asarray(bank.for_batch(ids, items).scores)[:, 0]
        np.testing.assert_allclose(found, scores_of(exact)[1:5][:, order], rtol=1e-5, atol=1e-5)


def test_no_teacher_is_asked_for_padding():
    """Instance 0 has no prefix; one that can't answer it isn't stopped by it."""
    exact = vectors()[0]

    class Known(Function):
        def score(self, instance_ids, items):
            assert 0 not in instance_ids
            return super().score(instance_ids, items)

    ids, items = np.array([0, 5, 0, 9]), np.array([3, 1])
    for teachers in (LiveTeachers([Known(exact)]), TeacherBank([Known(exact)], [1.0], "torch")):
        found = teachers.for_batch(ids, items)
        assert np.asarray(found.available)[:, 0].tolist() == [False, True, False, True]
        expected = scores_of(exact)[ids[1::2]][:, items]
        np.testing.assert_array_equal(np.asarray(found.scores)[1::2, 0], expected)
        assert not np.asarray(found.scores)[::2].any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_score_that_is_not_finite_is_named(value):
    """The error names teacher, instance and item before a softmax can hide the value."""
    broken = Function(vectors()[0])
    broken.scores[7, 4] = value
    bank = TeacherBank([broken], [1.0], "jax")
    with pytest.raises(UserError, match=r"teacher teacher0: instance 7, item 4: found a score of"):
        bank.for_batch(np.array([6, 7]), np.array([2, 4, 5]))


def test_lists_come_back_from_disk(tmp_path):
    """Lists keep their ids and scores, stay on disk as memory maps, and are checked."""
    lists = listed(vectors()[2], top=7)
    write_lists(tmp_path, lists, {"data": "x"})
    found = read_vectors(tmp_path, {"data": "x"})
    assert isinstance(found, RankedLists)
    assert isinstance(found.rows.values, np.memmap)
    ids, items = np.arange(N), np.arange(V)
    np.testing.assert_array_equal(found.score(ids, items), lists.score(ids, items))
    with pytest.raises(UserError, match="found 'x', expected 'y'"):
        read_vectors(tmp_path, {"data": "y"})
    content = bytearray((tmp_path / "ids.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "ids.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"ids\.npy: SHA-256: found"):
        read_vectors(tmp_path, {"data": "x"})


def test_lists_that_say_nothing_are_refused(tmp_path):
    """A teacher that knows no instance is an error before any student learns from it."""
    nothing = as_lists("a", best(np.full((3, V), np.nan, np.float32), 5), V)
    with pytest.raises(UserError, match="teacher a: found no instance that it knows"):
        write_lists(tmp_path, nothing, {})
