"""GRU4Rec (Hidasi et al., 2016) in RecBole's form: a GRU without biases, full softmax.

An instance is (prefix, next item); the user vector is the state at the prefix's last item,
mapped back to the embedding's width, so one pass over packed rows answers all prefixes of
a history. The score is the raw dot product with the input embedding table.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.about import About
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.layers import XAVIER_NORMAL, Embedding, dot, drop

_XAVIER = nnx.initializers.xavier_uniform()


class GRULayer(nnx.Module):
    """One layer of torch's GRU without biases, gates in torch's order r, z, n.

    With x and h the input and the state before: r, z = sigmoid(W_i x + W_h h) and
    n = tanh(W_in x + r * (W_hn h)); the new state is (1 - z) * n + z * h.
    """

    def __init__(self, inputs: int, width: int, init: nnx.Initializer, *, rngs: nnx.Rngs):
        self.input_gates = nnx.Param(init(rngs.params(), (inputs, 3 * width), jnp.float32))
        self.state_gates = nnx.Param(init(rngs.params(), (width, 3 * width), jnp.float32))

    def __call__(
        self, inputs: Float[Array, "R L D"], starts: Bool[Array, "R L"]
    ) -> Float[Array, "R L H"]:
        """The states at all slots; a segment's first slot starts from the zero state.

        Args:
            inputs: vectors of the items read.
            starts: first slots of segments.
        """
        weights = self.state_gates[...]

        def step(state, slot):
            given, start = slot
            state = jnp.where(start[:, None], 0.0, state)
            reset_in, update_in, new_in = jnp.split(given, 3, axis=-1)
            reset_by, update_by, new_by = jnp.split(state @ weights, 3, axis=-1)
            reset = jax.nn.sigmoid(reset_in + reset_by)
            update = jax.nn.sigmoid(update_in + update_by)
            new = jnp.tanh(new_in + reset * new_by)
            state = (1.0 - update) * new + update * state
            return state, state

        # All slots' inputs in one product; only the state's share is sequential.
        given = (inputs @ self.input_gates[...]).swapaxes(0, 1)
        zero = jnp.zeros((inputs.shape[0], weights.shape[0]), given.dtype)
        return jax.lax.scan(step, zero, (given, starts.T))[1].swapaxes(0, 1)


class GRU4Rec(nnx.Module):
    """Recurrent sequential recommendation."""

    about = About(
        label="GRU4Rec",
        reads=frozenset({"num_layers", "gru_size", "dropout"}),
        scoring_facts=frozenset(),
        item_tables=("item_embedding.table",),
        rows_alone=True,
    )

    def __init__(self, config: StudentConfig, facts: Facts, *, rngs: nnx.Rngs):
        width, state = config.hidden_size, config.gru_size or config.hidden_size
        self.item_embedding = Embedding(facts.num_items, width, rngs=rngs, init=XAVIER_NORMAL)
        self.dropout = nnx.Dropout(config.dropout)
        # RecBole initialises the first layer again and leaves torch's own draw in the others.
        self.layers = nnx.List(
            GRULayer(
                width if number == 0 else state,
                state,
                _XAVIER if number == 0 else _torch_uniform(state),
                rngs=rngs,
            )
            for number in range(config.num_layers)
        )
        self.out = nnx.Linear(
            state,
            width,
            kernel_init=_torch_uniform(state),
            bias_init=_torch_uniform(state),
            rngs=rngs,
        )

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """User vectors at all B = R × L slots; those of padding slots mean nothing.

        Args:
            rows: packed histories.
            rngs: source of the dropout mask; None switches dropout off.
        """
        hidden = self.item_embedding(rows.item_seq)
        hidden = drop(self.dropout, hidden, rngs)
        # Padding has position 0 as well: nothing runs on from one segment to another.
        starts = jnp.asarray(rows.positions) == 0
        for layer in self.layers:
            hidden = layer(hidden, starts)
        hidden = self.out(hidden)
        return hidden.reshape(-1, hidden.shape[-1])

    def items(self) -> Float[Array, "V D"]:
        """Item vectors; row = item id."""
        return self.item_embedding.table[...]

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """Dot products, float32."""
        return dot(queries, items)


def _torch_uniform(fan_in: int) -> nnx.Initializer:
    """U(−1/√n, 1/√n), what torch draws for linear and recurrent layers."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
