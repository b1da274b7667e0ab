"""Layers that more than one student is built of."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import ArrayLike, Bool, Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array

INIT = nnx.initializers.normal(stddev=0.02)
# As torch draws it; Flax's own `xavier_normal` cuts the distribution at two deviations.
XAVIER_NORMAL = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")


class Embedding(nnx.Module):
    """A table of vectors, N(0, 0.02) at the start unless the model says otherwise."""

    def __init__(self, rows: int, width: int, *, rngs: nnx.Rngs, init: nnx.Initializer = INIT):
        self.table = nnx.Param(init(rngs.params(), (rows, width), jnp.float32))

    def __call__(self, ids: Int[ArrayLike, "..."]) -> Float[Array, "... D"]:
        """The rows of `ids`."""
        return self.table[...][ids]


class TransformerBlock(nnx.Module):
    """Self-attention and feed-forward block, post-LN with exact GELU, as RecBole has it."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        # Query, key and value in one product: the same numbers, a third of the calls.
        self.qkv = linear(width, 3 * width, rngs)
        self.out = linear(width, width, rngs)
        self.attention_norm = layer_norm(width, rngs)
        self.wide = linear(width, inner, rngs)
        self.narrow = linear(inner, width, rngs)
        self.output_norm = layer_norm(width, rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        hidden: Float[Array, "R L D"],
        allowed: Bool[Array, "R L L"],
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "R L D"]:
        """Applies the block.

        Args:
            hidden: input states.
            allowed: whether slot i may look at slot j.
            rngs: source of the dropout masks; None switches dropout off.
        """
        hidden = self.attention_norm(hidden + self._attend(hidden, allowed, rngs))
        return self.output_norm(hidden + self._feed(hidden, rngs))

    def _attend(self, hidden, allowed, rngs):
        query, key, value = jnp.split(self.qkv(hidden), 3, axis=-1)
        mixed = attention(query, key, value, allowed, self.heads, self.dropout, rngs)
        return self._drop(self.out(mixed), rngs)

    def _feed(self, hidden, rngs):
        inner = self.narrow(jax.nn.gelu(self.wide(hidden), approximate=False))
        return self._drop(inner, rngs)

    def _drop(self, x, rngs):
        return drop(self.dropout, x, rngs)


def drop(
    dropout: nnx.Dropout, x: Float[Array, "..."], rngs: nnx.Rngs | None
) -> Float[Array, "..."]:
    """Dropout where `rngs` is given, else x itself: an exported program holds no trace of it."""
    return x if rngs is None else dropout(x, rngs=rngs)


def attention(
    query: Float[Array, "R L D"],
    key: Float[Array, "R L D"],
    value: Float[Array, "R L D"],
    allowed: Bool[Array, "R L L"],
    heads: int,
    dropout: nnx.Dropout,
    rngs: nnx.Rngs | None,
) -> Float[Array, "R L D"]:
    """Scaled dot-product attention, its heads next to each other in D; softmax in float32.

    Args:
        query: vectors of what slot i looks for.
        key: vectors that slot j is found by.
        value: vectors that slot j gives.
        allowed: whether slot i may look at slot j.
        heads: divides D.
        dropout: applied to the weights.
        rngs: source of its mask; None switches it off.
    """
    rows, length, width = query.shape
    query, key, value = (
        x.reshape(rows, length, heads, -1).transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    logits = (query @ key.swapaxes(-1, -2)).astype(jnp.float32)
    logits = logits / jnp.sqrt(width // heads)
    logits = jnp.where(allowed[:, None], logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    weights = drop(dropout, weights, rngs)
    return (weights @ value).transpose(0, 2, 1, 3).reshape(rows, length, width)


def whole_segments(segment_ids: Int[ArrayLike, "R L"]) -> Bool[Array, "R L L"]:
    """Slot i may look at every slot of its segment; padding sees only padding."""
    ids = jnp.asarray(segment_ids)
    return ids[:, :, None] == ids[:, None, :]


def causal_segments(segment_ids: Int[ArrayLike, "R L"]) -> Bool[Array, "R L L"]:
    """Slot i may look at slot j of the same segment with j ≤ i; padding sees only padding."""
    same = whole_segments(segment_ids)
    return same & jnp.tri(same.shape[-1], dtype=bool)


def from_newest(rows: PackedRows) -> Int[Array, "R L"]:
    """Places in the segments, counted from the newest item; 0 at padding.

    >>> ids, positions = jnp.array([[1, 1, 1, 2, 0]]), jnp.array([[0, 1, 2, 0, 0]])
    >>> from_newest(PackedRows(ids, ids, positions, ids, ids)).tolist()
    [[2, 1, 0, 0, 0]]
    """
    last = whole_segments(rows.segment_ids).sum(axis=-1, dtype=jnp.int32) - 1
    return jnp.where(jnp.asarray(rows.segment_ids) > 0, last - rows.positions, 0)


def dot(queries: Float[Array, "B D"], items: Float[Array, "C D"]) -> Float[Array, "B C"]:
    """All dot products, float32."""
    return jnp.matmul(queries, items.T, preferred_element_type=jnp.float32)


def layer_norm(width: int, rngs: nnx.Rngs, epsilon: float = 1e-12) -> nnx.LayerNorm:
    """LayerNorm, with BERT's epsilon unless the model says otherwise.

    The variance is that of the differences from the mean, as PyTorch's is. E[x²] − E[x]², Flax's
    default, is less exact wherever trained biases have moved the mean.
    """
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer, N(0, 0.02) at the start, its bias 0."""
    return nnx.Linear(inputs, outputs, kernel_init=INIT, rngs=rngs)
