"""What tests of students share; SASRec for one user in plain PyTorch and float64 (RecBole)."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import PackedRows

EPSILON = 1e-12


def to_torch(params: Any) -> Any:
    """The parameters as float64 tensors that collect gradients."""
    if isinstance(params, dict):
        return {name: to_torch(value) for name, value in params.items()}
    return torch.tensor(np.asarray(params), dtype=torch.float64, requires_grad=True)


def gradients(params: Any) -> Any:
    """What the tensors collected, as numpy arrays."""
    if isinstance(params, dict):
        return {name: gradients(value) for name, value in params.items()}
    return np.zeros(params.shape) if params.grad is None else params.grad.numpy()


def random_params(params: Any, seed: int) -> Any:
    """Values of ordinary size for every parameter: no bias is 0, no scale 1."""
    rng = np.random.default_rng(seed)

    def draw(leaf: np.ndarray) -> np.ndarray:
        width = leaf.shape[0] if leaf.ndim > 1 else 1
        noise = rng.normal(size=leaf.shape) * (1.5 / math.sqrt(width) if leaf.ndim > 1 else 0.3)
        return (np.asarray(leaf) * (leaf.ndim == 1) + noise).astype(np.float32)

    return jax.tree.map(draw, params)


def states_of(graphdef: nnx.GraphDef) -> Callable[[Any, PackedRows], jax.Array]:
    """A student's user vectors [R, L, D] without dropout, of its parameters and packed rows."""

    @jax.jit
    def states(params, rows):
        queries = nnx.merge(graphdef, nnx.State(params)).queries(rows)
        return queries.reshape(*rows.item_seq.shape, -1)

    return states


def by_instance(
    answer: Callable[[PackedRows], Any], packed_batches: Iterable[PackedRows]
) -> dict[int, np.ndarray]:
    """What stands at each asked slot of `answer`'s [R, L, …], by the instance asked there."""
    found = {}
    for packed in packed_batches:
        values = np.asarray(answer(packed))
        for row, column in np.argwhere(packed.instance_ids >= 0):
            found[int(packed.instance_ids[row, column])] = values[row, column]
    return found


def dropout_sites(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[nnx.Rngs], Any]
) -> list[tuple[float, tuple[int, ...]]]:
    """Rate and shape of every dropout of a call in training, in order; each has to be on."""
    dropped = []

    def record(self, x, *, rngs):
        assert rngs is not None
        dropped.append((self.rate, x.shape))
        return x

    monkeypatch.setattr(nnx.Dropout, "__call__", record)
    jax.eval_shape(lambda key: call(nnx.Rngs(key)), jax.random.key(0))
    return dropped


def layer_norm(params, x):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return params["scale"] * centred / torch.sqrt(variance + EPSILON) + params["bias"]


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def gelu(x):
    """x Φ(x), not its tanh approximation."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(block, x, heads):
    length, width = x.shape
    query, key, value = linear(block["qkv"], x).split(width, dim=-1)
    mask = -10000.0 * torch.ones(length, length, dtype=torch.float64).triu(1)
    mixed = []
    for columns in torch.arange(width).split(width // heads):
        logits = query[:, columns] @ key[:, columns].T / math.sqrt(width // heads)
        mixed.append(torch.softmax(logits + mask, dim=-1) @ value[:, columns])
    return linear(block["out"], torch.cat(mixed, dim=-1))


def hidden_states(params: dict, items: Sequence[int], heads: int) -> torch.Tensor:
    """The states [length, D] of one unpadded sequence, dropout off."""
    table, places = params["item_embedding"]["table"], params["position_embedding"]["table"]
    x = layer_norm(params["input_norm"], table[list(items)] + places[: len(items)])
    for number in sorted(params["blocks"]):
        block = params["blocks"][number]
        x = layer_norm(block["attention_norm"], x + attention(block, x, heads))
        inner = linear(block["narrow"], gelu(linear(block["wide"], x)))
        x = layer_norm(block["output_norm"], x + inner)
    return x


def user_vector(params: dict, prefix: Sequence[int], heads: int, max_seq_len: int) -> torch.Tensor:
    """The state at the last item of a prefix, cut to its last `max_seq_len` items."""
    return hidden_states(params, prefix[-max_seq_len:], heads)[-1]
