"""Teacher vectors, gathered per batch, handed to the student as score arrays."""

from collections.abc import Sequence

import jax
import numpy as np
import torch
from jaxtyping import Int

from bridge.dlpack import to_jax
from bridge.teacher_vectors import Vectors
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables

SIDES = ("jax", "torch")
"""Where the teachers' vectors become scores, `--teacher_scores`."""


class TeacherBank:
    """The K teachers of a run, as the training loop's source of scores.

    With `side="jax"` the vectors cross the bridge once and every step scores its own columns
    from `tables`. With `side="torch"` PyTorch scores each batch and hands the array over. Both
    give the same logits (tested to 1e-6 of their size).

    Attributes:
        names: the teachers' names.
        default_weights: w_k, summing to 1.
        tables: the vectors on JAX's device; None under `side="torch"`.

    Args:
        vectors: one a teacher, all over the same instances and items.
        weights: default weights w_k; normalised here, equal shares where all are 0.
        side: `jax` or `torch`.

    Raises:
        ValueError: there is no such side.
    """

    def __init__(self, vectors: Sequence[Vectors], weights: Sequence[float], side: str):
        if side not in SIDES:
            raise ValueError(f"side: found {side!r}, expected one of {', '.join(SIDES)}")
        self.names = tuple(v.name for v in vectors)
        weights = weights if np.any(weights) else [1.0] * len(weights)
        self.default_weights = np.asarray(weights, dtype=float) / np.sum(weights)
        self._scales = [v.scale for v in vectors]
        self._instances = [_tensor(v.instances) for v in vectors]
        self._items = [_tensor(v.items) for v in vectors]
        self._available = torch.stack([x.any(dim=1) for x in self._instances], dim=1)
        self.tables = self._cross() if side == "jax" else None

    def for_batch(
        self, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
    ) -> TeacherScores:
        """A batch's scores, made in PyTorch.

        Args:
            instance_ids: the instances whose prefixes the teachers have read.
            candidates: item ids.
        """
        rows = torch.from_numpy(instance_ids.astype(np.int64))
        columns = torch.from_numpy(candidates.astype(np.int64))
        scores = torch.empty((len(rows), len(self.names), len(columns)))
        teachers = zip(self._instances, self._items, self._scales, strict=True)
        for k, (instances, items, scale) in enumerate(teachers):
            user_vectors = instances[rows].float() * scale
            torch.matmul(user_vectors, items[columns].float().T, out=scores[:, k])
        crossed = TeacherScores(to_jax(scores).array, to_jax(self._available[rows]).array)
        return jax.device_put(crossed, jax.devices()[0])

    def _cross(self) -> TeacherTables:
        tables = TeacherTables(
            instances=tuple(to_jax(x).array for x in self._instances),
            items=tuple(to_jax(x).array for x in self._items),
            scales=to_jax(torch.tensor(self._scales)).array,
            available=to_jax(self._available).array,
        )
        # Explicit: where the student has a GPU, the tables move there, once.
        return jax.device_put(tables, jax.devices()[0])


def _tensor(array: np.ndarray) -> torch.Tensor:
    """An aligned tensor of the array's values: a memory map starts after its header."""
    out = torch.empty(array.shape, dtype=torch.float16)
    out.numpy()[:] = array
    return out
