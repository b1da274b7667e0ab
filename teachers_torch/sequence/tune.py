"""Tuning a teacher: Adam on packed batches, stopped early on validation NDCG@10."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from prmkd_jax.data.batches import TrainingBatches
from teachers_torch.config import EncoderConfig
from teachers_torch.losses import require_finite
from teachers_torch.sequence.encoder import SequenceModel, to_tensors
from teachers_torch.states import load_state, save_state
from teachers_torch.teacher import SELECTION_METRIC, Log, Tuning


def tune_model(
    model: SequenceModel,
    batches: TrainingBatches,
    validate: Callable[[], dict[str, float]],
    config: EncoderConfig,
    log: Log,
    state_file: Path | None = None,
) -> Tuning:
    """Trains a model in place; it ends with the weights of its best validation epoch.

    Every training instance is seen once an epoch, in an order that depends on the batches'
    seed and the epoch alone. Dropout and noise draw from torch's global generator, which the
    caller seeds. Parameters that require no gradient stay as they are.

    Args:
        model: trained in place.
        batches: all training instances.
        validate: the model's metrics over all validation users, `NDCG@10` among them.
        config: optimisation and stopping.
        log: receives each `step` with its number and about how many there are, each `epoch`
            with its number, loss, validation metric and seconds.
        state_file: holds the complete state after each epoch. If it exists, the tuning
            continues from it and ends as if it had never stopped.

    Raises:
        UserError: the state file is damaged, or the tuning diverges.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    best, best_weights = Tuning(0, 0, {SELECTION_METRIC: -1.0}), {}
    epoch, seconds = 0, 0.0
    if state_file is not None and (state := load_state(state_file)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best, best_weights = Tuning(**state["best"]), state["best_weights"]
        epoch, seconds = state["epoch"], state["seconds"]
    while epoch < config.max_epochs and epoch - best.best_epoch < config.patience:
        epoch += 1
        started = time.perf_counter()
        loss = _train_epoch(model, optimizer, batches, epoch, log)
        require_finite(loss, epoch)
        metrics = validate()
        if metrics[SELECTION_METRIC] > best.validation[SELECTION_METRIC]:
            best = Tuning(epoch, epoch, metrics)
            best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        seconds += time.perf_counter() - started
        if state_file is not None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "best": best._asdict(),
                "best_weights": best_weights,
                "epoch": epoch,
                "seconds": seconds,
            }
            save_state(state_file, state)
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
    return best._replace(epochs=epoch, seconds=seconds)


def _train_epoch(
    model: SequenceModel,
    optimizer: torch.optim.Optimizer,
    batches: TrainingBatches,
    epoch: int,
    log: Log,
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
