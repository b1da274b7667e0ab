"""Teachers that give scores instead of vectors, as the bank reads them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Int

from bridge.teacher_vectors import Vectors
from prmkd_jax.common.errors import UserError
from teachers_torch.teacher import ScoreSource

Source = Vectors | ScoreSource
"""A ready teacher: vectors whose dot products are its logits, or the logits themselves."""


@dataclasses.dataclass(frozen=True)
class _Permuted:
    """A source that takes each item for another one."""

    source: ScoreSource
    order: Int[np.ndarray, " V"]

    @property
    def name(self) -> str:
        return self.source.name

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        return self.source.score(instance_ids, self.order[items])


def permuted(source: Source, order: Int[np.ndarray, " V"]) -> Source:
    """The teacher with item i scored as item order[i]."""
    if isinstance(source, Vectors):
        return dataclasses.replace(source, items=source.items[order])
    return _Permuted(source, order)


def checked_scores(
    source: ScoreSource, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
) -> tuple[Float32[np.ndarray, "B C"], Bool[np.ndarray, " B"]]:
    """The scores, 0 where an instance is unknown, and which instances are known.

    Instance 0, a user's first item, is padding: the source isn't asked for it.

    Raises:
        UserError: a score of a known instance is not finite.
    """
    scores = np.full((len(instance_ids), len(candidates)), np.nan, np.float32)
    asked = np.flatnonzero(instance_ids)
    scores[asked] = source.score(instance_ids[asked], candidates)
    missing = np.isnan(scores)
    known = np.asarray(~missing.all(axis=1))
    if not np.isfinite(scores[known]).all():
        bad = known & ~np.isfinite(scores).all(axis=1)
        row = int(np.argmax(bad))
        column = int(np.argmin(np.isfinite(scores[row])))
        raise UserError(
            f"teacher {source.name}: instance {instance_ids[row]}, item {candidates[column]}: "
            f"found a score of {scores[row, column]}, expected finite ones, or nan in the whole row"
        )
    return np.where(known[:, None], scores, np.float32(0)), known
