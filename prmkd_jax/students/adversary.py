"""The adversarial term of RecGURU (Li et al., 2022), as in the authors' code."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.layers import drop

# Both the authors'.
_DROPOUT = 0.2
_GRADIENT_PENALTY = 0.1


class Critic(nnx.Module):
    """An MLP D → 5 D → 10 D → 5 D → 1 that says how likely a user is one of the own domain."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        sizes = (width, 5 * width, 10 * width, 5 * width)
        self.layers = nnx.List(
            nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in itertools.pairwise(sizes)
        )
        self.out = nnx.Linear(sizes[-1], 1, rngs=rngs)
        self.dropout = nnx.Dropout(_DROPOUT)

    def __call__(
        self, users: Float[Array, "N D"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, " N"]:
        """Logits; dropout only where `rngs` is given."""
        for layer in self.layers:
            users = drop(self.dropout, jax.nn.relu(layer(users)), rngs)
        return self.out(users)[:, 0]


class Users(NamedTuple):
    """One domain's users of a batch.

    Attributes:
        vectors: the users' vectors.
        real: True for rows that are users, False at padding.
    """

    vectors: Float[Array, "N D"]
    real: Bool[Array, " N"]


def asked_first(rows: PackedRows, vectors: Float[Array, "R L D"]) -> Users:
    """The users of packed rows, one an asked slot, before what the other slots hold."""
    asked = (jnp.asarray(rows.instance_ids) >= 0).reshape(-1)
    order = jnp.argsort(~asked)
    return Users(vectors.reshape(-1, vectors.shape[-1])[order], asked[order])


def adversarial_loss(critic: Critic, own: Users, second: Users, rngs: nnx.Rngs) -> Float[Array, ""]:
    """One step of both sides: the critic's loss moves it alone, the encoder's the users alone.

    The critic learns to tell the own domain (label 1) from the second (label 0), with a
    penalty that keeps its slope near 1 between users of the two; the encoder learns from the
    flipped labels.

    Args:
        critic: tells the domains apart.
        own: users of the own domain, the real ones first.
        second: users of the second domain, likewise.
        rngs: source of the critic's dropout masks and of the places between users.
    """
    size = min(len(own.real), len(second.real))
    own, second = (Users(side.vectors[:size], side.real[:size]) for side in (own, second))
    fixed_own, fixed_second = jax.lax.stop_gradient((own, second))
    structure, params = nnx.split(critic)
    frozen = nnx.merge(structure, jax.lax.stop_gradient(params))
    return (
        _telling_apart(critic, fixed_own, fixed_second, rngs)
        + _slope_penalty(critic, fixed_own, fixed_second, rngs())
        + _telling_apart(frozen, second, own, rngs)
    )


def _telling_apart(critic: Critic, ones: Users, zeros: Users, rngs: nnx.Rngs) -> Float[Array, ""]:
    """Binary cross-entropies of both labels, each a mean over its real users."""
    of_ones = jax.nn.softplus(-critic(ones.vectors, rngs))
    of_zeros = jax.nn.softplus(critic(zeros.vectors, rngs))
    return _mean(of_ones, ones.real) + _mean(of_zeros, zeros.real)


def _slope_penalty(critic: Critic, own: Users, second: Users, key: Array) -> Float[Array, ""]:
    """0.1 · mean (‖∇ critic‖ − 1)² at random places between paired users."""
    share = jax.random.uniform(key, (len(own.real), 1))
    between = share * own.vectors + (1 - share) * second.vectors
    slopes = jax.grad(lambda places: critic(places).sum())(between)
    # A norm has no gradient at 0, where a critic may be flat.
    norms = jnp.sqrt(jnp.square(slopes).sum(-1) + 1e-12)
    return _GRADIENT_PENALTY * _mean(jnp.square(norms - 1), own.real & second.real)


def _mean(values: Float[Array, " N"], real: Bool[Array, " N"]) -> Float[Array, ""]:
    return values.sum(where=real) / jnp.maximum(real.sum(), 1)
