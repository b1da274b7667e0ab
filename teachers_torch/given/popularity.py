"""`popularity` and `recent-popularity`: the same items for everybody, untrained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import nn

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import SELECTION_METRIC
from teachers_torch.given.untuned import Untuned
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import Log, Tuning

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Newest shares of the training interactions that `recent-popularity` chooses from."""


class PopularityTeacher(nn.Module):
    """Items by the logarithm of 1 plus their interactions in the newest part of the training.

    The share of the interactions that counts is its only state.
    """

    start = "nothing trained"
    num_parameters = 0
    top: int | None = None
    share: torch.Tensor

    def __init__(self, name: str, task: Task):
        """Counts nothing yet; all interactions are the newest until another share is set.

        Args:
            name: name in `--teachers`.
            task: data and split; the training part is counted.
        """
        super().__init__()
        self.name = name
        self._num_items = task.dataset.num_items
        items = task.dataset.interactions.items
        places = np.flatnonzero(task.in_train)
        times = task.dataset.interactions.timestamps
        if times is not None:
            places = places[np.argsort(times[places], kind="stable")]
        self._items = items[places]
        self._counted: tuple[int, Float32[np.ndarray, " V"]] | None = None
        self.register_buffer("share", torch.tensor(1.0, dtype=torch.float64))

    @property
    def table_bytes(self) -> int:
        """Bytes of the counts in float32."""
        return 4 * self._num_items

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """The same scores in every row."""
        return np.tile(self._scores()[items], (len(instance_ids), 1))

    def _scores(self) -> Float32[np.ndarray, " V"]:
        """Of all items; counted again where the share has changed."""
        newest = max(1, round(float(self.share) * len(self._items)))
        if self._counted is None or self._counted[0] != newest:
            counts = np.bincount(self._items[-newest:], minlength=self._num_items)
            self._counted = newest, np.log1p(counts).astype(np.float32)
        return self._counted[1]


class PopularityKind(Untuned):
    """The kind of `popularity`; see `teachers_torch.teacher.Kind`."""

    name = "popularity"
    label = "Popularity (untrained)"

    def gives_scores(self, settings: TeacherSettings) -> bool:
        """It has no vectors."""
        return True

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Nothing can be missing."""

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """None."""
        return {}

    def build(
        self, task: Task, settings: TeacherSettings, cache: Cache, log: Log
    ) -> PopularityTeacher:
        """Orders the training interactions."""
        return PopularityTeacher(self.name, task)

    def module(self, teacher: PopularityTeacher) -> nn.Module:
        """The share."""
        return teacher


class RecentKind(PopularityKind):
    """The kind of `recent-popularity`: the newest share that validation chooses."""

    name = "recent-popularity"
    label = "Recent popularity (untrained)"

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Looks for a clock.

        Raises:
            UserError: the data set has none.
        """
        _clock(task)

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """The clock, which isn't part of the data's own fingerprint, and what is chosen from."""
        # The order says all: not the times themselves.
        order = np.argsort(_clock(task)[task.in_train], kind="stable")
        return {"order": content_digest(order.tolist())[:16], "shares": list(SHARES)}

    def tune(
        self,
        teacher: PopularityTeacher,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Chooses the share by validation NDCG@10; of equal ones the larger."""
        tried = {}
        for share in reversed(SHARES):
            teacher.share.fill_(share)
            tried[share] = validate()
            log({"event": "setting", "setting": {"share": share}, **tried[share]})
        best = max(tried, key=lambda share: tried[share][SELECTION_METRIC])
        teacher.share.fill_(best)
        return Tuning(epochs=0, best_epoch=0, validation=tried[best], chosen={"share": best})


def _clock(task: Task) -> Int64[np.ndarray, " interactions"]:
    """The time of each interaction.

    Raises:
        UserError: the data set has none.
    """
    times = task.dataset.interactions.timestamps
    if times is None:
        raise UserError(
            f"data set {task.dataset.name}: found no timestamps, expected some for "
            "--teachers=recent-popularity"
        )
    return times


KIND = PopularityKind()
RECENT = RecentKind()
