"""The packed PyTorch SASRec as a peer, plain or with PRM-KD, in our own environment.

python -m experiments.benchmarks.peers.packed_driver settings.json
"""

import time
from pathlib import Path

import numpy as np
import torch

from bridge.runtime import keep_freed_memory
from experiments.benchmarks.peers.packed_prmkd import TeacherTensors, distilled_loss
from experiments.benchmarks.peers.packed_sasrec import PackedSASRec, Sizes, make_optimizer
from experiments.benchmarks.peers.protocol import (
    METRIC,
    Clocked,
    Settings,
    Timed,
    drive,
)
from experiments.benchmarks.peers.teachers import read_vectors
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.data import load_task
from prmkd_jax.data.batches import Batch, TrainingBatches
from prmkd_jax.data.packing import PackedRows, instance_segments, pack, row_length
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.evaluate.metrics import ranking_metrics

_RANKED = 1024  # users scored at once, as ours


class Packed:
    """The opponent with its data.

    Args:
        task: data and split.
        told: sizes.
        distill: the settings of the PRM-KD step.
        teachers: empty for the plain student.
    """

    def __init__(
        self, task: Task, told: Settings, distill: DistillConfig, teachers: list[TeacherTensors]
    ):
        torch.manual_seed(told["seed"])
        self._task, self._distill, self._teachers = task, distill, teachers
        self._weights = torch.full((len(teachers),), 1 / max(len(teachers), 1))
        names = ("hidden_size", "num_heads", "num_layers", "inner_size", "dropout")
        sizes = (told[name] for name in names)
        self.model = PackedSASRec(Sizes(task.dataset.num_items, told["window"], *sizes))
        self._optimizer = make_optimizer(self.model, told["learning_rate"], told["weight_decay"])
        self._batch_size, self._window = told["batch_size"], told["window"]
        self._batches = TrainingBatches(task, self._window, self._batch_size, told["seed"])
        self._epoch = 0
        self._ranked: dict[str, list[PackedRows]] = {}
        self._kept: dict[str, torch.Tensor] = {}

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        started = time.perf_counter()
        clock = Clocked(self._batches.steps_about, most)
        self.model.train()
        for batch in clock(self._batches.epoch(self._epoch)):
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(batch).backward()
            self._optimizer.step()
        self._epoch += 1
        return clock.timed(time.perf_counter() - started)

    def _loss(self, batch: Batch) -> torch.Tensor:
        if not self._teachers:
            return self.model.loss(self.model.queries(batch), batch)
        return distilled_loss(
            self.model, batch, self._task, self._teachers, self._weights, 1.0, self._distill
        )

    @torch.inference_mode()
    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`; never stopped."""
        ids = getattr(self._task.split, part)
        packed = self._rows(part, ids)
        started = time.perf_counter()
        self.model.eval()
        place = np.zeros(len(self._task.dataset.interactions.items) + 1, dtype=np.int64)
        place[ids] = np.arange(len(ids))
        queries = torch.empty(len(ids), self.model.sizes.width)
        for rows in packed:
            asked = rows.instance_ids.reshape(-1)
            (slots,) = np.nonzero(asked >= 0)
            found = self.model(rows)[torch.from_numpy(slots)]
            queries[torch.from_numpy(place[asked[slots]])] = found
        targets = self._task.targets(ids)
        ranks = []
        for first in range(0, len(ids), _RANKED):
            scores = queries[first : first + _RANKED] @ self.model.item_embedding.weight.T
            own = scores.gather(
                1, torch.from_numpy(targets[first : first + _RANKED])[:, None].long()
            )
            equal = (scores == own).sum(1) - 1
            ranks.append(((scores > own).sum(1) + 0.5 * equal).numpy())
        seconds = time.perf_counter() - started
        metrics = ranking_metrics(np.concatenate(ranks))
        return Timed(seconds, 1.0, 1), {name: metrics[name] for name in ("Recall@10", METRIC)}

    def _rows(self, part: str, ids: np.ndarray) -> list[PackedRows]:
        """The packed prefixes, made once, as our evaluator makes them."""
        if part not in self._ranked:
            interactions = self._task.dataset.interactions
            length = row_length(self._batch_size, self._window)
            segments = instance_segments(interactions, ids, self._window)
            rows = self._batch_size // length
            self._ranked[part] = list(pack(interactions, segments, rows, length))
        return self._ranked[part]

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = {name: x.clone() for name, x in self.model.state_dict().items()}

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self.model.load_state_dict(self._kept)


def make(told: Settings) -> Packed:
    """The opponent for the flags `flags`, distilled from the vectors in `teachers` if named."""
    keep_freed_memory()
    settings = settings_from(parse(told["flags"], GROUPS).configs)
    pairs = read_vectors(Path(told["teachers"])) if told["teachers"] else []
    teachers = [TeacherTensors(torch.from_numpy(a), torch.from_numpy(b), 1.0) for a, b in pairs]
    return Packed(load_task(settings), told, settings.distill, teachers)


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"torch": torch.__version__}


if __name__ == "__main__":
    drive(make, versions)
