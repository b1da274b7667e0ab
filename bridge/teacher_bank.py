"""Teachers' vectors and scores, gathered per batch, handed to the student as score arrays."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import torch
from jaxtyping import Int

from bridge.dlpack import ALIGNMENT, to_jax
from bridge.score_sources import Source, checked_scores
from bridge.teacher_vectors import Vectors
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables

Side = Literal["jax", "torch"]
SIDES: tuple[Side, ...] = get_args(Side)
"""Where the teachers' vectors become scores, `--teacher_scores`."""
# Of a GPU's memory; the rest is for the student and for what a step computes.
TABLES_SHARE = 0.5


class TeacherBank:
    """The K teachers of a run, as the training loop's source of scores.

    With `side="jax"` the vectors cross the bridge once and every step scores its own columns
    from `tables`. With `side="torch"` PyTorch scores each batch and hands the array over. Both
    give the same logits (tested to 1e-6 of their size). A teacher that gives scores is asked for
    those of each batch on either side.

    Vectors on disk stay there, mapped: on a CPU, JAX reads the mapped file itself. To a GPU they
    are copied as long as they take no more than `TABLES_SHARE` of its memory; the other teachers'
    scores are then made in PyTorch, whatever the side.

    Attributes:
        names: the teachers' names.
        default_weights: w_k, summing to 1.
        tables: the vectors on JAX's device; None under `side="torch"`.

    Args:
        sources: each teacher's vectors or scores, all over the same instances and items. Arrays are
            shared where possible: nobody may write to them again.
        weights: default weights w_k; normalised here, equal shares where all are 0.
        side: `jax` or `torch`.

    Raises:
        ValueError: there is no such side.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], side: Side):
        if side not in SIDES:
            raise ValueError(f"side: found {side!r}, expected one of {', '.join(SIDES)}")
        self.names = tuple(source.name for source in sources)
        weights = weights if np.any(weights) else [1.0] * len(weights)
        self.default_weights = np.asarray(weights, dtype=float) / np.sum(weights)
        self._sources = [
            _Tensors(_tensor(s.instances), _tensor(s.items), s.scale)
            if isinstance(s, Vectors)
            else s
            for s in sources
        ]
        self._held = [side == "jax" and fits for fits in self._fitting(tables_room())]
        self.tables = self._cross() if side == "jax" else None

    def for_batch(
        self, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
    ) -> TeacherScores:
        """A batch's scores by the teachers that `tables` lacks, in the teachers' order.

        Args:
            instance_ids: the instances whose prefixes the teachers have read; 0, a user's first
                item, is padding, and available to no teacher.
            candidates: item ids.

        Raises:
            UserError: a teacher's score is not finite.
        """
        asked = [source for source, held in zip(self._sources, self._held, strict=True) if not held]
        scores = torch.empty((len(instance_ids), len(asked), len(candidates)))
        available = torch.empty((len(instance_ids), len(asked)), dtype=torch.bool)
        rows = torch.from_numpy(instance_ids.astype(np.int64))
        columns = torch.from_numpy(candidates.astype(np.int64))
        for k, source in enumerate(asked):
            if isinstance(source, _Tensors):
                users = source.instances[rows]
                items = source.items[columns].float()
                torch.matmul(users.float() * source.scale, items.T, out=scores[:, k])
                available[:, k] = users.any(dim=1)
            else:
                given, known = checked_scores(source, instance_ids, candidates)
                scores[:, k] = torch.from_numpy(given)
                available[:, k] = torch.from_numpy(known)
        crossed = TeacherScores(to_jax(scores).array, to_jax(available).array)
        return jax.device_put(crossed, jax.local_devices()[0])

    def _fitting(self, room: float) -> list[bool]:
        """Which teachers have vectors that find room on JAX's device, the first ones first."""
        fitting = []
        for source in self._sources:
            fits = isinstance(source, _Tensors) and source.nbytes <= room
            fitting.append(fits)
            if isinstance(source, _Tensors) and fits:
                room -= source.nbytes
        return fitting

    def _cross(self) -> TeacherTables:
        held = [
            source if fits and isinstance(source, _Tensors) else None
            for source, fits in zip(self._sources, self._held, strict=True)
        ]
        known = [torch.zeros(1).bool() if s is None else s.instances.any(dim=1) for s in held]
        known = torch.broadcast_tensors(*known)
        scales = [1.0 if source is None else source.scale for source in held]
        tables = TeacherTables(
            instances=tuple(None if s is None else to_jax(s.instances).array for s in held),
            items=tuple(None if s is None else to_jax(s.items).array for s in held),
            scales=to_jax(torch.tensor(scales)).array,
            available=to_jax(torch.stack(known, dim=1)).array,
        )
        # Explicit: where the student has a GPU, the tables move there, once.
        return jax.device_put(tables, jax.local_devices()[0])


class _Tensors(NamedTuple):
    """One teacher's vectors, float16."""

    instances: torch.Tensor
    items: torch.Tensor
    scale: float

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.instances.nbytes + self.items.nbytes


def tables_room() -> float:
    """Bytes that JAX's device has for the teachers' vectors; no limit on a CPU, which maps them."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return float("inf") if limit is None else TABLES_SHARE * limit


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array as an aligned float16 tensor; not copied where it is one, as a mapped file is."""
    address = array.__array_interface__["data"][0]
    as_it_is = array.flags.c_contiguous and array.flags.writeable and address % ALIGNMENT == 0
    if array.dtype == np.float16 and as_it_is:
        return torch.from_numpy(array)
    out = torch.empty(array.shape, dtype=torch.float16)
    out.numpy()[:] = array
    return out
