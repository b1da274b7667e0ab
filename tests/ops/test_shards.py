"""Rows on four devices, in a process of its own: their number is fixed when JAX starts."""

import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.ops.shards import in_parts, shards
from tests.devices import run_on_devices

# Vectors of small whole numbers and quarters: sums are exact in any order, and many scores are
# equal. Quarters, so that the logarithms of the sums stay below 5: of logarithms of 14, which lie
# 1e-6 apart and are rounded at each of 15 blocks, one device's own gradients are 3e-6 from float64.
PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from prmkd_jax.ops.cross_entropy import cross_entropy
from prmkd_jax.ops.ranking import rank_targets
from prmkd_jax.ops.shards import scores_of, shards
from prmkd_jax.ops.top_k import top_k_of_all, top_k_of_scores

rng = np.random.default_rng(0)
queries = rng.integers(-2, 3, (6, 4)).astype(np.float32) / 4
items = rng.integers(-2, 3, (43, 4)).astype(np.float32)
targets = rng.integers(0, 43, 6)
seen = np.stack([np.repeat(np.arange(6), 3), rng.permutation(43)[:18]]).astype(np.int32)
mesh = jax.make_mesh((1, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def score(q, i):
    return q @ i.T

def everything(block, queries, items):
    def loss(queries, items):
        return cross_entropy(score, queries, items, targets, block).sum()
    value, gradients = jax.value_and_grad(loss, (0, 1))(queries, items)
    scores = scores_of(score, queries, items, 43)
    ranks = rank_targets(scores, targets, seen)
    best = top_k_of_all(score, queries, items, 15), top_k_of_scores(scores, 15)
    return value, gradients, ranks, best, shards()

def on_four(block, queries, items):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return everything(block, queries, items)

placed = jax.device_put(queries, NamedSharding(mesh, PartitionSpec()))
found = {}
for block in (100, 3):
    one = jax.jit(everything, static_argnums=0)(block, queries, items)
    four = jax.jit(on_four, static_argnums=0)(block, placed, items)
    found[block] = [jax.tree.map(lambda x: np.nan_to_num(np.asarray(x, float), posinf=-1).tolist(), each) for each in (one, four)]
print(json.dumps(found))
"""  # noqa: E501


@pytest.fixture(scope="module")
def found():
    return run_on_devices(4, "-c", PROGRAM)


@pytest.mark.parametrize("block", ["100", "3"])
def test_losses_and_gradients_equal_one_devices(found, block):
    """Padding rows have no effect, and each target's score comes from the device that has it."""
    (one, gradients, *_), (four, others, *_) = found[block]
    assert four == pytest.approx(one, rel=1e-6)
    for a, b in zip(gradients, others, strict=True):
        # Of entries up to 2.4, which lie 2.4e-7 apart.
        assert np.abs(np.subtract(a, b)).max() < 1e-6


@pytest.mark.parametrize("block", ["100", "3"])
def test_ranks_and_best_items_are_exactly_one_devices(found, block):
    """Ties go by item id wherever an item lies, and padding is never among the best."""
    (*_, ranks, best, one), (*_, other_ranks, other_best, four) = found[block]
    assert (one, four) == (1, 4)
    assert ranks == other_ranks
    assert best == other_best
    (scores, ids), of_scores = best
    assert of_scores == [scores, ids]
    assert any(len(set(row)) < len(row) for row in scores)


def test_a_table_that_cannot_be_divided_ends_with_its_last_row():
    """Repeated rows fill the last part; rows of zeros would give a cosine no gradient."""
    parts = in_parts(jnp.arange(10.0).reshape(5, 2), 3)
    assert parts.shape == (3, 2, 2)
    assert parts[2].tolist() == [[8.0, 9.0], [8.0, 9.0]]
    assert shards() == 1
