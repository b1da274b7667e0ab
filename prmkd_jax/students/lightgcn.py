"""LightGCN (He et al., 2020): embeddings smoothed over the graph of the training part.

An instance is (user, next item). The user vector is the mean of the user's embeddings over
all layers; it does not depend on the prefix, which only decides what the teachers say of
the instance. The score is the raw dot product. The loss is the softmax of all students;
`--loss=bpr --weight_decay=0` trains it as published, with its L2 on a batch's embeddings.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.graph import normalized_graph, to_items, to_users
from prmkd_jax.students.about import About
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import Embedding, dot

_XAVIER = nnx.initializers.xavier_uniform()
_USERS, _ITEMS = 0, 1


class LightGCN(nnx.Module):
    """Light graph convolution: no weights but the embeddings, no activations."""

    about = About(
        label="LightGCN",
        reads=frozenset({"num_layers", "embedding_l2"}),
        user_vector_per_prefix=False,
        # The smoothed tables are exported, so scoring reads no graph.
        scoring_facts=frozenset(),
        item_tables=("item_embedding.table",),
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        self.user_embedding = Embedding(
            facts.num_users, config.hidden_size, rngs=rngs, init=_XAVIER
        )
        self.item_embedding = Embedding(
            facts.num_items, config.hidden_size, rngs=rngs, init=_XAVIER
        )
        self.num_layers = config.num_layers
        self.graph = normalized_graph(facts.num_users, facts.num_items, facts.edges)

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """User vectors at all B = R × L slots; those of padding slots mean nothing.

        Args:
            rows: packed histories.
            rngs: random streams, not needed: nothing is dropped.
        """
        return self._smoothed(_USERS)[jnp.asarray(rows.users).reshape(-1)]

    def items(self) -> Float[Array, "V D"]:
        """Item vectors; row = item id."""
        return self._smoothed(_ITEMS)

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)

    def embedding_norms(
        self, users: Int[Array, " B"], positives: Int[Array, " B"], negatives: Int[Array, " B"]
    ) -> Float[Array, " B"]:
        """½(‖e_u‖² + ‖e_i‖² + ‖e_j‖²) of the embeddings before any smoothing, for BPR's L2."""
        item = self.item_embedding
        triples = jnp.stack([self.user_embedding(users), item(positives), item(negatives)])
        return 0.5 * jnp.square(triples).sum((0, -1))

    def fold_in_items(self) -> Float[Array, "V D"]:
        """What a user outside the graph gathers from each item: Σₖ e_i⁽ᵏ⁾ / √deg(i) / (K + 1).

        The propagation's own rule for a user whose embedding is zero and who changes no item:
        layer k + 1 of the user is Σ e_i⁽ᵏ⁾ / √(n · deg(i)) over the n items read.
        """
        weights = jnp.asarray(self.graph.item_weights)
        return self._sum(_ITEMS, self.num_layers - 1) * weights[:, None] / (self.num_layers + 1)

    def _smoothed(self, side: int) -> Float[Array, "rows D"]:
        """One side's means of layers 0 … K (eq. 7 of arXiv 2002.02126 with equal weights)."""
        return self._sum(side, self.num_layers) / (self.num_layers + 1)

    def _sum(self, side: int, layers: int) -> Float[Array, "rows D"]:
        """One side's sum of layers 0 … `layers`, by Horner's rule: e + A(e + A(e + …)).

        A sum over the graph leads from one side to the other, so here each layer takes one such
        sum, where the layers one by one take one a side.
        """
        tables = self.user_embedding.table[...], self.item_embedding.table[...]
        total = tables[(side + layers) % 2]
        for layer in reversed(range(layers)):
            to = (side + layer) % 2
            total = tables[to] + (to_users, to_items)[to](total, self.graph)
        return total
