"""UniSRec's sequence encoder (RecBole's SASRec) on packed rows."""

import abc
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from prmkd_jax.data.batches import Batch
from teachers_torch.config import EncoderConfig
from teachers_torch.dropout import dropout

LAYER_NORM_EPS = 1e-12


class TensorBatch(NamedTuple):
    """A batch of packed rows as tensors (`prmkd_jax.data.packing`).

    Attributes:
        item_seq: item id read at the slot; at padding some id that nothing depends on.
        segment_ids: 1, 2, … within a row; 0 at padding.
        positions: place in the segment, counted from its oldest item.
        slots: flat index (row · length + column) of every slot that has an instance.
        targets: target of each instance.
    """

    item_seq: Int64[Tensor, "rows length"]
    segment_ids: Int64[Tensor, "rows length"]
    positions: Int64[Tensor, "rows length"]
    slots: Int64[Tensor, " B"]
    targets: Int64[Tensor, " B"]


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """Moves a batch to a device, without its padding instances."""
    rows = batch.rows
    slots = np.arange(len(batch.targets)) if batch.slots is None else batch.slots
    chosen = batch.is_instance
    slots = slots[chosen]
    arrays = (rows.item_seq, rows.segment_ids, rows.positions, slots, batch.targets[chosen])
    return TensorBatch(*(torch.from_numpy(a.astype(np.int64)).to(device) for a in arrays))


class MultiHeadAttention(nn.Module):
    """Self-attention, dropout, residual, LayerNorm (post-LN)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self, x: Float[Tensor, "rows length width"], mask: Bool[Tensor, "rows 1 length length"]
    ) -> Float[Tensor, "rows length width"]:
        """Attends where `mask` is True."""

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads(self.query(x)),
            heads(self.key(x)),
            heads(self.value(x)),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        output = self.dense(attended.transpose(1, 2).flatten(2))
        return self.LayerNorm(dropout(output, self.dropout, self.training) + x)


class FeedForward(nn.Module):
    """Two layers with an exact (erf) GELU between, dropout, residual, LayerNorm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dropout = config.dropout
        self.dense_1 = nn.Linear(config.hidden_size, config.inner_size)
        self.dense_2 = nn.Linear(config.inner_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, x: Float[Tensor, "rows length width"]) -> Float[Tensor, "rows length width"]:
        """Transforms each slot on its own."""
        output = self.dense_2(F.gelu(self.dense_1(x)))
        return self.LayerNorm(dropout(output, self.dropout, self.training) + x)


class TransformerLayer(nn.Module):
    """One block."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention, then feed-forward."""
        return self.feed_forward(self.multi_head_attention(x, mask))


class TransformerEncoder(nn.Module):
    """The blocks, under their official names."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.layer = nn.ModuleList([TransformerLayer(config) for _ in range(config.num_layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Applies the blocks in turn."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class SequenceEncoder(nn.Module):
    """Item vectors of packed histories in, one causal vector a slot out.

    Teachers' models extend it (`SequenceModel`), so that its parameters stand at the top level
    of their state dicts as in the official checkpoints. Where RecBole adds −10000 to a masked
    score, a masked slot is left out here; real slots agree to float precision.
    """

    def __init__(self, config: EncoderConfig, max_seq_len: int):
        super().__init__()
        self.temperature = config.temperature
        self.dropout = config.dropout
        self.position_embedding = nn.Embedding(max_seq_len, config.hidden_size)
        self.trm_encoder = TransformerEncoder(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.apply(_initialise)

    def forward(
        self,
        item_vectors: Float[Tensor, "rows length width"],
        segment_ids: Int64[Tensor, "rows length"],
        positions: Int64[Tensor, "rows length"],
    ) -> Float[Tensor, "rows length width"]:
        """Encodes packed rows; what stands at padding slots means nothing."""
        same_segment = segment_ids[:, :, None] == segment_ids[:, None, :]
        # Padding slots see the padding before them: no row of the mask is empty, so the
        # softmax stays finite, and no real slot sees any.
        mask = same_segment.tril().unsqueeze(1)
        x = self.LayerNorm(item_vectors + self.position_embedding(positions))
        return self.trm_encoder(dropout(x, self.dropout, self.training), mask)

    def user_vectors(
        self, batch: TensorBatch, item_vectors: Float[Tensor, "rows length width"]
    ) -> Float[Tensor, "B width"]:
        """L2-normalised vectors of the batch's instances."""
        hidden = self(item_vectors, batch.segment_ids, batch.positions)
        return F.normalize(hidden.flatten(0, 1)[batch.slots], dim=-1)


class SequenceModel(SequenceEncoder, abc.ABC):
    """The encoder with an item table and a loss."""

    item_embedding: nn.Embedding | None

    @abc.abstractmethod
    def item_reprs(self) -> Float[Tensor, "items width"]:
        """Vectors of all items, not normalised, read at slots and ranked."""

    @abc.abstractmethod
    def loss(self, batch: TensorBatch) -> Float[Tensor, ""]:
        """Training loss of a batch."""


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
