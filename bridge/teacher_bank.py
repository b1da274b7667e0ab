"""Teacher vectors, gathered per batch, handed to the student as score arrays."""

from collections.abc import Sequence

import jax
import numpy as np
import torch
from jaxtyping import Int

from bridge.dlpack import to_jax
from bridge.teacher_vectors import Vectors
from prmkd_jax.data.batches import Batch
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables


class TeacherBank:
    """The K teachers of a run, as the training loop's source of scores.

    With `side="jax"` the vectors cross the bridge once and every step scores its own columns
    from them. With `side="torch"` PyTorch scores each batch and hands the array over.
    Both give the same logits (tested to 1e-6 of their size).

    Args:
        vectors: one a teacher, all over the same instances and items.
        weights: default weights w_k; normalised here, equal shares where all are 0.
        side: `jax` or `torch`.
    """

    def __init__(self, vectors: Sequence[Vectors], weights: Sequence[float], side: str):
        self.names = tuple(v.name for v in vectors)
        weights = weights if np.any(weights) else [1.0] * len(weights)
        self.default_weights = np.asarray(weights, dtype=float) / np.sum(weights)
        self._scales = [v.scale for v in vectors]
        self._instances = [_tensor(v.instances) for v in vectors]
        self._items = [_tensor(v.items) for v in vectors]
        self._known = torch.stack([x.any(dim=1) for x in self._instances], dim=1)
        self._tables = self._cross() if side == "jax" else None

    def for_batch(
        self, batch: Batch, candidates: Int[np.ndarray, " C"]
    ) -> TeacherTables | TeacherScores:
        """The resident tables, or this batch's scores [K, B, C] made in PyTorch."""
        if self._tables is not None:
            return self._tables
        rows = torch.from_numpy(batch.instance_ids.astype(np.int64))
        columns = torch.from_numpy(candidates.astype(np.int64))
        scores = torch.empty((len(self.names), len(rows), len(columns)))
        for out, instances, items, scale in zip(
            scores, self._instances, self._items, self._scales, strict=True
        ):
            torch.matmul(instances[rows].float() * scale, items[columns].float().T, out=out)
        crossed = TeacherScores(to_jax(scores).array, to_jax(self._known[rows]).array)
        return jax.device_put(crossed, jax.devices()[0])

    def _cross(self) -> TeacherTables:
        tables = TeacherTables(
            instances=tuple(to_jax(x).array for x in self._instances),
            items=tuple(to_jax(x).array for x in self._items),
            scales=to_jax(torch.tensor(self._scales)).array,
            available=to_jax(self._known).array,
        )
        # Said, not hidden: where the student has a GPU, the tables move there, once.
        return jax.device_put(tables, jax.devices()[0])


def _tensor(array: np.ndarray) -> torch.Tensor:
    """An aligned tensor of the array's values: a memory map starts behind its header."""
    out = torch.empty(array.shape, dtype=torch.float16)
    out.numpy()[:] = array
    return out
