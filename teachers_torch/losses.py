"""The loss that all tuned teachers share."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from prmkd_jax.common.errors import UserError

# Logits made at once: 1 MiB in float32, which stays in a core's cache; on a GPU 256 MiB.
CPU_LOGITS, GPU_LOGITS = 2**18, 2**26
# Rows at least, whatever the catalogue: each block reads the whole item table.
FEWEST_ROWS = 64


def cosine_cross_entropy(
    user_vectors: Float[Tensor, "rows width"],
    item_table: Float[Tensor, "classes width"],
    targets: Int64[Tensor, " rows"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all classes of cosine / temperature, in float32 at least.

    Args:
        user_vectors: L2-normalised.
        item_table: the classes' vectors, not normalised.
        targets: class of each row.
        temperature: divisor of the cosines.
    """
    dtype = torch.promote_types(user_vectors.dtype, torch.float32)
    # Pre-training calls it inside autocast, which would make the products bfloat16 again.
    with torch.autocast(user_vectors.device.type, enabled=False):
        users = user_vectors.to(dtype) / temperature
        items = F.normalize(item_table.to(dtype), dim=-1)
        return _SoftmaxLoss.apply(users, items, targets)  # pyright: ignore[reportReturnType]


class _SoftmaxLoss(torch.autograd.Function):
    """Mean of logsumexp(U Vᵀ) − u·v_target over the rows.

    The gradient is made with the loss, block by block of rows, while a block's logits are in the
    cache: all of them at once would be written and read nine times, and take 4 bytes a row and
    class.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        of_users = torch.empty_like(users)
        of_items = torch.zeros_like(items) if ctx.needs_input_grad[1] else None
        total = users.new_zeros(())
        for start in range(0, len(users), _rows_at_once(items)):
            block = slice(start, start + _rows_at_once(items))
            logits, own = users[block] @ items.T, targets[block, None]
            logits -= logits.amax(dim=1, keepdim=True)
            of_target = logits.gather(1, own)
            sums = logits.exp_().sum(dim=1, keepdim=True)
            total += (sums.log() - of_target).sum()
            # Softmax − one-hot, by the number of rows: what the logits' gradient is.
            logits /= sums * len(users)
            logits.scatter_add_(1, own, logits.new_full(own.shape, -1 / len(users)))
            of_users[block] = logits @ items
            if of_items is not None:
                of_items.addmm_(logits.T, users[block])
        ctx.save_for_backward(of_users, of_items)
        return total / len(users)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        of_users, of_items = ctx.saved_tensors
        return gradient * of_users, None if of_items is None else gradient * of_items, None


def _rows_at_once(items: Tensor) -> int:
    logits = CPU_LOGITS if items.device.type == "cpu" else GPU_LOGITS
    return max(FEWEST_ROWS, logits // len(items))


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
