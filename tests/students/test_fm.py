import jax
import numpy as np
from flax import nnx

from prmkd_jax.students.registry import create_student
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
    """A pair missing or counted twice, a sum for a mean, or another item's words."""
    checked, tables = 0, in_float64(PARAMS)
    for packed in batches()[::4]:
        scores = np.asarray(scores_of(PARAMS, packed))
        for row, column in np.argwhere(packed.instance_ids >= 0)[::3]:
            instance = int(packed.instance_ids[row, column])
            expected = [rendle(tables, instance, item) for item in range(WORLD.num_items)]
            np.testing.assert_allclose(scores[row, column], expected, atol=2e-5, rtol=0)
            checked += 1
    assert checked > 20


def test_parameters_are_the_tables():
    """A table for a field that no item has, or a linear term of the user's side."""
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
