"""Attention within a window and to the first token: Longformer's, in two equal forms."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# Above this length blocks of the band are cheaper than a mask over all pairs (on a CPU).
DENSE_UP_TO = 384

Heads = Float[Tensor, "rows heads length size"]
Real = Bool[Tensor, "rows length"]


def local_attention(
    query: Heads, key: Heads, value: Heads, real: Real, reach: int, dropout: float
) -> Heads:
    """Softmax attention in the form that is cheaper at this length.

    Place i sees j iff real_j and (|i − j| ≤ reach or j = 0).

    Args:
        query: query vectors, not scaled.
        key: key vectors.
        value: value vectors, which are averaged.
        real: False at padding; the first place is real. What comes out at padding means
            nothing.
        reach: places seen on either side.
        dropout: rate for the attention's weights, 0 outside of training.
    """
    attend = dense_attention if query.shape[2] <= DENSE_UP_TO else banded_attention
    return attend(query, key, value, real, reach, dropout)


def dense_attention(
    query: Heads, key: Heads, value: Heads, real: Real, reach: int, dropout: float
) -> Heads:
    """`local_attention` with a mask over all pairs."""
    places = torch.arange(query.shape[2], device=query.device)
    near = (places[:, None] - places).abs() <= reach
    near[:, 0] = True
    mask = near & real[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def banded_attention(
    query: Heads, key: Heads, value: Heads, real: Real, reach: int, dropout: float
) -> Heads:
    """`local_attention` at a cost linear in the length.

    Queries stand in blocks of `reach`; a block sees the keys of itself, of the block before
    and of the one after, and the first token's key, which is left out of its own block.
    """
    rows, _, length, _ = query.shape
    blocks = math.ceil(length / reach)
    spare = blocks * reach - length

    def seen(x: Tensor) -> Float[Tensor, "rows_blocks heads seen size"]:
        around = F.pad(x, (0, 0, reach, reach + spare)).unfold(2, 3 * reach, reach)
        around = around.permute(0, 2, 1, 4, 3)
        first = x[:, None, :, :1].expand(-1, blocks, -1, -1, -1)
        return torch.cat([first, around], dim=3).flatten(0, 1)

    own = F.pad(query, (0, 0, 0, spare)).unflatten(2, (blocks, reach))
    own = own.transpose(1, 2).flatten(0, 1)
    places = torch.arange(3 * reach, device=query.device)
    near = (places[reach : 2 * reach, None] - places).abs() <= reach
    others = real & (torch.arange(length, device=real.device) > 0)
    others = F.pad(others, (reach, reach + spare)).unfold(1, 3 * reach, reach)
    mask = F.pad(near & others.unsqueeze(2), (1, 0), value=True).flatten(0, 1).unsqueeze(1)
    attended = F.scaled_dot_product_attention(
        own, seen(key), seen(value), attn_mask=mask, dropout_p=dropout
    )
    attended = attended.unflatten(0, (rows, blocks)).transpose(1, 2).flatten(2, 3)
    return attended[:, :, :length]
