"""RecGURU (Li et al., 2022): a user vector from an autoencoder that can't tell two domains.

An instance is (prefix, next item), each encoded by itself: an end token stands after the
prefix, and the bidirectional encoder's state there is the autoencoder's user vector. A
causal decoder, the head, reads it next to the prefix; the student's user vector is the head's
state at the prefix's last item. The score is the raw dot product with the input embedding
table. Cross-entropy and distillation train the head and the items alone; the encoder learns
from the student's own further terms:

* reconstruction: another causal decoder tells each item of the prefix from the items before
  it and the autoencoder's user vector;
* with a second domain, the same for histories drawn from it at every step, with items and a
  decoder of their own, and the adversarial term: a critic tells the two domains' users apart
  and the encoder learns from flipped labels. Without one the model is called `recguru-ae`.

As the authors' code (Chain123/RecGURU) but for: the softmax over all items instead of 30
sampled ones and of BPR; learned positions; one training phase in which critic and encoder
take their steps together, where the code alternates phases and five steps of the critic with
one of the encoder; no term for users of both domains. An instance never shows its target:
the code trains the head on user vectors of whole histories.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.cross_entropy import mean_cross_entropy
from prmkd_jax.students.about import About
from prmkd_jax.students.adversary import Critic, adversarial_loss, asked_first
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts, SecondDomain
from prmkd_jax.students.layers import (
    Embedding,
    TransformerBlock,
    causal_segments,
    dot,
    drop,
    layer_norm,
    linear,
    whole_segments,
)


class RecGURU(nnx.Module):
    """Transformer autoencoder with a recommending head and, for two domains, a critic."""

    about = About(
        label=lambda config: "RecGURU" if config.second_domain else "RecGURU-AE",
        result_name=lambda config: "recguru" if config.second_domain else "recguru-ae",
        reads=frozenset(
            {
                "num_layers",
                "num_heads",
                "inner_size",
                "dropout",
                "second_domain",
                "auxiliary_weight",
            }
        ),
        own_slot=True,
        training_only=("own.decoder", "second", "critic"),
        free=frozenset({"auxiliary_weight"}),
        scoring_facts=frozenset(),
        baseline=True,
        item_tables=("own.item_embedding.table",),
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width = config.hidden_size
        sizes = width, config.num_heads, config.inner_size, config.dropout
        # Static: the second domain's histories are no parameters.
        self.facts = None if facts.second is None else facts
        self.auxiliary_weight = config.auxiliary_weight

        def domain(items: int) -> Domain:
            return Domain(items, config.num_layers, *sizes, rngs=rngs)

        self.own = domain(facts.num_items)
        # The position after the longest prefix is the end token's.
        self.position_embedding = Embedding(facts.window + 1, width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.encoder = nnx.List(
            TransformerBlock(*sizes, rngs=rngs) for _ in range(config.num_layers)
        )
        self.head = nnx.List(DecoderBlock(*sizes, rngs=rngs) for _ in range(config.num_layers))
        if facts.second is not None:
            self.second = domain(facts.second.num_items)
            self.critic = Critic(width, rngs=rngs)

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """User vectors at all R × L slots; only those of the asked ones mean anything.

        Args:
            rows: packed prefixes, each with a slot for its end token.
            rngs: source of the dropout masks; None switches dropout off.
        """
        users = jax.lax.stop_gradient(self._encode(self.own, rows, rngs))
        hidden = self._decode(self.own, self.head, rows, users, rngs)
        # It is the end token's slot that asks; the prefix's last item stands before it.
        hidden = jnp.roll(hidden, 1, axis=1)
        return hidden.reshape(-1, hidden.shape[-1])

    def items(self) -> Float[Array, "V D"]:
        """Item vectors; row = item id."""
        return self.own.item_embedding.table[...]

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)

    def auxiliary(self, rows: PackedRows, rngs: nnx.Rngs) -> Float[Array, ""]:
        """Reconstruction, of both domains if there are two, and then the adversarial term.

        Args:
            rows: packed prefixes, each with a slot for its end token.
            rngs: source of the second domain's histories and of the dropout masks.
        """
        users = self._encode(self.own, rows, rngs)
        loss = self._reconstruct(self.own, rows, users, rngs)
        facts = self.facts
        if facts is not None and facts.second is not None:
            drawn = draw_rows(facts.second, facts.window, rows.item_seq.size, rngs)
            others = self._encode(self.second, drawn, rngs)
            loss = loss + self._reconstruct(self.second, drawn, others, rngs)
            pairs = asked_first(rows, users), asked_first(drawn, others)
            loss = loss + adversarial_loss(self.critic, *pairs, rngs)
        return self.auxiliary_weight * loss

    def _encode(
        self, domain: "Domain", rows: PackedRows, rngs: nnx.Rngs | None
    ) -> Float[Array, "R L D"]:
        """The autoencoder's user vectors, at the asked slots."""
        asked = jnp.asarray(rows.instance_ids) >= 0
        end = domain.end_embedding.table[0]
        items = domain.item_embedding(rows.item_seq)
        hidden = jnp.where(asked[..., None], end, items) + self.position_embedding(rows.positions)
        hidden = drop(self.dropout, hidden, rngs)
        allowed = whole_segments(rows.segment_ids)
        for block in self.encoder:
            hidden = block(hidden, allowed, rngs)
        return hidden

    def _decode(
        self,
        domain: "Domain",
        decoder: nnx.List,
        rows: PackedRows,
        users: Float[Array, "R L D"],
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "R L D"]:
        """A causal decoder's states, each segment with the user vector of its asked slot."""
        asked = jnp.asarray(rows.instance_ids) >= 0
        owner = whole_segments(rows.segment_ids) & asked[:, None]
        memory = owner.astype(users.dtype) @ users
        hidden = domain.item_embedding(rows.item_seq) + self.position_embedding(rows.positions)
        hidden = drop(self.dropout, hidden, rngs)
        allowed = causal_segments(rows.segment_ids)
        for block in decoder:
            hidden = block.decode(hidden, memory, allowed, rngs)
        return hidden

    def _reconstruct(
        self, domain: "Domain", rows: PackedRows, users: Float[Array, "R L D"], rngs: nnx.Rngs
    ) -> Float[Array, ""]:
        """Mean cross-entropy of every item of a segment but its first."""
        hidden = self._decode(domain, domain.decoder, rows, users, rngs)
        targets = jnp.asarray(rows.item_seq)
        asked = jnp.asarray(rows.instance_ids) >= 0
        ids = jnp.where(asked, 0, rows.segment_ids)
        follows = (ids[:, :-1] == ids[:, 1:]) & (ids[:, 1:] > 0)
        # A batch whose prefixes all have one item has nothing to reconstruct.
        return mean_cross_entropy(
            self.score,
            hidden[:, :-1].reshape(-1, hidden.shape[-1]),
            domain.item_embedding.table[...],
            targets[:, 1:].reshape(-1),
            follows.reshape(-1),
        )


