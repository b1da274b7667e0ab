import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.students.student import create_student
from tests.students.fields import PLAIN, WORLD, batches, in_float64, rendle
from tests.students.reference import random_params
from tests.worlds import facts, student_config

CONFIG = student_config(student="fm", hidden_size=7)
GRAPHDEF, STATE = create_student(CONFIG, facts(WORLD), 0)
PARAMS = random_params(nnx.to_pure_dict(STATE), seed=5)


@jax.jit
def scores_of(params, rows):
    """Scores [R, L, V]."""
    student = nnx.merge(GRAPHDEF, nnx.State(params))
    scores = student.score(student.queries(rows), student.items())
    return scores.reshape(*rows.item_seq.shape, -1)


def test_scores_are_rendles_equation():
    """Each pair of fields counts once, and the words of a field by their mean."""
    checked, tables = 0, in_float64(PARAMS)
    for packed in batches()[::4]:
        scores = np.asarray(scores_of(PARAMS, packed))
        for row, column in np.argwhere(packed.instance_ids >= 0)[::3]:
            instance = int(packed.instance_ids[row, column])
            expected = [rendle(tables, instance, item) for item in range(WORLD.num_items)]
            np.testing.assert_allclose(scores[row, column], expected, atol=2e-5, rtol=0)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_some_items_are_those_rows_of_all(name):
    """An item has its own words and linear term, even if it is asked for twice."""
    config = student_config(student=name, hidden_size=7, mlp_sizes=(6, 5))
    graphdef, state = create_student(config, facts(WORLD), 0)
    student = nnx.merge(graphdef, nnx.State(random_params(nnx.to_pure_dict(state), seed=5)))
    ids = np.array([39, 0, 3, 3, 17])
    np.testing.assert_allclose(student.items_at(ids), student.items()[ids], rtol=1e-6, atol=1e-6)


def test_parameters_are_the_tables():
    """A field that no item has gets no table, and the user's side has no linear term."""
    sizes = {name: sum(x.size for x in jax.tree.leaves(PARAMS[name])) for name in PARAMS}
    item_side = 40 + 2 + 3
    assert sizes == {
        "user_embedding": 60 * 7,
        "recent_embedding": 40 * 7,
        "vectors": item_side * 7,
        "linear": item_side,
    }
    bare = create_student(CONFIG, facts(PLAIN), 0)[1]
    assert set(nnx.to_pure_dict(bare)["vectors"]) == {"item"}


def test_initial_values_are_recboles():
    """Tables come from Xavier's normal distribution without a cut; linear terms are 0."""
    wide = student_config(student="fm", hidden_size=256)
    params = nnx.to_pure_dict(create_student(wide, facts(WORLD), 0)[1])
    tables = [params["user_embedding"], params["recent_embedding"], *params["vectors"].values()]
    assert [table["table"].shape for table in tables] == [(n, 256) for n in (60, 40, 2, 3, 40)]
    for drawn in (np.asarray(table["table"]) for table in tables):
        deviation = (2 / sum(drawn.shape)) ** 0.5
        assert drawn.std() == pytest.approx(deviation, rel=5 / (2 * drawn.size) ** 0.5)
        assert np.abs(drawn).max() > 2.4 * deviation
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["linear"]))
