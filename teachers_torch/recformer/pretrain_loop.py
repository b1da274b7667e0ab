"""Recformer's pre-training: the losses, and the one loop, which goes on after a stop."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prmkd_jax.common.errors import UserError
from teachers_torch.config import RecformerConfig, RecformerPretrainConfig
from teachers_torch.losses import require_finite
from teachers_torch.recformer.model import (
    Recformer,
    autocast,
    item_contrastive_loss,
    masked_language_loss,
)
from teachers_torch.recformer.pairs import Pairs, View
from teachers_torch.recformer.tune import adamw
from teachers_torch.states import load_state, save_state
from teachers_torch.teacher import Log
from teachers_torch.training import Stateful


class PretrainResult(NamedTuple):
    """Result of a pre-training: epochs run, the one kept, its in-batch accuracy."""

    epochs: int
    best_epoch: int
    accuracy: float


_NONE = PretrainResult(0, 0, -1.0)


@dataclasses.dataclass
class _Course:
    """A pre-training under way: where it is, beside model, optimiser and schedule.

    Attributes:
        best: the best validation so far.
        epoch: the one in progress, from 1.
        batch: batches of it that are done.
        total: sum of the losses of these batches.
        drawn: the state of the epoch's random numbers, as JSON; "" at its beginning.
    """

    best: PretrainResult = _NONE
    epoch: int = 1
    batch: int = 0
    total: float = 0.0
    drawn: str = ""


def pretraining_loss(
    model: Recformer, history: View, item: View, temperature: float, mlm_weight: float
) -> Float[Tensor, ""]:
    """IIC + weight · (MLM of the histories + MLM of the items), rows belonging together."""
    assert model.lm_head is not None
    encoder = model.longformer
    loss = item_contrastive_loss(
        encoder.pooled(history.tokens).float(), encoder.pooled(item.tokens).float(), temperature
    )
    for view in (history, item):
        hidden = encoder(view.masked)
        loss = loss + mlm_weight * masked_language_loss(model.lm_head, hidden, view.labels)
    return loss


def in_batch_accuracy(
    histories: Float[Tensor, "rows width"], items: Float[Tensor, "rows width"]
) -> float:
    """Share of the rows whose own item is the nearest of the batch by cosine."""
    cosines = F.normalize(histories, dim=-1) @ F.normalize(items, dim=-1).T
    own = torch.arange(len(cosines), device=cosines.device)
    return float((cosines.argmax(dim=1) == own).float().mean())


def train(
    model: Recformer,
    pairs: Pairs,
    config: RecformerConfig,
    pretraining: RecformerPretrainConfig,
    seed: int,
    log: Log,
    keep: Callable[[PretrainResult], None],
    state_file: Path,
    identity: str,
) -> PretrainResult:
    """All epochs that are left of a pre-training, which ends as if it had never stopped.

    Args:
        model: trained in place.
        pairs: the pairs that it is trained on.
        config: the model's settings.
        pretraining: optimisation.
        seed: seed of the parts, pairs, masks and batches.
        log: receives `step` and `validation` events.
        keep: called whenever the weights are the best so far.
        state_file: holds the complete state after each validation, or at the step after it.
        identity: hash of all that the numbers depend on.

    Raises:
        UserError: it diverges, there are too few histories, or the state is another's or damaged.
    """
    size = pretraining.batch_size
    every = pretraining.accumulate
    validation, training = _parts(len(pairs.histories), pretraining.validation_share, seed)
    model.longformer.fix_words(config.fix_word_embeddings)
    batches = -(-len(training) // size)
    steps = pretraining.max_epochs * -(-batches // every)
    optimizer, schedule = adamw(model, pretraining.learning_rate, 0, steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    course = _resumed(state_file, identity, parts)
    while course.epoch <= pretraining.max_epochs:
        rng = np.random.default_rng([seed, course.epoch])
        started = time.perf_counter()
        unsaved = False
        shuffled = rng.permutation(training)
        if course.drawn:
            rng.bit_generator.state = json.loads(course.drawn)
        for batch in range(course.batch + 1, batches + 1):
            views = pairs.draw(shuffled[(batch - 1) * size : batch * size], rng)
            course.batch = batch
            course.total += _add_gradients(model, views, config, pretraining)
            stepped = batch % every == 0 or batch == batches
            if stepped:
                torch.nn.utils.clip_grad_norm_(trained, pretraining.max_gradient_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            log({"event": "step", "epoch": course.epoch, "step": batch, "steps": batches})
            if batch % pretraining.evaluate_every == 0 or batch == batches:
                require_finite(course.total / batch, course.epoch)
                accuracy = _accuracy(model, pairs, validation, config, size)
                if accuracy > course.best.accuracy:
                    course.best = PretrainResult(course.epoch, course.epoch, accuracy)
                    keep(course.best)
                log(_event(course, accuracy, time.perf_counter() - started))
                unsaved = True
            # Between two steps there are gradients, which no state holds.
            if unsaved and stepped:
                course.drawn = json.dumps(rng.bit_generator.state)
                unsaved = False
                save_state(state_file, _state(course, identity, parts))
        course.epoch += 1
        course.batch = 0
        course.total = 0.0
        course.drawn = ""
    return course.best._replace(epochs=pretraining.max_epochs)


def _event(course: _Course, accuracy: float, seconds: float) -> dict[str, object]:
    """A validation, as the log receives it."""
    return {
        "event": "validation",
        "epoch": course.epoch,
        "loss": course.total / course.batch,
        "accuracy": accuracy,
        "best_epoch": course.best.best_epoch,
        "seconds": seconds,
    }


def _state(course: _Course, identity: str, parts: dict[str, Stateful]) -> dict[str, object]:
    """All that a pre-training goes on from."""
    return {
        "identity": identity,
        "course": {**vars(course), "best": list(course.best)},
        **{name: part.state_dict() for name, part in parts.items()},
    }


def _resumed(path: Path, identity: str, parts: dict[str, Stateful]) -> _Course:
    """Restores a stopped pre-training; returns where it was.

    Raises:
        UserError: the state is of another pre-training, or damaged.
    """
    state = load_state(path)
    if state is None:
        return _Course()
    if state["identity"] != identity:
        raise UserError(
            f"{path}: found a pre-training of other settings or data, expected the same to go "
            "on with (delete it to start over)"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    found = state["course"]
    return _Course(**{**found, "best": PretrainResult(*found["best"])})


def _parts(
    count: int, share: float, seed: int
) -> tuple[Int[np.ndarray, " validation"], Int[np.ndarray, " training"]]:
    """Histories to validate on and to train on.

    Raises:
        UserError: there are too few.
    """
    order = np.random.default_rng([seed, 0]).permutation(count)
    held_out = max(2, round(share * count))
    if count - held_out < 2:
        raise UserError(f"--domains: found {count} histories, expected at least 4")
    return order[:held_out], order[held_out:]


def _add_gradients(
    model: Recformer,
    views: tuple[View, View],
    config: RecformerConfig,
    pretraining: RecformerPretrainConfig,
) -> float:
    """Adds a batch's share of a step's gradients; returns its loss."""
    model.train()
    device = next(model.parameters()).device
    history, item = (view.to(device) for view in views)
    with autocast(config, device):
        loss = pretraining_loss(model, history, item, config.temperature, pretraining.mlm_weight)
    (loss / pretraining.accumulate).backward()
    return float(loss.detach())


@torch.inference_mode()
def _accuracy(
    model: Recformer,
    pairs: Pairs,
    rows: Int[np.ndarray, " rows"],
    config: RecformerConfig,
    batch_size: int,
) -> float:
    """In-batch accuracy over pairs that are the same at every call."""
    model.eval()
    device = next(model.parameters()).device
    rng = np.random.default_rng(0)
    right = 0.0
    for at in range(0, len(rows), batch_size):
        views = pairs.draw(rows[at : at + batch_size], rng)
        with autocast(config, device):
            pooled = [model.longformer.pooled(view.tokens.to(device)) for view in views]
        right += in_batch_accuracy(pooled[0].float(), pooled[1].float()) * len(pooled[0])
    return right / len(rows)
