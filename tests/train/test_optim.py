import jax
import numpy as np
import optax
import pytest
from flax import nnx

from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.student import create_student
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.optim import make_optimizer
from tests.worlds import facts, from_histories, student_config

CONFIG = TrainConfig(learning_rate=0.01, weight_decay=0.1)
MATRICES = ("kernel", "table", "input_gates", "state_gates")
VECTORS = ("bias", "scale", "item_bias")


def test_two_steps_of_coupled_l2_by_hand():
    """Weights decay through the gradient, as by hand in float64, and biases don't."""
    params = {
        "kernel": np.array([[2.0, -3.0], [0.5, 0.0]], np.float32),
        "bias": np.array([4.0, -5.0], np.float32),
    }
    grads = [
        {
            "kernel": np.array([[0.1, 0.7], [-0.2, 0.2]], np.float32),
            "bias": np.array([0.1, -0.2], np.float32),
        },
        {
            "kernel": np.array([[-0.4, 0.1], [0.3, 0.0]], np.float32),
            "bias": np.array([0.0, 0.6], np.float32),
        },
    ]
    optimizer = make_optimizer(CONFIG)
    state, found = optimizer.init(params), params
    expected = {name: value.astype(float) for name, value in params.items()}
    m = dict.fromkeys(params, 0.0)
    v = dict.fromkeys(params, 0.0)
    for t, grad in enumerate(grads, start=1):
        updates, state = optimizer.update(grad, state, found)
        found = optax.apply_updates(found, updates)
        for name, p in expected.items():
            g = grad[name] + (0.1 * p if name == "kernel" else 0.0)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            step = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            expected[name] = p - 0.01 * step
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5)


@pytest.mark.parametrize("name", BUILT_IN)
def test_which_of_the_students_parameters_decay(name):
    """Matrices decay, LayerNorms and biases don't, and a decay of 0 switches it off."""
    known, config = facts(from_histories([[0, 1, 2]], 7)), student_config(student=name)
    shapes = nnx.to_pure_dict(jax.eval_shape(lambda: create_student(config, known, 0)[1]))
    params = jax.tree.map(lambda leaf: np.ones([2] * leaf.ndim, np.float32), shapes)
    nothing = jax.tree.map(np.zeros_like, params)
    for weight_decay in (0.0, 0.1):
        optimizer = make_optimizer(TrainConfig(learning_rate=0.01, weight_decay=weight_decay))
        updates, _ = optimizer.update(nothing, optimizer.init(params), params)
        for path, update in jax.tree_util.tree_leaves_with_path(updates):
            last = path[-1].key
            assert last in MATRICES + VECTORS
            decays = last in MATRICES and weight_decay > 0
            np.testing.assert_allclose(update, -0.01 if decays else 0.0, rtol=1e-5)


def test_what_adam_does_not_read_makes_no_other_optimiser():
    """Runs of another patience share it, and so the compiled step."""
    assert make_optimizer(TrainConfig(patience=3, max_epochs=7)) is make_optimizer(TrainConfig())
    assert make_optimizer(TrainConfig(weight_decay=0.5)) is not make_optimizer(TrainConfig())
