"""DeepFM (Guo et al., 2017): a factorisation machine and an MLP over the same fields.

An instance is (user and prefix, next item), with the fields of `fm`. The MLP in RecBole's
form reads all field vectors one after another, so it depends on the pair. Its first layer,
W [x_U; x_i] = W_U x_U + W_i x_i, falls into a user and an item side, and each is computed once:
the user vector is the FM's and then W_U x_U + b, the item vector the FM's and then W_i x_i. The
score is the FM's dot product plus what the other layers make of the two sides' sum: a raw
logit, ranked as it is. As in `fm`, what is the same for all items is left out.

The catalogue's pairs with a batch are too many for a training step, so its softmax is sampled
unless `--loss` says otherwise.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.about import About
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.fm import ALL, FM
from prmkd_jax.students.layers import XAVIER_NORMAL, dot, drop

# Pairs that go through the MLP at once: 16 MiB a layer of width 128, in float32.
MOST_PAIRS = 2**15
# Items of a block in a program that is exported for batches of any size.
ANY_BATCH_ITEMS = 256


class DeepFM(nnx.Module):
    """Factorisation machine plus multilayer perceptron."""

    about = About(
        label="DeepFM",
        reads=frozenset({"dropout", "mlp_sizes"}),
        default_loss="sampled_softmax",
        scoring_facts=frozenset({"item_fields"}),
        item_tables=("fm.recent_embedding.table", "fm.vectors.item.table"),
        similar_by=lambda config: config.hidden_size,
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        self.fm = FM(config, facts, rngs=rngs)
        inputs, sizes = (3 + len(facts.item_fields)) * config.hidden_size, config.mlp_sizes
        self.user_inputs = 2 * config.hidden_size
        self.kernel = nnx.Param(XAVIER_NORMAL(rngs.params(), (inputs, sizes[0]), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(sizes[0]))
        self.layers = nnx.List(
            nnx.Linear(width, following, kernel_init=XAVIER_NORMAL, rngs=rngs)
            for width, following in itertools.pairwise(sizes)
        )
        self.out = nnx.Linear(sizes[-1], 1, use_bias=False, kernel_init=XAVIER_NORMAL, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B Q"]:
        """[V_U, 1, W_U x_U + b, masks] at all B = R × L slots; padding slots mean nothing.

        RecBole drops inputs of the layers; here one mask serves a slot with all its items, for
        it travels with the user vector, and the item side of the first layer is not dropped.

        Args:
            rows: packed histories.
            rngs: source of the dropout masks; None switches dropout off.
        """
        fields = self.fm.user_fields(rows)
        inputs = self._drop(jnp.concatenate(fields, axis=-1), rngs)
        side = inputs @ self.kernel[...][: self.user_inputs] + self.bias[...]
        ones = (jnp.ones((side.shape[0], layer.in_features)) for layer in self.layers)
        masks = [self._drop(mask, rngs) for mask in ones]
        return jnp.concatenate([self.fm.query_of(fields), side, *masks], axis=-1)

    def items(self) -> Float[Array, "V E"]:
        """[V_i, b_i, W_i x_i]; row = item id."""
        return self._items(ALL)

    def items_at(self, ids: Int[Array, " C"]) -> Float[Array, "C E"]:
        """The rows of `items` with these ids; the fields of no other item are read."""
        return self._items(ids)

    def score(
        self, queries: Float[Array, "B Q"], items: Float[Array, "C E"]
    ) -> Float[Array, "B C"]:
        """Raw logits, float32; in blocks of items, which the backward pass computes again."""
        rows = queries.shape[0]
        # A program for any batch doesn't know how many rows there are.
        block = max(1, MOST_PAIRS // rows) if isinstance(rows, int) else ANY_BATCH_ITEMS
        if len(items) <= block:
            return self._block(queries, items)
        count = -(-len(items) // block)
        padded = jnp.pad(items, ((0, count * block - len(items)), (0, 0)))
        blocks = padded.reshape(count, block, -1)
        scores = jax.lax.map(jax.checkpoint(lambda table: self._block(queries, table)), blocks)
        return scores.swapaxes(0, 1).reshape(rows, -1)[:, : len(items)]

    def _block(self, queries, items):
        place = items.shape[-1] - len(self.bias[...])  # where the MLP's share starts
        shallow = dot(queries[:, :place], items[:, :place])
        hidden = queries[:, None, place : items.shape[-1]] + items[:, place:]
        place = items.shape[-1]
        for layer in self.layers:
            mask = queries[:, None, place : place + layer.in_features]
            place += layer.in_features
            hidden = layer(jax.nn.relu(hidden) * mask)
        return shallow + self.out(jax.nn.relu(hidden))[..., 0].astype(jnp.float32)

    def _items(self, ids):
        fields = self.fm.item_fields(ids)
        side = jnp.concatenate(fields, axis=-1) @ self.kernel[...][self.user_inputs :]
        return jnp.concatenate([self.fm.item_of(fields, ids), side], axis=-1)

    def _drop(self, x, rngs):
        return drop(self.dropout, x, rngs)
