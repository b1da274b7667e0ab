"""Tuning Recformer in two stages, as its official code does (arXiv 2305.13731, section 2.4)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from prmkd_jax.data.splits import Split
from teachers_torch.recformer.model import RecformerTeacher, autocast, tuning_loss
from teachers_torch.recformer.tokens import token_batches
from teachers_torch.teacher import Tuning
from teachers_torch.training import TuningStage, tune_in_stages


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

    Targets and batches depend on seed and epoch alone; dropout draws from torch's generator.

    Args:
        teacher: the teacher, whose `log` receives each `step`, each validation as `epoch`, and its
            encoding.
        split: trained on the training part.
        validate: metrics over all validation users, `NDCG@10` among them.
        seed: seed of targets and batches.
        state_file: see `tune_in_stages`.

    Raises:
        UserError: the state file is damaged, or the tuning diverges.
    """
    config = teacher.config
    steps = config.last_epoch * -(-len(_targets(teacher, split, seed, 0)) // config.batch_size)
    encoder = teacher.model.longformer
    encoder.fix_words(config.fix_word_embeddings)
    optimizer, schedule = adamw(encoder, config.learning_rate, config.warmup_steps, steps)

    def train(epoch: int) -> float:
        drawn = _targets(teacher, split, seed, epoch)
        return _train_epoch(teacher, optimizer, schedule, drawn, epoch)

    def train_with_new_table(epoch: int) -> float:
        teacher.refresh_items()
        return train(epoch)

    first = TuningStage(config.max_epochs, config.patience, train_with_new_table)
    second = TuningStage(config.fixed_table_epochs, config.fixed_table_patience, train)
    return tune_in_stages(
        teacher.model,
        {"optimizer": optimizer, "schedule": schedule},
        [first, second],
        validate,
        teacher.log,
        last_epoch=config.last_epoch,
        evaluate_every=config.evaluate_every,
        state_file=state_file,
    )


def adamw(
    module: nn.Module, learning_rate: float, warmup: int, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW over the parameters that require a gradient, and its learning rate's schedule."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, warmup, steps)
    )
    return optimizer, schedule


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
