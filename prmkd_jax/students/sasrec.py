"""SASRec (Kang & McAuley, 2018), by default in RecBole's form: post-LN blocks, full softmax.

An instance is (prefix, next item); the user vector is the hidden state at the prefix's
last item, so one pass over packed rows answers all prefixes of a history. The score is the
raw dot product with the input embedding table.

Other forms (`--sasrec_form`): `pre-ln` has a LayerNorm before each sublayer and one at the
end instead of those behind the sums and the embeddings; `original` is the model of the
authors' code, but for its positions: there the newest item has the last one, while here all
prefixes of a history share one pass, so positions are counted from the oldest item.
"""

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import (
    Embedding,
    TransformerBlock,
    attention,
    causal_segments,
    dot,
    layer_norm,
    linear,
)

# The epsilon of the authors' LayerNorm.
_EPSILON = 1e-8


class SASRec(nnx.Module):
    """Self-attentive sequential recommendation."""

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width, self.form = config.hidden_size, config.sasrec_form
        sizes = width, config.num_heads, config.inner_size, config.dropout
        self.item_embedding = Embedding(facts.num_items, width, rngs=rngs)
        self.position_embedding = Embedding(facts.max_seq_len, width, rngs=rngs)
        if self.form == "recbole":
            self.input_norm = layer_norm(width, rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.blocks = nnx.List(
            OriginalBlock(*sizes, rngs=rngs)
            if self.form == "original"
            else TransformerBlock(*sizes, norm_first=self.form == "pre-ln", rngs=rngs)
            for _ in range(config.num_layers)
        )
        if self.form == "pre-ln":
            self.output_norm = layer_norm(width, rngs)
        elif self.form == "original":
            self.output_norm = layer_norm(width, rngs, _EPSILON)

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """User vectors at all B = R × L slots; those of padding slots mean nothing.

        Args:
            rows: packed histories.
            rngs: source of the dropout masks; None switches dropout off.
        """
        items = self.item_embedding(rows.item_seq)
        if self.form == "original":
            items = items * items.shape[-1] ** 0.5
        hidden = items + self.position_embedding(rows.positions)
        if self.form == "recbole":
            hidden = self.input_norm(hidden)
        hidden = self.dropout(hidden, deterministic=rngs is None, rngs=rngs)
        allowed = causal_segments(rows.segment_ids)
        for block in self.blocks:
            hidden = block(hidden, allowed, rngs)
        if self.form != "recbole":
            hidden = self.output_norm(hidden)
        return hidden.reshape(-1, hidden.shape[-1])

    def items(self) -> Float[Array, "V D"]:
        """Item vectors; row = item id."""
        return self.item_embedding.table[...]

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)


class OriginalBlock(nnx.Module):
    """The block of the authors' code (kang205/SASRec, modules.py).

    The query alone is normalised, key and value are not; the heads' outputs are not mixed;
    both residuals start from what was normalised; ReLU. Its inner width was D.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query_norm = layer_norm(width, rngs, _EPSILON)
        self.query, self.key, self.value = (linear(width, width, rngs) for _ in range(3))
        self.inner_norm = layer_norm(width, rngs, _EPSILON)
        self.wide = linear(width, inner, rngs)
        self.narrow = linear(inner, width, rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        hidden: Float[Array, "R L D"],
        allowed: Bool[Array, "R L L"],
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "R L D"]:
        """Applies the block; the arguments are those of `TransformerBlock`."""
        start = self.query_norm(hidden)
        projected = self.query(start), self.key(hidden), self.value(hidden)
        hidden = start + attention(*projected, allowed, self.heads, self.dropout, rngs)
        start = self.inner_norm(hidden)
        inner = self._drop(jax.nn.relu(self.wide(start)), rngs)
        return start + self._drop(self.narrow(inner), rngs)

    def _drop(self, x, rngs):
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)
