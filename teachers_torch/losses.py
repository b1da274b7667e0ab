"""The loss that all tuned teachers share."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from prmkd_jax.common.errors import UserError


def cosine_cross_entropy(
    user_vectors: Float[Tensor, "rows width"],
    item_table: Float[Tensor, "classes width"],
    targets: Int64[Tensor, " rows"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all classes of cosine / temperature.

    Args:
        user_vectors: L2-normalised.
        item_table: not normalised.
        targets: class of each row.
        temperature: divisor of the cosines.
    """
    # Dividing the vectors rather than the logits saves two passes over the largest array.
    logits = (user_vectors / temperature) @ F.normalize(item_table, dim=-1).T
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def require_finite(loss: float, epoch: int) -> None:
    """Stops a training that has diverged, before its weights are kept.

    Raises:
        UserError: the loss is nan or infinite.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"epoch {epoch} of a teacher: found a loss of {loss}, expected a finite one; a smaller "
            "learning rate of the teacher may help"
        )
