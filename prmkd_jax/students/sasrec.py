"""SASRec (Kang & McAuley, 2018) in RecBole's form: post-LN blocks, full softmax.

An instance is (prefix, next item); the user vector is the hidden state at the prefix's
last item, so one pass over packed rows answers all prefixes of a history. The score is the
raw dot product with the input embedding table.

Positions are counted from the oldest item, as in RecBole, or from the newest, as in the original
with its padding on the left. There an item's position in training tells how many of the user's
interactions follow, so the state after the newest item learns from everybody's latest ones.
"""

from flax import nnx
from jaxtyping import Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.about import About
from prmkd_jax.students.config import NEWEST, StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import (
    Embedding,
    TransformerBlock,
    causal_segments,
    dot,
    drop,
    from_newest,
    layer_norm,
)


class SASRec(nnx.Module):
    """Self-attentive sequential recommendation."""

    about = About(
        label="SASRec",
        reads=frozenset({"num_layers", "num_heads", "inner_size", "dropout", "positions"}),
        prefixes_alone=lambda config: config.positions == NEWEST,
        scoring_facts=frozenset(),
        item_tables=("item_embedding.table",),
        rows_alone=True,
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.from_newest = config.positions == NEWEST
        self.item_embedding = Embedding(facts.num_items, width, rngs=rngs)
        self.position_embedding = Embedding(facts.window, width, rngs=rngs)
        self.input_norm = layer_norm(width, rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.blocks = nnx.List(
            TransformerBlock(width, config.num_heads, config.inner_size, config.dropout, rngs=rngs)
            for _ in range(config.num_layers)
        )

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """User vectors at all B = R × L slots; those of padding slots mean nothing.

        Args:
            rows: packed histories.
            rngs: source of the dropout masks; None switches dropout off.
        """
        positions = from_newest(rows) if self.from_newest else rows.positions
        items = self.item_embedding(rows.item_seq)
        hidden = self.input_norm(items + self.position_embedding(positions))
        hidden = drop(self.dropout, hidden, rngs)
        allowed = causal_segments(rows.segment_ids)
        for block in self.blocks:
            hidden = block(hidden, allowed, rngs)
        return hidden.reshape(-1, hidden.shape[-1])

    def items(self) -> Float[Array, "V D"]:
        """Item vectors; row = item id."""
        return self.item_embedding.table[...]

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)
