"""The contrastive losses of pre-training and the augmentations they compare with.

Sequences are left-aligned rows of table rows: 0 is [PAD], item i of the data set is row
i + 1. All is pure: what is random is drawn by the caller.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from teachers_torch.config import Duplicates
from teachers_torch.sequence.encoder import SequenceEncoder

AT_ONCE = 64  # sequences of like length that are encoded together, so that little is padded


class PretrainBatch(NamedTuple):
    """Instances of a pre-training batch.

    Attributes:
        item_seq: table rows of the prefixes.
        lengths: items of each, at least 1.
        targets: table row of each prefix's next item.
        augmented_seq: the augmented prefixes.
        augmented_lengths: items of each augmented prefix, at least 1.
    """

    item_seq: Int64[Tensor, "batch length"]
    lengths: Int64[Tensor, " batch"]
    targets: Int64[Tensor, " batch"]
    augmented_seq: Int64[Tensor, "batch length"]
    augmented_lengths: Int64[Tensor, " batch"]


def contrastive_loss(
    queries: Float[Tensor, "batch width"],
    keys: Float[Tensor, "batch width"],
    targets: Int64[Tensor, " batch"],
    temperature: float,
    *,
    duplicates: Duplicates = "zero",
) -> Float[Tensor, ""]:
    """L(a, b) = mean_i [ −a_i·b_i/t + log Σ_j exp(z_ij) ], z_ij = a_i·b_j/t (UniSRec, eq. 5–6).

    Args:
        queries: a, L2-normalised.
        keys: b, L2-normalised; key i is query i's positive, the others are its negatives.
        targets: the target item of each row. Where two rows share one, neither's key is the
            other's negative.
        temperature: t.
        duplicates: the value of z_ij there: `zero` sets it to 0, so that it still adds exp(0) = 1
            to the sum, as the official code does; `left_out` takes it out.
    """
    logits = queries @ keys.T / temperature
    own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    same = (targets[:, None] == targets[None, :]) & ~own
    masked = logits.masked_fill(same, 0.0 if duplicates == "zero" else -torch.inf)
    return (masked.logsumexp(dim=1) - logits.diagonal()).mean()


def sequence_vectors(
    model: SequenceEncoder,
    read: Callable[[Int64[Tensor, "rows length"]], Float[Tensor, "rows length width"]],
    item_seq: Int64[Tensor, "batch length"],
    lengths: Int64[Tensor, " batch"],
) -> Float[Tensor, "batch width"]:
    """L2-normalised hidden states at the last item of left-aligned sequences.

    Sequences are encoded in groups of like length, which changes nothing but the time.

    Args:
        model: the encoder.
        read: item vectors of table rows, before positions are added.
        item_seq: table rows; what stands after a sequence's end is not read.
        lengths: items of each sequence, at least 1.
    """
    order = lengths.argsort(stable=True)
    parts = []
    for chunk in order.split(AT_ONCE):
        size = lengths[chunk]
        positions = torch.arange(int(size.max()), device=item_seq.device).expand(len(chunk), -1)
        segment_ids = (positions < size[:, None]).long()
        hidden = model(read(item_seq[chunk, : positions.shape[1]]), segment_ids, positions)
        parts.append(hidden[torch.arange(len(chunk), device=hidden.device), size - 1])
    return F.normalize(torch.cat(parts)[order.argsort()], dim=-1)


def item_drop(
    item_seq: Int64[Tensor, "batch length"],
    lengths: Int64[Tensor, " batch"],
    keep: Bool[Tensor, "batch length"],
) -> tuple[Int64[Tensor, "batch length"], Int64[Tensor, " batch"]]:
    """Drops items as the official code does, with its quirk, the same on every device.

    The first item is kept; a kept item opens a slot (number cumsum(keep) − 1) and the new
    length is the number of slots. A dropped item has the slot of the kept one before it and
    overwrites it, so what survives of a run is its *last* item.

    Args:
        item_seq: table rows, 0 after a sequence's end.
        lengths: items of each sequence.
        keep: True for items that are kept; of no effect at the first place and after the end.

    Returns:
        The shortened sequences, 0 after their ends, and their lengths.
    """
    places = torch.arange(item_seq.shape[1], device=item_seq.device).expand_as(item_seq)
    real = places < lengths[:, None]
    opens = keep | (places == 0) | ~real
    slots = opens.cumsum(dim=1) - 1
    # The last write to a slot is that of the place before the next slot is opened.
    last = torch.cat([opens[:, 1:], torch.ones_like(opens[:, :1])], dim=1)
    shortened = torch.zeros_like(F.pad(item_seq, (0, 1)))
    shortened.scatter_(1, torch.where(last & real, slots, item_seq.shape[1]), item_seq)
    return shortened[:, :-1], slots.gather(1, lengths[:, None] - 1).squeeze(1) + 1


def replace_rows(
    item_seq: Int64[Tensor, "batch length"],
    keep: Bool[Tensor, "batch length"],
    offset: int | Int64[Tensor, "batch length"],
) -> Int64[Tensor, "batch length"]:
    """Reads an item that is not kept from a row `offset` further on; [PAD] stays.

    With a table of N items followed by the same N without some of their words, or without
    one modality, this is word drop, or modality drop: the sequence's length stays.
    """
    return torch.where(keep | (item_seq == 0), item_seq, item_seq + offset)
