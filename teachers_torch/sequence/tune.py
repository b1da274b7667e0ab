"""Tuning a teacher: Adam on packed batches, stopped early on validation NDCG@10."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from prmkd_jax.data.batches import Batch, TrainingBatches
from teachers_torch.config import EncoderConfig
from teachers_torch.sequence.encoder import SequenceModel, to_tensors
from teachers_torch.teacher import Log, Tuning
from teachers_torch.training import TuningStage, train_epoch, tune_in_stages


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
        state_file: see `tune_in_stages`.

    Raises:
        UserError: the state file is damaged, or the tuning diverges.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )

    def loss_of(batch: Batch) -> tuple[Tensor, int]:
        tensors = to_tensors(batch, next(model.parameters()).device)
        return model.loss(tensors), len(tensors.slots)

    def train(epoch: int) -> float:
        steps = batches.steps_about
        return train_epoch(model, optimizer, batches.epoch(epoch), loss_of, epoch, steps, log)

    stage = TuningStage(config.max_epochs, config.patience, train)
    parts = {"optimizer": optimizer}
    return tune_in_stages(model, parts, [stage], validate, log, state_file=state_file)
