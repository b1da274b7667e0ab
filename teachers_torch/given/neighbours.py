"""`neighbours`: what followed the last items in training, and what reads like them.

Nothing is trained. T_ij counts how often items i and j follow each other in training histories,
in either order; deg_i = Σ_j T_ij + 1, G_ij = T_ij / √(deg_i deg_j). S_ij = max(cosine of the texts,
0)^power. The score of item j after (…, i₂, i₁) is

    Σ_d decay^(d − 1) (G_{i_d j} + share · S_{i_d j}),  d = 1 … last.

A training instance is one of the counts itself. For it the pairs that its own target makes with
the item before and with the item after it are taken out of T (not of deg), for else the teacher
would repeat the label.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from scipy.sparse import csr_array
from torch import nn

from prmkd_jax.common.cache import Cache
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import SELECTION_METRIC
from teachers_torch.config import NeighboursConfig, TextConfig
from teachers_torch.given.untuned import Untuned
from teachers_torch.items.inputs import has_texts, text_inputs, texts_identity, texts_width
from teachers_torch.ranked_lists import SparseRows, sparse_counts
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import Log, Tuning

MOST_PAIRS = 2**29
"""Pairs of items whose similarities are kept, 2 GiB; with more they are made for each batch."""
BLOCK_ROWS = 1024
"""Items whose similarities with all are made at once."""


class NeighbourConstants(NamedTuple):
    """What validation chooses.

    Attributes:
        decay: weight of an item for each step back.
        share: weight of the texts next to the transitions.
        power: exponent of the cosines.
        last: items of the prefix that are read.
    """

    decay: float = 0.5
    share: float = 0.5
    power: int = 3
    last: int = 3


GRID = {
    "share": (0.0, 0.125, 0.25, 0.5, 1.0, 2.0),
    "decay": (0.0, 0.25, 0.5, 0.75, 1.0),
    "power": (1, 2, 3, 4, 6),
    "last": (3, 5, 10),
}
"""The values that validation chooses from, one constant after the other."""


class NeighboursTeacher(nn.Module):
    """See the module; the constants are its only state."""

    name = "neighbours"
    start = "nothing trained"
    num_parameters = 0
    top: int | None = None
    chosen: torch.Tensor

    def __init__(self, task: Task, texts: Float32[np.ndarray, "V d"] | None):
        """Counts the transitions.

        Args:
            task: data and split; the training part is counted.
            texts: vectors of the items' texts, zeros where an item has none; None for no texts.
        """
        super().__init__()
        self._task = task
        interactions = task.dataset.interactions
        follows = task.in_train[1:] & (interactions.users[1:] == interactions.users[:-1])
        before, after = interactions.items[:-1][follows], interactions.items[1:][follows]
        rows, columns = np.concatenate([before, after]), np.concatenate([after, before])
        counts = sparse_counts(rows, columns, task.dataset.num_items)
        self._degrees = np.bincount(rows, minlength=task.dataset.num_items) + 1.0
        owner = np.repeat(np.arange(task.dataset.num_items), np.diff(counts.offsets))
        norms = np.sqrt(self._degrees[owner] * self._degrees[counts.ids])
        self._graph = SparseRows(counts.offsets, counts.ids, counts.values / norms)
        self._whole: tuple[NeighbourConstants, Float32[np.ndarray, "V V"]] | None = None
        self._texts = texts
        if texts is not None:
            norms = np.linalg.norm(texts, axis=1, keepdims=True)
            self._texts = np.divide(texts, norms, out=np.zeros_like(texts), where=norms > 0)
        share = 0.0 if texts is None else NeighbourConstants().share
        self.register_buffer("chosen", torch.tensor(NeighbourConstants()._replace(share=share)))

    @property
    def constants(self) -> NeighbourConstants:
        """The constants in use."""
        decay, share, power, last = self.chosen.tolist()
        return NeighbourConstants(decay, share, round(power), round(last))

    @constants.setter
    def constants(self, constants: NeighbourConstants) -> None:
        self.chosen.copy_(torch.tensor(constants))

    @property
    def reads_texts(self) -> bool:
        """Whether it has vectors of texts."""
        return self._texts is not None

    @property
    def table_bytes(self) -> int:
        """Bytes of the counts and of the texts' vectors."""
        counts = self._graph.ids.nbytes + self._graph.values.nbytes
        return counts + (0 if self._texts is None else self._texts.nbytes)

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """The scores; nan in the rows of instances without a prefix."""
        last, weights = self._last(instance_ids)
        places, similar = self._similar(last, items)
        starts = np.arange(len(last) + 1) * last.shape[1]
        read = (weights.ravel(), places.ravel(), starts)
        out = csr_array(read, shape=(len(last), len(similar))) @ similar
        targets = self._task.targets(instance_ids)
        rows, columns = np.nonzero(items == targets[:, None])
        own = self._own(instance_ids, last, weights)[rows]
        left = out[rows, columns] - own
        # Summed in another order than in the matrix, a score without its only pair isn't quite 0.
        left[np.abs(left) <= 4 * np.finfo(np.float32).eps * own] = 0
        out[rows, columns] = left
        out[~weights.any(axis=1)] = np.nan
        return out

    def _last(
        self, instance_ids: Int[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, "B L"], Float32[np.ndarray, "B L"]]:
        """The last items of each prefix, newest first, and their weights: 0 where there is none."""
        interactions = self._task.dataset.interactions
        steps = np.arange(1, self.constants.last + 1)
        places = np.asarray(instance_ids, dtype=np.int64)[:, None] - steps
        begins = interactions.indptr[interactions.users[instance_ids]]
        there = places >= begins[:, None]
        weights = np.where(there, self.constants.decay ** (steps - 1.0), 0.0)
        return interactions.items[np.where(there, places, 0)].astype(np.int64), weights.astype(
            np.float32
        )

    def _similar(
        self, last: Int64[np.ndarray, "B L"], items: Int[np.ndarray, " C"]
    ) -> tuple[Int64[np.ndarray, "B L"], Float32[np.ndarray, "R C"]]:
        """G + share · S of the last items with others, and which row of it each of them has.

        Out of the whole matrix where that is small.
        """
        count = self._task.dataset.num_items
        rows, places = np.unique(last, return_inverse=True)
        places = places.reshape(last.shape)
        if count**2 > MOST_PAIRS:
            return places, self._made(rows, items)
        whole = self._all_made()
        if np.array_equal(items, np.arange(count)):
            return last, whole
        return places, whole[rows[:, None], items]

    def _all_made(self) -> Float32[np.ndarray, "V V"]:
        """All items with all, kept until the constants change; it is never held twice."""
        if self._whole is None or self._whole[0] != self.constants:
            self._whole = None
            every = np.arange(self._task.dataset.num_items)
            made = np.empty((len(every), len(every)), dtype=np.float32)
            for start in range(0, len(every), BLOCK_ROWS):
                rows = every[start : start + BLOCK_ROWS]
                made[rows] = self._made(rows, every)
            self._whole = self.constants, made
        return self._whole[1]

    def _made(
        self, rows: Int64[np.ndarray, " R"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "R C"]:
        out = self._graph.block(rows, items, 0.0)
        _, share, power, _ = self.constants
        if self._texts is not None and share:
            cosines = self._texts[rows] @ self._texts[items].T
            np.maximum(cosines, 0, out=cosines)
            powered = cosines.copy()
            for _ in range(power - 1):  # ** takes ten times as long
                powered *= cosines
            powered *= np.float32(share)
            out += powered
        return out

    def _own(
        self,
        instance_ids: Int[np.ndarray, " B"],
        last: Int64[np.ndarray, "B L"],
        weights: Float32[np.ndarray, "B L"],
    ) -> Float32[np.ndarray, " B"]:
        """What the pairs of a training instance's own target add to its score.

        A pair (a, t) is counted once in T_at, and twice where a is t. An item that is at several
        of the last places reads the same count at each.
        """
        interactions = self._task.dataset.interactions
        items, users = interactions.items, interactions.users
        ids = np.asarray(instance_ids, dtype=np.int64)
        targets = items[ids].astype(np.int64)
        after = np.minimum(ids + 1, len(items) - 1)
        trained = self._task.in_train[ids]
        follows = trained & (after > ids) & (users[after] == users[ids])
        follows &= self._task.in_train[after]
        counts = np.zeros(last.shape)
        for near, exists in ((last[:, 0], trained), (items[after].astype(np.int64), follows)):
            times = np.where(exists, 1 + (near == targets), 0)
            counts += np.where(last == near[:, None], times[:, None], 0)
        norms = np.sqrt(self._degrees[last] * self._degrees[targets][:, None])
        return (weights * counts / norms).sum(axis=1).astype(np.float32)


class NeighboursKind(Untuned):
    """The kind of `neighbours`; see `teachers_torch.teacher.Kind`."""

    name = "neighbours"
    label = "Neighbours (untrained)"
    reads = (TextConfig,)

    def gives_scores(self, settings: TeacherSettings) -> bool:
        """It has no vectors."""
        return True

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Looks whether the texts can be encoded."""
        if _reads_texts(task, settings):
            texts_width(task.dataset, settings.text, cache)

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """The encoder of the texts, and what is chosen from."""
        encoder = None
        if _reads_texts(task, settings):
            encoder = texts_identity(task.dataset, settings.text)
        return {"text_encoder": encoder, "grid": {name: list(of) for name, of in GRID.items()}}

    def build(
        self, task: Task, settings: TeacherSettings, cache: Cache, log: Log
    ) -> NeighboursTeacher:
        """Counts the transitions and encodes the texts."""
        texts = None
        if _reads_texts(task, settings):
            features, available = text_inputs(task.dataset, settings.text, 0.0, cache, log)
            texts = np.where(available[:, None], features, np.float32(0))
        return NeighboursTeacher(task, texts)

    def tune(
        self,
        teacher: NeighboursTeacher,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Chooses the constants by validation NDCG@10, see `choose`."""
        tried: dict[NeighbourConstants, dict[str, float]] = {}

        def measure(constants: NeighbourConstants) -> float:
            if constants not in tried:
                teacher.constants = constants
                tried[constants] = validate()
                log({"event": "setting", "setting": constants._asdict(), **tried[constants]})
            return tried[constants][SELECTION_METRIC]

        texts = ("share", "power")
        names = [name for name in GRID if teacher.reads_texts or name not in texts]
        teacher.constants = choose(teacher.constants, names, measure)
        return Tuning(
            epochs=0,
            best_epoch=0,
            validation=tried[teacher.constants],
            chosen=teacher.constants._asdict(),
        )

    def module(self, teacher: NeighboursTeacher) -> nn.Module:
        """The constants."""
        return teacher


def _reads_texts(task: Task, settings: TeacherSettings) -> bool:
    return settings.get(NeighboursConfig).texts and has_texts(task.dataset, settings.text)


def choose(
    start: NeighbourConstants, names: list[str], measure: Callable[[NeighbourConstants], float]
) -> NeighbourConstants:
    """The best constants: one after the other over its grid, until none changes any more.

    Args:
        start: the constants to begin from; kept where nothing is better.
        names: the constants that may change.
        measure: computes the value to be maximised.
    """
    best = start
    while True:
        before = best
        for name in names:
            best = max(
                [best, *(best._replace(**{name: value}) for value in GRID[name])], key=measure
            )
        if best == before:
            return best


KIND = NeighboursKind()
