import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.data.packing import history_segments, pack
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import Regularized, create_student
from tests.students.reference import random_params
from tests.worlds import facts, random_world, student_config

CONFIG = student_config(student="lightgcn", hidden_size=6, num_layers=2)
WORLD = random_world()
HISTORIES = WORLD.interactions
SPLIT = leave_one_out(HISTORIES)
FACTS = facts(WORLD, window(CONFIG, 50))
GRAPHDEF, STATE = create_student(CONFIG, FACTS, 0)
PARAMS = random_params(nnx.to_pure_dict(STATE), seed=5)


def smoothed() -> tuple[np.ndarray, np.ndarray]:
    """Mean of the layers with the dense (U + V)² adjacency matrix, in float64."""
    users, items = WORLD.num_users, WORLD.num_items
    adjacency = np.zeros((users + items, users + items))
    for user in range(users):
        trained = HISTORIES.items[HISTORIES.indptr[user] : SPLIT.train_end[user]]
        adjacency[user, users + trained] = adjacency[users + trained, user] = 1
    degrees = np.maximum(adjacency.sum(0), 1)
    normalized = adjacency / np.sqrt(np.outer(degrees, degrees))
    tables = [np.asarray(PARAMS[f"{x}_embedding"]["table"], dtype=float) for x in ("user", "item")]
    layers = [np.concatenate(tables)]
    for _ in range(CONFIG.num_layers):
        layers.append(normalized @ layers[-1])
    mean = np.mean(layers, axis=0)
    return mean[:users], mean[users:]


def test_vectors_are_the_mean_of_the_layers():
    """Layer 0 counts too, there are no self loops, and edges are of the training part alone."""
    student = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    users, items = smoothed()
    np.testing.assert_allclose(student.items(), items, atol=1e-5)
    segments = history_segments(HISTORIES, HISTORIES.indptr[1:], 1)
    for packed in pack(HISTORIES, segments, 32, 1):
        asked = packed.instance_ids.reshape(-1) >= 0
        owners = HISTORIES.users[packed.instance_ids.reshape(-1)[asked]]
        np.testing.assert_allclose(student.queries(packed)[asked], users[owners], atol=1e-5)


def test_one_slot_an_instance_is_enough():
    """A user's vector doesn't depend on the prefix, so its window is 1."""
    assert window(CONFIG, 50) == 1
    assert window(student_config(), 50) == 50
    segments = history_segments(HISTORIES, SPLIT.train_end, 1)
    assert len(segments) == len(SPLIT.train) == (segments.stop - segments.start).sum()


def test_parameters_and_initial_values_are_recboles():
    """There are two tables, drawn from Xavier's uniform distribution."""
    config = student_config(student="lightgcn", hidden_size=64, num_layers=2)
    params = nnx.to_pure_dict(create_student(config, FACTS, 0)[1])
    assert {name: x["table"].shape for name, x in params.items()} == {
        "user_embedding": (60, 64),
        "item_embedding": (40, 64),
    }
    for name, rows in (("user_embedding", 60), ("item_embedding", 40)):
        bound = (6 / (rows + 64)) ** 0.5
        table = params[name]["table"]
        assert np.abs(table).max() <= bound
        assert table.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_gradient_reaches_neighbours_neighbours():
    """An item's gradient reaches exactly the items that share a user with it."""

    @jax.grad
    def gradient(params):
        return nnx.merge(GRAPHDEF, nnx.State(params)).items()[3].sum()

    reached = np.abs(gradient(PARAMS)["item_embedding"]["table"]).sum(1) > 0
    adjacency = np.zeros((WORLD.num_users, WORLD.num_items), dtype=bool)
    adjacency[tuple(FACTS.edges)] = True
    assert reached.tolist() == (adjacency.T @ adjacency[:, 3] > 0).tolist()
    assert 3 < reached.sum() < WORLD.num_items


def test_the_l2_is_of_the_embeddings_before_smoothing():
    """The penalty is half the sum of squares of the user's, item's and negative's embeddings."""
    users, positives, negatives = np.array([3, 3, 9]), np.array([1, 2, 0]), np.array([5, 1, 1])
    tables = [np.asarray(PARAMS[f"{x}_embedding"]["table"], dtype=float) for x in ("user", "item")]
    student = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    assert isinstance(student, Regularized)
    found = student.embedding_norms(users, positives, negatives)
    for row, (user, positive, negative) in enumerate(zip(users, positives, negatives, strict=True)):
        vectors = tables[0][user], tables[1][positive], tables[1][negative]
        expected = sum(float(vector @ vector) for vector in vectors) / 2
        assert found[row] == pytest.approx(expected, rel=1e-5)


def test_a_new_users_vector_follows_the_propagations_rule():
    """It equals a float64 propagation, layer by layer, of a user without an embedding."""
    items = np.asarray(PARAMS["item_embedding"]["table"], dtype=float)
    users = np.asarray(PARAMS["user_embedding"]["table"], dtype=float)
    adjacency = np.zeros((len(users), len(items)))
    adjacency[FACTS.edges[0], FACTS.edges[1]] = 1
    user_degrees, item_degrees = (np.maximum(adjacency.sum(axis), 1) for axis in (1, 0))
    normalized = adjacency / np.sqrt(np.outer(user_degrees, item_degrees))
    read, total = [3, 8, 21], np.zeros(items.shape[1])
    for _ in range(CONFIG.num_layers):
        weights = (adjacency.sum(0)[read] > 0) / np.sqrt(len(read) * item_degrees[read])
        total += weights @ items[read]
        users, items = normalized @ items, normalized.T @ users
    expected = total / (CONFIG.num_layers + 1)
    student = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    found = np.asarray(student.fold_in_items())[read].sum(0) / len(read) ** 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)
