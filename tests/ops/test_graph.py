import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from prmkd_jax.ops.graph import normalized_graph, to_items, to_users

EDGES = np.array([[0, 0, 1, 2, 2, 2], [1, 3, 1, 0, 1, 3]], dtype=np.int32)


def dense() -> np.ndarray:
    """D^-1/2 A D^-1/2 of 4 users (the last without an item) and 5 items, typed by hand."""
    matrix = np.zeros((4, 5))
    for user, item in EDGES.T:
        user_degree, item_degree = (EDGES[0] == user).sum(), (EDGES[1] == item).sum()
        matrix[user, item] = 1 / np.sqrt(user_degree * item_degree)
    return matrix


def tables(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(rows, 3)).astype(np.float32) for rows in (4, 5))


def propagate(users, items, graph):
    """Each side becomes the weighted sum of its neighbours."""
    return to_users(items, graph), to_items(users, graph)


def test_propagation_is_the_dense_product():
    """New users and items are the normalised matrix, or its transpose, times the old ones."""
    graph, (users, items) = normalized_graph(4, 5, EDGES), tables()
    new_users, new_items = propagate(users, items, graph)
    np.testing.assert_allclose(new_users, dense() @ items, atol=1e-6)
    np.testing.assert_allclose(new_items, dense().T @ users, atol=1e-6)


def test_order_of_the_edges_changes_nothing():
    """Edges in any order give exactly the same sums."""
    users, items = tables()
    shuffled = EDGES[:, np.random.default_rng(1).permutation(6)]
    one = propagate(users, items, normalized_graph(4, 5, EDGES))
    other = propagate(users, items, normalized_graph(4, 5, shuffled))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_of_many_edges_are_complete():
    """Sums are complete for users with any number of items from 0 to 19."""
    rng = np.random.default_rng(0)
    # Users have 0 … 19 items: no part, one that is not full, full ones, several.
    matrix = np.arange(20)[:, None] > rng.permuted(np.tile(np.arange(20), (20, 1)), axis=1)
    users, items = (rng.normal(size=(20, 3)).astype(np.float32) for _ in range(2))
    graph = normalized_graph(20, 20, np.stack(np.nonzero(matrix)).astype(np.int32))
    degrees = np.maximum(np.outer(matrix.sum(1), matrix.sum(0)), 1)
    new_users, new_items = propagate(users, items, graph)
    np.testing.assert_allclose(new_users, (matrix / np.sqrt(degrees)) @ items, atol=1e-6)
    np.testing.assert_allclose(new_items, (matrix / np.sqrt(degrees)).T @ users, atol=1e-6)


def test_gradient_is_the_transposed_product():
    """Users' gradients come from the items and items' gradients from the users."""
    graph = normalized_graph(4, 5, EDGES)
    check_grads(lambda *x: propagate(*x, graph), tables(), 1, modes=["rev"], atol=1e-2, rtol=1e-2)
    by_users, by_items = tables(1)
    _, pull = jax.vjp(lambda *x: propagate(*x, graph), *tables())
    of_users, of_items = pull((by_users, by_items))
    np.testing.assert_allclose(of_users, dense() @ by_items, atol=1e-6)
    np.testing.assert_allclose(of_items, dense().T @ by_users, atol=1e-6)


def test_bfloat16_tables_have_bfloat16_sums_and_derivatives():
    """Derivatives are close to those in float32 and keep the tables' dtype."""
    graph = normalized_graph(4, 5, EDGES)

    def loss(users, items):
        first, second = propagate(*propagate(users, items, graph), graph)
        return jnp.square(first).sum() + (second**3).sum()

    exact = jax.grad(loss, (0, 1))(*tables())
    found = jax.grad(loss, (0, 1))(*(jnp.asarray(table, jnp.bfloat16) for table in tables()))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(a.astype(np.float32) - b).max() < 0.03 * np.abs(b).max()


def test_graphs_of_equal_content_are_equal():
    """Two seeds' models share compiled code; another edge or another user is another graph."""
    one, same = normalized_graph(4, 5, EDGES), normalized_graph(4, 5, EDGES.copy())
    assert one == same
    assert hash(one) == hash(same)
    fewer, larger = normalized_graph(4, 5, EDGES[:, :-1]), normalized_graph(5, 5, EDGES)
    assert len({one, same, fewer, larger}) == 3
