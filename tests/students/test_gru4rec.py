import jax
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import history_segments, pack
from prmkd_jax.students.student import create_student
from tests.students import reference
from tests.worlds import MAX_SEQ_LEN, facts, from_histories, random_world, student_config

CONFIG = student_config(student="gru4rec", hidden_size=12, gru_size=9, num_layers=2)
WORLD = random_world()
HISTORIES = WORLD.interactions
SEGMENTS = history_segments(HISTORIES, HISTORIES.indptr[1:], MAX_SEQ_LEN)
GRAPHDEF, STATE = create_student(CONFIG, facts(WORLD), 0)
FRESH = nnx.to_pure_dict(STATE)
PARAMS = reference.random_params(FRESH, seed=5)
states = reference.states_of(GRAPHDEF)


def batches():
    return list(pack(HISTORIES, SEGMENTS, 5, 13))


def by_instance(packed_batches) -> dict[int, np.ndarray]:
    return reference.by_instance(lambda packed: states(PARAMS, packed), packed_batches)


def torch_model() -> tuple[torch.nn.GRU, dict[str, torch.Tensor]]:
    """torch's GRU in float64 with our parameters; its matrices are transposed ours."""
    gru = torch.nn.GRU(12, 9, num_layers=2, bias=False, batch_first=True, dtype=torch.float64)
    state = {}
    for number, layer in PARAMS["layers"].items():
        state[f"weight_ih_l{number}"] = torch.tensor(layer["input_gates"].T)
        state[f"weight_hh_l{number}"] = torch.tensor(layer["state_gates"].T)
    gru.load_state_dict(state)
    others = {
        "table": PARAMS["item_embedding"]["table"],
        "kernel": PARAMS["out"]["kernel"],
        "bias": PARAMS["out"]["bias"],
    }
    return gru, {
        name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in others.items()
    }


def torch_vector(gru, others, instance: int) -> torch.Tensor:
    """RecBole's user vector of one unpadded prefix."""
    first = max(HISTORIES.indptr[HISTORIES.users[instance]], instance - MAX_SEQ_LEN)
    items = HISTORIES.items[first:instance].tolist()
    output, _ = gru(others["table"][items][None])
    return output[0, -1] @ others["kernel"] + others["bias"]


def test_every_prefix_of_every_user_equals_torchs_gru():
    """Vectors agree for all prefixes, though several users share a row."""
    gru, others = torch_model()
    vectors = by_instance(batches())
    first_items = HISTORIES.indptr[HISTORIES.users]
    assert sorted(vectors) == np.flatnonzero(np.arange(len(first_items)) > first_items).tolist()
    for instance, vector in vectors.items():
        expected = torch_vector(gru, others, instance).detach()
        np.testing.assert_allclose(vector, expected, atol=1e-5, rtol=0)


def test_gradients_equal_torchs():
    """Gradients of all parameters agree, though several users share a row."""
    packed = batches()[0]
    asked = packed.instance_ids >= 0
    weights = np.random.default_rng(1).normal(size=(*asked.shape, 12))

    @jax.jit
    @jax.grad
    def gradient(params):
        return (states(params, packed) * np.where(asked[..., None], weights, 0)).sum()

    gru, others = torch_model()
    loss = sum(
        torch_vector(gru, others, packed.instance_ids[row, column])
        @ torch.tensor(weights[row, column])
        for row, column in np.argwhere(asked)
    )
    loss.backward()
    found = jax.device_get(gradient(PARAMS))
    pairs = [
        (found["item_embedding"]["table"], others["table"].grad),
        (found["out"]["kernel"], others["kernel"].grad),
        (found["out"]["bias"], others["bias"].grad),
    ]
    for number, layer in found["layers"].items():
        pairs.append((layer["input_gates"].T, getattr(gru, f"weight_ih_l{number}").grad))
        pairs.append((layer["state_gates"].T, getattr(gru, f"weight_hh_l{number}").grad))
    for ours, theirs in pairs:
        assert theirs.abs().max() > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


def test_dropout_stands_on_the_input_alone(monkeypatch):
    """As in RecBole, embeddings are dropped and the states between layers aren't."""
    model, packed = nnx.merge(GRAPHDEF, nnx.State(PARAMS)), batches()[0]
    dropped = reference.dropout_sites(monkeypatch, lambda rngs: model.queries(packed, rngs))
    assert dropped == [(CONFIG.dropout, (5, 13, 12))]


@pytest.mark.parametrize(("width", "state"), [(12, 9), (300, 0)])
def test_number_of_parameters(width, state):
    """The recurrence has no bias, and there is one item table without a padding row."""
    config = student_config(student="gru4rec", hidden_size=width, gru_size=state, num_layers=2)
    hidden = state or width
    expected = 40 * width + 3 * hidden * (width + hidden) + 6 * hidden**2 + (hidden + 1) * width
    shapes = jax.eval_shape(
        lambda: create_student(config, facts(from_histories([[0, 1, 2]], 40)), 0)[1]
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_initial_values_are_recboles():
    """Xavier in the table and the first layer, torch's own uniform draw elsewhere."""
    config = student_config(student="gru4rec", hidden_size=64, gru_size=48, num_layers=2)
    params = nnx.to_pure_dict(create_student(config, facts(from_histories([[0, 1, 2]], 500)), 0)[1])
    table = params["item_embedding"]["table"]
    assert table.std() == pytest.approx((2 / (500 + 64)) ** 0.5, rel=0.02)
    bounds = {
        ("0", "input_gates"): (6 / (64 + 3 * 48)) ** 0.5,
        ("0", "state_gates"): (6 / (48 + 3 * 48)) ** 0.5,
        ("1", "input_gates"): 48**-0.5,
        ("1", "state_gates"): 48**-0.5,
    }
    for (number, name), bound in bounds.items():
        drawn = params["layers"][int(number)][name]
        assert np.abs(drawn).max() <= bound
        assert drawn.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    for name in ("kernel", "bias"):
        assert 0.9 * 48**-0.5 < np.abs(params["out"][name]).max() <= 48**-0.5
