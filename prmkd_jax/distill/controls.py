"""What PRM-KD must beat if its gain is knowledge and not regularisation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from prmkd_jax.distill.losses import entropy
from prmkd_jax.ops.arrays import Array

_HALVINGS = 40


def label_target(
    q: Float[Array, " C"], valid: Bool[Array, " C"], target_column: Int[Array, ""]
) -> Float[Array, " C"]:
    """Label smoothing as uncertain as q: the own target gets most, the others equal shares.

    The own target's share p solves H(p) + (1 − p) log(n − 1) = entropy of q, n being the valid
    columns, by bisection: the left side falls from log n at p = 1/n to 0 at p = 1.

    >>> q, valid = jnp.array([0.7, 0.2, 0.1]), jnp.array([True, True, True])
    >>> target = label_target(q, valid, jnp.array(2))
    >>> [round(float(share), 3) for share in target]
    [0.145, 0.145, 0.711]
    """
    count = valid.sum()
    wanted = entropy(q)
    own = jnp.arange(len(q)) == target_column

    def target(p: Array) -> Array:
        rest = (1.0 - p) / jnp.maximum(count - 1, 1)
        return jnp.where(own, p, jnp.where(valid, rest, 0.0))

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        uncertain = entropy(target(middle)) > wanted
        return jnp.where(uncertain, middle, low), jnp.where(uncertain, high, middle)

    bounds = 1.0 / jnp.maximum(count, 1).astype(q.dtype), jnp.ones((), q.dtype)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)
    return jnp.where(valid, target(0.5 * (low + high)), 0.0)


def item_permutation(num_items: int, teacher: int, seed: int) -> Int64[np.ndarray, " V"]:
    """Whose score a teacher's item gets under `--method=permuted`.

    It is fixed for all users: a permuted teacher is as sharp as the true one, and gives similar
    users similar scores, but they say nothing of the items, nor what the other teachers say.

    Args:
        num_items: items of the catalogue.
        teacher: the teacher's place; every teacher has a permutation of its own.
        seed: `--permutation_seed`.
    """
    return np.random.default_rng([seed, teacher]).permutation(num_items)
