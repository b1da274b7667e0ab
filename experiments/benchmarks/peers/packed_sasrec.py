"""SASRec on packed rows in plain PyTorch: the strong opponent of `bench --suite=peers`.

Our students' rows, model, loss and optimiser, as well as PyTorch 2 does them: one product for
query, key and value, `scaled_dot_product_attention`, the softmax over the items for predicting
slots alone, fused Adam. That it computes what our student does is tested: with the same weights
both have the same loss and the same gradient.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.packing import PackedRows

_EPSILON = 1e-12
_DEVIATION = 0.02


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the model is made with.

    Attributes:
        items: V.
        window: longest prefix.
        width: D.
        heads: attention heads.
        layers: blocks.
        inner: width of the feed-forward layer.
        dropout: dropout of hidden states and attention.
    """

    items: int
    window: int
    width: int
    heads: int
    layers: int
    inner: int
    dropout: float


class SASRecBlock(nn.Module):
    """Self-attention and feed-forward, post-LN, exact GELU."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.heads, self.dropout = sizes.heads, sizes.dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, _EPSILON)
        self.wide = nn.Linear(width, sizes.inner)
        self.narrow = nn.Linear(sizes.inner, width)
        self.output_norm = nn.LayerNorm(width, _EPSILON)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Applies the block.

        Args:
            hidden: states [R, L, D].
            allowed: whether slot i may read slot j [R, 1, L, L].
        """
        rows, length, width = hidden.shape
        heads = self.qkv(hidden).view(rows, length, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, allowed, dropout)
        mixed = self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        hidden = self.attention_norm(hidden + self._drop(mixed))
        inner = self.narrow(functional.gelu(self.wide(hidden)))
        return self.output_norm(hidden + self._drop(inner))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class PackedSASRec(nn.Module):
    """`prmkd_jax.students.sasrec` in PyTorch."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.item_embedding = nn.Embedding(sizes.items, sizes.width)
        self.position_embedding = nn.Embedding(sizes.window, sizes.width)
        self.input_norm = nn.LayerNorm(sizes.width, _EPSILON)
        self.blocks = nn.ModuleList(SASRecBlock(sizes) for _ in range(sizes.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, rows: PackedRows) -> Tensor:
        """Hidden states [R × L, D] of packed rows."""
        segments = torch.from_numpy(rows.segment_ids)
        allowed = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
        places = torch.from_numpy(rows.positions)
        hidden = self.item_embedding(torch.from_numpy(rows.item_seq))
        hidden = self.input_norm(hidden + self.position_embedding(places))
        hidden = functional.dropout(hidden, self.sizes.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden, allowed)
        return hidden.view(-1, hidden.shape[-1])

    def queries(self, batch: Batch) -> Tensor:
        """User vectors of the batch's real instances alone, in their order."""
        (real,) = np.nonzero(batch.is_instance)
        places = real if batch.slots is None else batch.slots[real]
        return self(batch.rows)[torch.from_numpy(places.astype(np.int64))]

    def loss(self, queries: Tensor, batch: Batch) -> Tensor:
        """The mean cross-entropy over all items, of `queries`."""
        targets = torch.from_numpy(batch.targets[batch.is_instance].astype(np.int64))
        return functional.cross_entropy(queries @ self.item_embedding.weight.T, targets)

    @torch.no_grad()
    def take(self, weights: Mapping[str, np.ndarray]) -> None:
        """Takes the weights of our student, by their dotted names."""
        ours = {_name_of(name): array for name, array in weights.items()}
        state = {
            name: torch.from_numpy(np.array(array.T if name.endswith(_TURNED) else array))
            for name, array in ours.items()
        }
        self.load_state_dict(state)


_TURNED = ("qkv.weight", "out.weight", "wide.weight", "narrow.weight")
"""Weights whose axes PyTorch has the other way round."""


def _name_of(ours: str) -> str:
    """PyTorch's name of our parameter.

    >>> _name_of("blocks.0.qkv.kernel"), _name_of("item_embedding.table")
    ('blocks.0.qkv.weight', 'item_embedding.weight')
    """
    module, _, leaf = ours.rpartition(".")
    return f"{module}.bias" if leaf == "bias" else f"{module}.weight"


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Adam:
    """Fused Adam with coupled L2 for matrices and tables, as our students have it."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.Adam(groups, lr=learning_rate, fused=True)
