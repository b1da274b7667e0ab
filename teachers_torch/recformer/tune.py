"""Tuning Recformer in two stages, as its official code does (arXiv 2305.13731, section 2.4)."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from prmkd_jax.data.splits import Split
from teachers_torch.losses import require_finite
from teachers_torch.recformer.model import Recformer, RecformerTeacher, autocast, tuning_loss
from teachers_torch.recformer.tokens import token_batches
from teachers_torch.states import load_state, save_state
from teachers_torch.teacher import SELECTION_METRIC, Tuning


@dataclasses.dataclass
class _Course:
    """A tuning under way: all that changes.

    Attributes:
        model: its item table included.
        optimizer: over the parameters that are trained.
        schedule: the learning rate's.
        best: of both stages.
        last: the stage's last epoch at the most.
        before: epochs done before the stage.
        stage: 1 or 2.
        epoch: the last one done, counted over both stages.
        waited: validations since the best one of this stage.
        best_weights: the model's there.
        seconds: of all epochs.
    """

    model: Recformer
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    best: Tuning
    last: int
    before: int = 0
    stage: int = 1
    epoch: int = 0
    waited: int = 0
    best_weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """Everything, as numbers and tensors."""
        fields = {name: value for name, value in vars(self).items() if name not in _STATEFUL}
        parts = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return {**fields, **parts, "best": self.best._asdict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        for name, value in state.items():
            if name in _STATEFUL:
                getattr(self, name).load_state_dict(value)
            else:
                setattr(self, name, value)
        self.best = Tuning(**state["best"])


_STATEFUL = ("model", "optimizer", "schedule")


def tune_recformer(
    teacher: RecformerTeacher,
    split: Split,
    validate: Callable[[], dict[str, float]],
    seed: int,
    state_file: Path | None = None,
) -> Tuning:
    """Trains a teacher in place; it ends with the weights and the item table of its best epoch.

    In the first stage the items are encoded again before every epoch; the second goes on from
    the best weights with the table that they were chosen with. In both, the encoder is trained
    against the table. AdamW and the learning rate's fall are those of one run.

    Targets and batches depend on the seed and the epoch alone. Dropout draws from torch's
    global generator, which the caller seeds.

    Args:
        teacher: its `log` is told of each `step`, of each validation as `epoch`, and of
            encoding (see `RecformerTeacher`).
        split: trained on the training part.
        validate: metrics over all validation users, `NDCG@10` among them.
        seed: of targets and batches.
        state_file: where everything is noted after each epoch. Where it is there already, the
            tuning goes on from it and ends as if it had never stopped.

    Raises:
        UserError: the state file is damaged.
    """
    config, model = teacher.config, teacher.model
    words = model.longformer.embeddings.word_embeddings
    words.requires_grad_(not config.fix_word_embeddings)
    trained = [p for p in model.longformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    steps = config.last_epoch * -(-len(_targets(teacher, split, seed, 0)) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, config.warmup_steps, steps)
    )
    untuned = Tuning(0, 0, {SELECTION_METRIC: -1.0})
    course = _Course(model, optimizer, schedule, untuned, last=config.max_epochs)
    if state_file is not None and (state := load_state(state_file)) is not None:
        course.restore(state)
    for stage, patience in ((1, config.patience), (2, config.fixed_table_patience)):
        if course.stage < stage:
            model.load_state_dict(course.best_weights)
            course.stage, course.waited, course.before = stage, 0, course.epoch
            course.last = course.epoch + config.fixed_table_epochs
        while (
            course.stage == stage
            and course.waited < patience
            and course.epoch < min(course.last, config.last_epoch)
        ):
            event = _next_epoch(course, teacher, split, validate, seed)
            if state_file is not None:
                save_state(state_file, course.state())
            if event is not None:
                teacher.log(event)
    model.load_state_dict(course.best_weights)
    return course.best._replace(epochs=course.epoch, seconds=course.seconds)


def _next_epoch(
    course: _Course,
    teacher: RecformerTeacher,
    split: Split,
    validate: Callable[[], dict[str, float]],
    seed: int,
) -> dict[str, Any] | None:
    """One epoch and, where one is due, its validation, which is returned as an event."""
    config, started = teacher.config, time.perf_counter()
    course.epoch += 1
    if course.stage == 1:
        teacher.refresh_items()
    targets = _targets(teacher, split, seed, course.epoch)
    loss = _train_epoch(teacher, course.optimizer, course.schedule, targets, course.epoch)
    require_finite(loss, course.epoch)
    ends = (course.last, config.last_epoch)
    if (course.epoch - course.before) % config.evaluate_every and course.epoch not in ends:
        course.seconds += time.perf_counter() - started
        return None
    metrics = validate()
    course.waited += 1
    if metrics[SELECTION_METRIC] > course.best.validation[SELECTION_METRIC]:
        course.best, course.waited = Tuning(course.epoch, course.epoch, metrics), 0
        weights = course.model.state_dict()
        course.best_weights = {name: value.detach().clone() for name, value in weights.items()}
    took = time.perf_counter() - started
    course.seconds += took
    return {
        "event": "epoch",
        "epoch": course.epoch,
        "loss": loss,
        SELECTION_METRIC: metrics[SELECTION_METRIC],
        "best_epoch": course.best.best_epoch,
        "seconds": took,
    }


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Share of the largest learning rate: rises from 0, then falls to 0 at `total`.

    As in the official code, the falling line starts at step 0, not where the rise ends.
    """
    return step / warmup if step < warmup else max(0.0, 1 - step / total)


