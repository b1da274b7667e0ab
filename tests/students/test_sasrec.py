import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import PackedRows, history_segments, instance_segments, pack
from prmkd_jax.students.student import create_student
from tests.students import reference
from tests.worlds import MAX_SEQ_LEN, facts, from_histories, random_world, student_config

CONFIG = student_config(hidden_size=24, num_layers=2, num_heads=3, inner_size=20)
WORLD = random_world()
HISTORIES = WORLD.interactions
SEGMENTS = history_segments(HISTORIES, HISTORIES.indptr[1:], MAX_SEQ_LEN)
ROWS, LENGTH = 5, 13


def student(config=CONFIG, max_seq_len=MAX_SEQ_LEN, seed=0):
    graphdef, state = create_student(config, facts(WORLD, max_seq_len), seed)
    return graphdef, nnx.to_pure_dict(state)


GRAPHDEF, FRESH = student()
PARAMS = reference.random_params(FRESH, seed=5)
states = reference.states_of(GRAPHDEF)


@jax.jit
def noisy_states(params, rows, key):
    queries = nnx.merge(GRAPHDEF, nnx.State(params)).queries(rows, nnx.Rngs(key))
    return queries.reshape(*rows.item_seq.shape, -1)


def batches(segments=SEGMENTS):
    """All instances of the world, packed."""
    return list(pack(HISTORIES, segments, ROWS, LENGTH))


def by_instance(packed_batches, params=PARAMS) -> dict[int, np.ndarray]:
    return reference.by_instance(lambda packed: states(params, packed), packed_batches)


def prefix(instance: int) -> list[int]:
    first = HISTORIES.indptr[HISTORIES.users[instance]]
    return HISTORIES.items[first:instance].tolist()


def one_batch() -> PackedRows:
    """A packed batch that has padding, and several segments in every row."""
    packed = batches()[0]
    assert (packed.segment_ids == 0).any()
    assert all(len(set(row.tolist()) - {0}) > 1 for row in packed.segment_ids)
    return packed


# The small values of a fresh student tell the epsilons apart, the large ones everything else.
@pytest.mark.parametrize("params", [PARAMS, FRESH], ids=["random", "fresh"])
def test_every_prefix_of_every_user_equals_the_float64_reference(params):
    """User vectors are RecBole's, for random and fresh weights and beyond the window."""
    vectors, params = by_instance(batches(), params), reference.to_torch(params)
    first_items = HISTORIES.indptr[HISTORIES.users]
    assert sorted(vectors) == np.flatnonzero(np.arange(len(first_items)) > first_items).tolist()
    assert sum(len(prefix(i)) > MAX_SEQ_LEN for i in vectors) > 50
    for instance, vector in vectors.items():
        expected = reference.user_vector(params, prefix(instance), CONFIG.num_heads, MAX_SEQ_LEN)
        np.testing.assert_allclose(vector, expected.detach(), atol=1e-5, rtol=0)


def test_positions_from_the_newest_item_equal_the_float64_reference():
    """In training places are counted back from the last item that is read with the prefix.

    A prefix by itself, as it is ranked and served, has its newest item at place 0.
    """
    config = dataclasses.replace(CONFIG, positions="newest")
    encode = reference.states_of(student(config)[0])
    params = reference.to_torch(PARAMS)
    table = params["position_embedding"]["table"]
    for segments in (SEGMENTS, instance_segments(HISTORIES, SEGMENTS.stop, MAX_SEQ_LEN)):
        found = reference.by_instance(lambda packed: encode(PARAMS, packed), batches(segments))
        for start, stop, first in zip(
            segments.start, segments.stop, segments.predict_from, strict=True
        ):
            # What the table holds at the places stop − 1 − o of the offsets o that are read.
            turned = {**params, "position_embedding": {"table": table[: stop - start].flip(0)}}
            for instance in range(first + 1, stop + 1):
                read = HISTORIES.items[start:instance].tolist()
                expected = reference.user_vector(turned, read, CONFIG.num_heads, MAX_SEQ_LEN)
                np.testing.assert_allclose(
                    found.pop(instance), expected.detach(), atol=1e-5, rtol=0
                )
        assert not found


def test_gradients_equal_those_of_the_float64_reference():
    """No gradient is stopped, scaled or leaked between the segments of a row."""
    packed = one_batch()
    asked = packed.instance_ids >= 0
    weights = np.random.default_rng(1).normal(size=(ROWS, LENGTH, CONFIG.hidden_size))

    @jax.jit
    @jax.grad
    def gradient(params):
        return (states(params, packed) * np.where(asked[..., None], weights, 0)).sum()

    params = reference.to_torch(PARAMS)
    loss = sum(
        reference.user_vector(
            params, prefix(packed.instance_ids[row, column]), CONFIG.num_heads, MAX_SEQ_LEN
        )
        @ torch.tensor(weights[row, column])
        for row, column in np.argwhere(asked)
    )
    loss.backward()
    found, expected = jax.device_get(gradient(PARAMS)), reference.gradients(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max(), rtol=0)


def test_packed_rows_equal_one_user_a_row():
    """A user sees no neighbour in the row, and its positions count from its own start."""
    ids = np.flatnonzero(np.arange(len(HISTORIES.items)) > HISTORIES.indptr[HISTORIES.users])
    alone = instance_segments(HISTORIES, ids, MAX_SEQ_LEN)
    vectors = by_instance(batches())
    padded = by_instance(pack(HISTORIES, alone, len(ids), MAX_SEQ_LEN))
    assert sorted(padded) == sorted(vectors)
    for instance, vector in padded.items():
        np.testing.assert_allclose(vectors[instance], vector, atol=5e-6, rtol=0)


