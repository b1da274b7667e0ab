"""Which instances are trained on, which choose and which report."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int64

from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.errors import UserError

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """Instance ids (offset of the target in the CSR) of the three parts.

    Attributes:
        train: every position but a user's first that lies in the training part.
        validation: at most one instance a user.
        test: at most one instance a user; its prefix includes the validation item.
        train_end: user u trains on `items[indptr[u]:train_end[u]]` and nothing else.
    """

    train: Int64[np.ndarray, "train"]
    validation: Int64[np.ndarray, "validation"]
    test: Int64[np.ndarray, "test"]
    train_end: Int64[np.ndarray, "users"]


def leave_one_out(interactions: Interactions) -> Split:
    """Last item for the test, the one before it for validation, the rest for training.

    As UniSRec and Recformer split. A user with fewer than three items has
    no item left to learn from under this rule: all of the history is training data.
    """
    start, end = interactions.indptr[:-1], interactions.indptr[1:]
    held_out = (end - start) >= 3
    train_end = np.where(held_out, end - 2, end)
    offsets = np.arange(len(interactions.items), dtype=np.int64)
    users = interactions.users
    return Split(
        train=offsets[(offsets > start[users]) & (offsets < train_end[users])],
        validation=(end - 2)[held_out],
        test=(end - 1)[held_out],
        train_end=train_end,
    )


def split_digest(split: Split) -> str:
    """SHA-256 over the three parts, in hex."""
    digest = hashlib.sha256()
    for part in (split.train, split.validation, split.test):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def require_parts(name: str, split: Split) -> None:
    """Refuses a data set of which a part is empty.

    Raises:
        UserError: nobody has four items or more, say.
    """
    sizes = {part: len(getattr(split, part)) for part in PARTS}
    if not all(sizes.values()):
        raise UserError(f"data set {name}: found {sizes} instances, expected some in each")
