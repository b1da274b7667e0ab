"""Layers that more than one student is built of."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

INIT = nnx.initializers.normal(stddev=0.02)


class Embedding(nnx.Module):
    """A table of vectors, N(0, 0.02) at the start unless the model says otherwise."""

    def __init__(self, rows: int, width: int, *, rngs: nnx.Rngs, init: nnx.Initializer = INIT):
        self.table = nnx.Param(init(rngs.params(), (rows, width), jnp.float32))

    def __call__(self, ids: Int[ArrayLike, "..."]) -> Float[Array, "... D"]:
        """The rows of `ids`."""
        return self.table[...][ids]


class TransformerBlock(nnx.Module):
    """Post-LN self-attention and feed-forward block with exact GELU, as RecBole has it."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads = heads
        # Query, key and value in one product: the same numbers, a third of the calls.
        self.qkv = _linear(width, 3 * width, rngs)
        self.out = _linear(width, width, rngs)
        self.attention_norm = layer_norm(width, rngs)
        self.wide = _linear(width, inner, rngs)
        self.narrow = _linear(inner, width, rngs)
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
        hidden = self.attention_norm(hidden + self._drop(self._attend(hidden, allowed, rngs), rngs))
        inner = self.narrow(jax.nn.gelu(self.wide(hidden), approximate=False))
        return self.output_norm(hidden + self._drop(inner, rngs))

    def _attend(self, hidden, allowed, rngs):
        rows, length, width = hidden.shape
        query, key, value = jnp.split(self.qkv(hidden), 3, axis=-1)
        query, key, value = (
            x.reshape(rows, length, self.heads, -1).transpose(0, 2, 1, 3)
            for x in (query, key, value)
        )
        logits = (query @ key.swapaxes(-1, -2)).astype(jnp.float32)
        logits = logits / jnp.sqrt(width // self.heads)
        logits = jnp.where(allowed[:, None], logits, jnp.finfo(logits.dtype).min)
        weights = self._drop(jax.nn.softmax(logits, axis=-1).astype(hidden.dtype), rngs)
        mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(rows, length, width)
        return self.out(mixed)

    def _drop(self, x, rngs):
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


def causal_segments(segment_ids: Int[ArrayLike, "R L"]) -> Bool[Array, "R L L"]:
    """Slot i may look at slot j of the same segment with j ≤ i; padding sees only padding."""
    ids = jnp.asarray(segment_ids)
    same = ids[:, :, None] == ids[:, None, :]
    return same & jnp.tri(ids.shape[-1], dtype=bool)


def dot(queries: Float[Array, "B D"], items: Float[Array, "C D"]) -> Float[Array, "B C"]:
    """All dot products, float32."""
    return jnp.matmul(queries, items.T, preferred_element_type=jnp.float32)


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with BERT's epsilon."""
    return nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=INIT, rngs=rngs)