def test_no_query_sees_a_later_item():
    """A changed item changes exactly the states at its own and at later places of its user."""
    packed = one_batch()
    row, columns = next(
        (row, np.flatnonzero(ids == ids[0])) for row, ids in enumerate(packed.segment_ids)
        if (ids == ids[0]).sum() >= 4 and ids[0] > 0
    )  # fmt: skip
    before = np.asarray(states(PARAMS, packed))
    for changed in columns:
        item_seq = packed.item_seq.copy()
        item_seq[row, changed] = (item_seq[row, changed] + 1) % WORLD.num_items
        after = np.asarray(states(PARAMS, packed._replace(item_seq=item_seq)))
        differs = (after != before).any(-1)
        assert differs[row, columns].tolist() == (columns >= changed).tolist()
        assert differs.sum() == (columns >= changed).sum()


def test_dropout_only_where_a_key_is_given():
    """Evaluation has no noise; one key always gives the same noise, another key other noise."""
    packed, (one, two) = one_batch(), jax.random.split(jax.random.key(0))
    quiet = np.asarray(states(PARAMS, packed))
    np.testing.assert_array_equal(quiet, states(PARAMS, packed))
    first, second = noisy_states(PARAMS, packed, one), noisy_states(PARAMS, packed, two)
    np.testing.assert_array_equal(first, noisy_states(PARAMS, packed, one))
    real = packed.segment_ids > 0
    assert (np.asarray(first) != quiet)[real].any(-1).all()
    assert (np.asarray(first) != np.asarray(second))[real].any(-1).all()
    graphdef, _ = student(student_config(**{**vars(CONFIG), "dropout": 0.0}))

    @jax.jit
    def without(params):
        return nnx.merge(graphdef, nnx.State(params)).queries(packed, nnx.Rngs(one))

    found = without(PARAMS).reshape(quiet.shape)
    np.testing.assert_allclose(found, quiet, atol=3e-6, rtol=0)


def test_dropout_stands_where_recbole_has_it(monkeypatch):
    """Dropout acts on the input, the attention weights and both outputs of every block."""
    model = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    dropped = reference.dropout_sites(monkeypatch, lambda rngs: model.queries(one_batch(), rngs))
    hidden = (ROWS, LENGTH, CONFIG.hidden_size)
    weights = (ROWS, CONFIG.num_heads, LENGTH, LENGTH)
    shapes = [hidden] + [weights, hidden, hidden] * CONFIG.num_layers
    assert dropped == [(CONFIG.dropout, shape) for shape in shapes]


@pytest.mark.parametrize(("width", "layers", "inner", "items"), [(24, 2, 20, 40), (300, 2, 256, 7)])
def test_number_of_parameters(width, layers, inner, items):
    """The count includes all biases, but no padding row, second item table or final LayerNorm."""
    config = student_config(hidden_size=width, num_layers=layers, inner_size=inner)
    state = jax.eval_shape(
        lambda: create_student(config, facts(from_histories([[0, 1, 2]], items), 50), 0)[1]
    )
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * 2 * width
    expected = (items + 50) * width + 2 * width + layers * block
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected


def test_initial_values_are_recboles():
    """Weights are drawn from N(0, 0.02), each matrix anew; biases are 0 and scales 1."""
    _, params = student(student_config(hidden_size=128, inner_size=96, num_layers=2))
    drawn = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name in ("kernel", "table"):
            assert abs(leaf.mean()) < 4 * 0.02 / np.sqrt(leaf.size)
            assert leaf.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * leaf.size))
            drawn.append(np.asarray(leaf).reshape(-1)[:50].tobytes())
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0, "scale": 1}[name])
    assert len(set(drawn)) == len(drawn) == 10


def test_seed_decides_the_initial_values():
    """One seed always gives the same item table, another seed another one."""
    same, other = student(seed=0)[1], student(seed=1)[1]
    table = FRESH["item_embedding"]["table"]
    np.testing.assert_array_equal(same["item_embedding"]["table"], table)
    assert not np.array_equal(other["item_embedding"]["table"], table)


def test_items_and_score_are_the_raw_dot_product():
    """Scores are float32 and neither normalised, scaled nor shifted."""
    model = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    np.testing.assert_array_equal(model.items(), PARAMS["item_embedding"]["table"])
    queries = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    scores = model.score(queries, model.items())
    expected = queries.astype(float) @ PARAMS["item_embedding"]["table"].astype(float).T
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_tree_mode_gives_the_same_model():
    """In Flax's tree mode, the initial table and the queries under dropout stay the same."""
    with nnx.set_graph_mode(False):
        graphdef, params = student()
        np.testing.assert_array_equal(
            params["item_embedding"]["table"], FRESH["item_embedding"]["table"]
        )

        @jax.jit
        def queries(params, rows, key):
            model = nnx.merge(graphdef, nnx.State(params))
            return model.queries(rows, nnx.Rngs(key))

        packed, key = one_batch(), jax.random.key(1)
        found = queries(PARAMS, packed, key)
    np.testing.assert_array_equal(
        found.reshape(ROWS, LENGTH, -1), noisy_states(PARAMS, packed, key)
    )
