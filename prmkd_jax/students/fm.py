"""Factorisation machine (Rendle, 2010) over five fields, ranked as one inner product.

An instance is (user and prefix, next item). Fields of the user side: the user's id and the
bag of the prefix's items; of the item side: the item's id, its brand and its categories. A
field of several words is the mean of their vectors and of their linear terms (RecBole adds the
latter up), an unknown one is the zero vector.

With V_U and V_i the sums of the two sides' field vectors, all terms that tell items apart
are ⟨V_U, V_i⟩ + b_i, where b_i holds the item side's linear and pairwise terms. So the
user vector is [V_U, 1], the item vector [V_i, b_i], and the score their dot product. What
depends on the user alone changes neither the softmax nor the ranking and is left out.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.about import About
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import XAVIER_NORMAL, Embedding, causal_segments, dot

_ZEROS = nnx.initializers.zeros
ALL = slice(None)
"""Every item, where ids of some may stand."""


class FM(nnx.Module):
    """Second-order factorisation machine."""

    about = About(
        label="FM",
        reads=frozenset(),
        scoring_facts=frozenset({"item_fields"}),
        item_tables=("recent_embedding.table", "vectors.item.table"),
        similar_by=lambda config: config.hidden_size,
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width = config.hidden_size
        # Static: which words an item has is no parameter.
        self.facts = facts.only(frozenset({"item_fields"}))

        def table(rows: int, columns: int, init: nnx.Initializer) -> Embedding:
            return Embedding(rows, columns, rngs=rngs, init=init)

        self.user_embedding = table(facts.num_users, width, XAVIER_NORMAL)
        self.recent_embedding = table(facts.num_items, width, XAVIER_NORMAL)
        sizes = {"item": facts.num_items}
        sizes |= {name: field.size for name, field in facts.item_fields.items()}
        self.vectors = nnx.Dict({name: table(n, width, XAVIER_NORMAL) for name, n in sizes.items()})
        self.linear = nnx.Dict({name: table(n, 1, _ZEROS) for name, n in sizes.items()})

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D_plus_1"]:
        """[V_U, 1] at all B = R × L slots; those of padding slots mean nothing.

        Args:
            rows: packed histories.
            rngs: random streams, not needed: nothing is dropped.
        """
        return self.query_of(self.user_fields(rows))

    def items(self) -> Float[Array, "V D_plus_1"]:
        """[V_i, b_i]; row = item id."""
        return self.item_of(self.item_fields(), ALL)

    def items_at(self, ids: Int[Array, " C"]) -> Float[Array, "C D_plus_1"]:
        """The rows of `items` with these ids; the fields of no other item are read."""
        return self.item_of(self.item_fields(ids), ids)

    def score(
        self, queries: Float[Array, "B D_plus_1"], items: Float[Array, "C D_plus_1"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)

    def user_fields(self, rows: PackedRows) -> list[Float[Array, "B D"]]:
        """What the user's id and the prefix say at every slot, one array a field."""
        prefix = causal_segments(rows.segment_ids).astype(jnp.float32)
        recent = (prefix / prefix.sum(-1, keepdims=True)) @ self.recent_embedding(rows.item_seq)
        user = self.user_embedding(rows.users)
        return [field.reshape(-1, field.shape[-1]) for field in (user, recent)]

    def item_fields(self, ids: Int[Array, " C"] | slice = ALL) -> list[Float[Array, "C D"]]:
        """What the id, the brand and the categories say of items, one array a field."""
        return self._item_side(self.vectors, ids)

    def query_of(self, fields: Sequence[Float[Array, "B D"]]) -> Float[Array, "B D_plus_1"]:
        """[V_U, 1] of the user side's fields."""
        vectors = sum(fields[1:], fields[0])
        return jnp.concatenate([vectors, jnp.ones_like(vectors[:, :1])], axis=-1)

    def item_of(
        self, fields: Sequence[Float[Array, "C D"]], ids: Int[Array, " C"] | slice
    ) -> Float[Array, "C D_plus_1"]:
        """[V_i, b_i] of the items with these ids and fields."""
        total = sum(fields)
        squares = sum(jnp.square(field) for field in fields)
        pairs = 0.5 * (jnp.square(total) - squares).sum(-1, keepdims=True)
        linear = sum(self._item_side(self.linear, ids))
        return jnp.concatenate([total, pairs + linear], axis=-1)

    def _item_side(
        self, tables: nnx.Dict, ids: Int[Array, " C"] | slice
    ) -> list[Float[Array, "C D"]]:
        """One array a field: what its words say of each item."""
        return [tables["item"].table[...][ids]] + [
            _mean(tables[name].table[...], jnp.asarray(field.words)[ids])
            for name, field in self.facts.item_fields.items()
        ]


def _mean(table: Float[Array, "words D"], words: Int[Array, "C most"]) -> Float[Array, "C D"]:
    """The mean of each item's words; zero where it has none."""
    known = words >= 0
    total = jnp.where(known[..., None], table[jnp.maximum(words, 0)], 0.0).sum(1)
    return total / jnp.maximum(known.sum(1, keepdims=True), 1)
