"""BERT4Rec (Sun et al., 2019): a bidirectional encoder that fills in masked items.

An instance is (prefix, next item), each encoded by itself: [MASK] stands after the prefix
and the user vector is the projected state at it, so inference, cross-entropy and
distillation ask in one and the same way. The cloze, items masked at random within the
prefixes, is a further term of the loss. The score is the dot product with the input
embedding table plus the item's bias: the user vector is [h, 1], the item vector [e_i, b_i].

The prefix and its [MASK] have `max_seq_len` positions together, so a longer prefix keeps as
many of its newest items as fit next to the mask, and a shorter one all.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.cross_entropy import mean_cross_entropy
from prmkd_jax.students.about import About
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import (
    Embedding,
    TransformerBlock,
    dot,
    drop,
    layer_norm,
    linear,
    whole_segments,
)


class BERT4Rec(nnx.Module):
    """Bidirectional self-attention, with the head of BERT's masked language model."""

    about = About(
        label="BERT4Rec",
        reads=frozenset(
            {
                "num_layers",
                "num_heads",
                "inner_size",
                "dropout",
                "mask_probability",
                "auxiliary_weight",
            }
        ),
        own_slot=True,
        free=frozenset({"mask_probability", "auxiliary_weight"}),
        scoring_facts=frozenset(),
        item_tables=("item_embedding.table",),
        similar_by=lambda config: config.hidden_size,
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.mask_probability = config.mask_probability
        self.auxiliary_weight = config.auxiliary_weight
        self.item_embedding = Embedding(facts.num_items, width, rngs=rngs)
        self.mask_embedding = Embedding(1, width, rngs=rngs)
        # The position after the longest prefix is the mask's.
        self.position_embedding = Embedding(facts.window + 1, width, rngs=rngs)
        self.input_norm = layer_norm(width, rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.blocks = nnx.List(
            TransformerBlock(width, config.num_heads, config.inner_size, config.dropout, rngs=rngs)
            for _ in range(config.num_layers)
        )
        self.projection = linear(width, width, rngs)
        self.output_norm = layer_norm(width, rngs)
        self.item_bias = nnx.Param(jnp.zeros(facts.num_items))

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D_plus_1"]:
        """[h, 1] at all R × L slots; only those of the asked ones, the masks', mean anything.

        Args:
            rows: packed prefixes, each with a slot for its mask.
            rngs: source of the dropout masks; None switches dropout off.
        """
        asked = jnp.asarray(rows.instance_ids) >= 0
        hidden = self._encode(rows, jnp.asarray(rows.segment_ids), asked, rngs)
        return self._head(hidden.reshape(-1, hidden.shape[-1]))

    def items(self) -> Float[Array, "V D_plus_1"]:
        """[e_i, b_i]; row = item id."""
        return jnp.concatenate(
            [self.item_embedding.table[...], self.item_bias[...][:, None]], axis=-1
        )

    def score(
        self, queries: Float[Array, "B D_plus_1"], items: Float[Array, "C D_plus_1"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)

    def auxiliary(self, rows: PackedRows, rngs: nnx.Rngs) -> Float[Array, ""]:
        """The cloze: mean cross-entropy of masked items, seen from both sides.

        Args:
            rows: packed prefixes.
            rngs: source of the choice of slots and of the dropout masks.
        """
        # The slots after the prefixes stay out.
        read = jnp.where(jnp.asarray(rows.instance_ids) >= 0, 0, rows.segment_ids)
        slots, counted = choose_slots(read > 0, self.mask_probability, rngs())
        masked = jnp.zeros(read.size, bool).at[slots].set(counted)
        hidden = self._encode(rows, read, masked.reshape(read.shape), rngs)
        queries = self._head(hidden.reshape(-1, hidden.shape[-1])[slots])
        targets = jnp.asarray(rows.item_seq).reshape(-1)[slots]
        loss = mean_cross_entropy(self.score, queries, self.items(), targets, counted)
        return self.auxiliary_weight * loss

    def _encode(
        self,
        rows: PackedRows,
        segment_ids: Int[Array, "R L"],
        masked: Bool[Array, "R L"],
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "R L D"]:
        """The states at all slots, [MASK] at some; each sees all of its segment."""
        mask = self.mask_embedding.table[0]
        items = self.item_embedding(rows.item_seq)
        vectors = jnp.where(masked[..., None], mask, items)
        hidden = self.input_norm(vectors + self.position_embedding(rows.positions))
        hidden = drop(self.dropout, hidden, rngs)
        allowed = whole_segments(segment_ids)
        for block in self.blocks:
            hidden = block(hidden, allowed, rngs)
        return hidden

    def _head(self, hidden: Float[Array, "N D"]) -> Float[Array, "N D_plus_1"]:
        projected = jax.nn.gelu(self.projection(hidden), approximate=False)
        hidden = self.output_norm(projected)
        return jnp.concatenate([hidden, jnp.ones_like(hidden[:, :1])], axis=-1)


def choose_slots(
    real: Bool[Array, "R L"], share: float, key: Array
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    """A random share of the real slots, at least one; N depends on the batch's shape alone.

    So only the masked slots' logits are computed.

    Args:
        real: the slots that may be chosen.
        share: share of them that is chosen.
        key: decides which.

    Returns:
        slots, numbered row by row, and which of them count.
    """
    real = real.reshape(-1)
    order = jax.lax.top_k(
        jnp.where(real, jax.random.uniform(key, real.shape), -1.0), max(1, round(share * real.size))
    )[1]
    wanted = jnp.maximum(1, jnp.round(share * real.sum()))
    return order, jnp.arange(order.size) < wanted
