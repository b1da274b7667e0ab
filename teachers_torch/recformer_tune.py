"""Tuning Recformer in two stages, as its official code does (arXiv 2305.13731, section 2.4)."""

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64

from prmkd_jax.data.splits import Split
from teachers_torch.recformer import RecformerTeacher, autocast, tuning_loss
from teachers_torch.recformer_text import token_batches
from teachers_torch.tune import SELECTION_METRIC, Tuning


def tune_recformer(
    teacher: RecformerTeacher, split: Split, validate: Callable[[], dict[str, float]], seed: int
) -> Tuning:
    """Trains a teacher in place; it ends with the weights and the item table of its best epoch.

    In the first stage the items are encoded anew before every epoch; the second goes on from
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
    """
    config, model = teacher.config, teacher.model
    words = model.longformer.embeddings.word_embeddings
    words.requires_grad_(not config.fix_word_embeddings)
    trained = [p for p in model.longformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    steps = config.decay_epochs * -(-len(_targets(teacher, split, seed, 0)) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, config.warmup_steps, steps)
    )
    best, best_weights, epoch = Tuning(0, 0, {SELECTION_METRIC: -1.0}), {}, 0
    stages = (
        (config.max_epochs, config.patience),
        (config.fixed_table_epochs, config.fixed_table_patience),
    )
    for stage, (most, patience) in enumerate(stages, start=1):
        last, waited, started = epoch + most, 0, time.perf_counter()
        while epoch < last and waited < patience and epoch < config.decay_epochs:
            epoch += 1
            if stage == 1:
                teacher.refresh_items()
            targets = _targets(teacher, split, seed, epoch)
            loss = _train_epoch(teacher, optimizer, schedule, targets, epoch)
            if epoch % config.evaluate_every and epoch not in (last, config.decay_epochs):
                continue
            metrics = validate()
            waited += 1
            if metrics[SELECTION_METRIC] > best.validation[SELECTION_METRIC]:
                best, waited = Tuning(epoch, epoch, metrics), 0
                best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            teacher.log(
                {
                    "event": "epoch",
                    "epoch": epoch,
                    "loss": loss,
                    SELECTION_METRIC: metrics[SELECTION_METRIC],
                    "best_epoch": best.best_epoch,
                    "seconds": time.perf_counter() - started,
                }
            )
            started = time.perf_counter()
        model.load_state_dict(best_weights)
    return best._replace(epochs=epoch)


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Share of the largest learning rate: rises from 0, then falls to 0 at `total`.

    As in the official code, the falling line starts at step 0, not where the rise ends.
    """
    return step / warmup if step < warmup else max(0.0, 1 - step / total)


def sample_targets(
    indptr: Int64[np.ndarray, "users_plus_1"],
    train_end: Int64[np.ndarray, "users"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, "users"]:
    """One target a user, as an instance id: uniform over the training part.

    A user's first item may be it, whose history is empty. Users without a training item have
    no target; the others come in a random order.
    """
    users = rng.permutation(np.flatnonzero(train_end > indptr[:-1]))
    return rng.integers(indptr[users], train_end[users])


def _targets(
    teacher: RecformerTeacher, split: Split, seed: int, epoch: int
) -> Int64[np.ndarray, "users"]:
    rng = np.random.default_rng([seed, epoch])
    return sample_targets(teacher.interactions.indptr, split.train_end, rng)


def _train_epoch(
    teacher: RecformerTeacher,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    targets: Int64[np.ndarray, "users"],
    epoch: int,
) -> float:
    """One pass over the targets; returns their mean loss."""
    teacher.model.train()
    size, total = teacher.config.batch_size, 0.0
    steps = -(-len(targets) // size)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        total += _add_gradients(teacher, targets[(step - 1) * size : step * size])
        optimizer.step()
        schedule.step()
        teacher.log({"event": "step", "epoch": epoch, "step": step, "steps": steps})
    return total / len(targets)


def _add_gradients(teacher: RecformerTeacher, targets: Int64[np.ndarray, "users"]) -> float:
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
