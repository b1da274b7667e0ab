"""Tuning a teacher: Adam on packed batches, stopped early on validation NDCG@10."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from prmkd_jax.data.batches import TrainingBatches
from teachers_torch.config import EncoderConfig
from teachers_torch.encoder import SequenceEncoder, to_tensors

SELECTION_METRIC = "NDCG@10"


class Tuning(NamedTuple):
    """How a tuning went: epochs run, the best of them, its validation metrics."""

    epochs: int
    best_epoch: int
    validation: dict[str, float]


def tune_model(
    model: SequenceEncoder,
    batches: TrainingBatches,
    validate: Callable[[], dict[str, float]],
    config: EncoderConfig,
    log: Callable[[dict[str, Any]], None],
) -> Tuning:
    """Trains a model in place; it ends with the weights of its best validation epoch.

    Every training instance is seen once an epoch, in an order that depends on the batches'
    seed and the epoch alone. Dropout and noise draw from torch's global generator, which the
    caller seeds, as `tune` does.

    Args:
        model: the model.
        batches: all training instances.
        validate: the model's metrics over all validation users, `NDCG@10` among them.
        config: optimisation and stopping.
        log: called with an `event`: each `step` with its number and about how many there are,
            each `epoch` with its number, loss, validation metric and seconds.
    """
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    best, best_weights = Tuning(0, 0, {SELECTION_METRIC: -1.0}), {}
    epoch = 0
    while epoch < config.max_epochs and epoch - best.best_epoch < config.patience:
        epoch += 1
        started = time.perf_counter()
        loss = _train_epoch(model, optimizer, batches, epoch, log)
        metrics = validate()
        if metrics[SELECTION_METRIC] > best.validation[SELECTION_METRIC]:
            best = Tuning(epoch, epoch, metrics)
            best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        log(
            {
                "event": "epoch",
                "epoch": epoch,
                "loss": loss,
                SELECTION_METRIC: metrics[SELECTION_METRIC],
                "best_epoch": best.best_epoch,
                "seconds": time.perf_counter() - started,
            }
        )
    model.load_state_dict(best_weights)
    return best._replace(epochs=epoch)


def _train_epoch(
    model: SequenceEncoder,
    optimizer: torch.optim.Optimizer,
    batches: TrainingBatches,
    epoch: int,
    log: Callable[[dict[str, Any]], None],
) -> float:
    """One pass over the training instances; returns their mean loss."""
    model.train()
    device = next(model.parameters()).device
    total, count, steps = torch.zeros((), device=device), 0, batches.steps_about
    for step, batch in enumerate(batches.epoch(epoch), start=1):
        tensors = to_tensors(batch, device)
        loss = model.loss(tensors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(tensors.slots)
        count += len(tensors.slots)
        log({"event": "step", "epoch": epoch, "step": step, "steps": steps})
    return float(total) / count