def sample_targets(
    indptr: Int64[np.ndarray, " users_plus_1"],
    train_end: Int64[np.ndarray, " users"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, " targets"]:
    """One target a user, as an instance id: uniform over the training part.

    It may be a user's first item, whose history is empty. Users without a training item have
    no target; the others come in a random order.
    """
    users = rng.permutation(np.flatnonzero(train_end > indptr[:-1]))
    return rng.integers(indptr[users], train_end[users])


def _targets(
    teacher: RecformerTeacher, split: Split, seed: int, epoch: int
) -> Int64[np.ndarray, " targets"]:
    rng = np.random.default_rng([seed, epoch])
    return sample_targets(teacher.interactions.indptr, split.train_end, rng)


def _train_epoch(
    teacher: RecformerTeacher,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    targets: Int64[np.ndarray, " targets"],
    epoch: int,
) -> float:
    """One pass over the targets; returns their mean loss."""
    teacher.model.train()
    size, total = teacher.config.batch_size, 0.0
    steps = -(-len(targets) // size)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        total += add_gradients(teacher, targets[(step - 1) * size : step * size])
        optimizer.step()
        schedule.step()
        teacher.log({"event": "step", "epoch": epoch, "step": step, "steps": steps})
    return total / len(targets)


def add_gradients(teacher: RecformerTeacher, targets: Int64[np.ndarray, " targets"]) -> float:
    """Adds the gradients of these targets' mean loss; returns the sum of their losses.

    Histories of like length are computed together, some at a time.
    """
    device = teacher.item_table.device
    sequences = [teacher.reader.sequence(teacher.history(target)) for target in targets]
    items = torch.from_numpy(teacher.interactions.items[targets].astype(np.int64)).to(device)
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    total = 0.0
    for rows in token_batches(lengths, teacher.config.tokens_at_once):
        tokens = teacher.reader.batch([sequences[row] for row in rows]).to(device)
        with autocast(teacher.config, device):
            pooled = teacher.model.longformer.pooled(tokens)
        loss = tuning_loss(
            pooled.float(), teacher.item_table, items[rows], teacher.config.temperature
        )
        (loss * (len(rows) / len(targets))).backward()
        total += float(loss.detach()) * len(rows)
    return total