def draw_rows(known: SecondDomain, window: int, slots: int, rngs: nnx.Rngs) -> PackedRows:
    """Random prefixes, one a row, that have about as many slots; at least one.

    Every instance's is as likely, as among the own domain's: a critic that is shown longer
    prefixes of one domain than of the other tells them by their length. Nothing in them says
    whose they are.

    Args:
        known: the domain.
        window: longest prefix that the model sees.
        slots: number of slots of all rows.
        rngs: source of the draw.
    """
    length = window + 1  # with a slot for the end token
    number = max(1, slots // length)
    chosen = jax.random.randint(rngs(), (number, 1), 0, len(known.targets))
    target = jnp.asarray(known.targets)[chosen]
    first = jnp.maximum(jnp.asarray(known.begins)[chosen], target - window)
    column = jnp.arange(length)
    size = target - first
    kept = column <= size
    columns_of = {
        "item_seq": jnp.where(column < size, jnp.asarray(known.items)[first + column], 0),
        "segment_ids": kept.astype(jnp.int32),
        "positions": jnp.where(kept, column, 0),
        "users": jnp.zeros_like(kept, jnp.int32),
        "instance_ids": jnp.where(column == size, target, -1),
    }
    # The record is declared for NumPy.
    return PackedRows(**cast(dict[str, Any], columns_of))


class Domain(nnx.Module):
    """What a domain has of its own: items, the end token, the decoder of its histories."""

    def __init__(
        self,
        items: int,
        layers: int,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.item_embedding = Embedding(items, width, rngs=rngs)
        self.end_embedding = Embedding(1, width, rngs=rngs)
        self.decoder = nnx.List(
            DecoderBlock(width, heads, inner, dropout, rngs=rngs) for _ in range(layers)
        )


class DecoderBlock(TransformerBlock):
    """A post-LN block that also reads a memory between attention and feed-forward layer.

    The memory is one vector repeated, and attention over copies is their value whatever the
    weights, so query and key are left out; so is the dropout of single copies.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, *, rngs: nnx.Rngs):
        super().__init__(width, heads, inner, dropout, rngs=rngs)
        self.memory_value = linear(width, width, rngs)
        self.memory_out = linear(width, width, rngs)
        self.memory_norm = layer_norm(width, rngs)

    def decode(
        self,
        hidden: Float[Array, "R L D"],
        memory: Float[Array, "R L D"],
        allowed: Bool[Array, "R L L"],
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "R L D"]:
        """Applies the block.

        Args:
            hidden: input states.
            memory: the vector that each slot reads.
            allowed: whether slot i may look at slot j.
            rngs: source of the dropout masks; None switches dropout off.
        """
        hidden = self.attention_norm(hidden + self._attend(hidden, allowed, rngs))
        given = self.memory_out(self.memory_value(memory))
        hidden = self.memory_norm(hidden + self._drop(given, rngs))
        return self.output_norm(hidden + self._feed(hidden, rngs))
