"""Pre-training Recformer on other domains: item-item contrast and masked words.

Pairs, masks and losses are those of arXiv 2305.13731 (section 2.3) and its
official code.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import RecformerConfig, RecformerPretrainConfig, TeacherSettings
from teachers_torch.recformer.model import (
    Recformer,
    autocast,
    item_contrastive_loss,
    masked_language_loss,
)
from teachers_torch.recformer.official import CARD, TOKENIZER, WEIGHTS, save_start
from teachers_torch.recformer.pairs import History, Pairs, View
from teachers_torch.recformer.start import Start, build_model, configured, load_start, make_reader
from teachers_torch.recformer.tokens import attributes
from teachers_torch.recformer.tune import adamw
from teachers_torch.states import best_device, seeded
from teachers_torch.teacher import Log


class Pretraining(NamedTuple):
    """Result of a pre-training: epochs run, the one kept, its in-batch accuracy."""

    epochs: int
    best_epoch: int
    accuracy: float


def written(config: RecformerPretrainConfig) -> tuple[list[str], list[str]]:
    """The files of a finished pre-training, and those that may be there as well."""
    tokenizer = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    return [WEIGHTS, CARD], [f"{TOKENIZER}/{file}" for file in tokenizer]


def pretrain(
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: RecformerPretrainConfig,
    folder: Path,
    *,
    cache: Cache,
    seed: int,
    log: Log,
) -> Pretraining:
    """Trains on the complete histories of some domains, a user of two domains being two.

    `folder` holds the best weights so far from the first validation on; tuning begins from
    them with `--init=recformer=<folder>`. torch's global random state is left as it was.

    Args:
        domains: none of them may be tuned on later.
        settings: the model, its initial weights, the longest history.
        config: optimisation.
        cache: holds the domains' tokens.
        seed: seed of weights, pairs, masks, batches and dropout.
        log: receives each `step` with its number and how many an epoch has, each `validation`
            with epoch, loss, accuracy and seconds.

    Raises:
        UserError: there are no initial weights, their tokenizer has no mask, or there are too
            few histories.
    """
    own = configured(settings)
    max_items = settings.max_seq_len
    with seeded(seed):
        start = load_start(own, max_items)
        tokenizer = start.tokenizer
        _require_mask(tokenizer.mask_token_id, own.init)
        histories = _histories(domains, start, settings, cache)
        mask_id = cast(int, tokenizer.mask_token_id)
        pairs = Pairs(histories, mask_id, len(tokenizer), config.mlm_share)
        model = build_model(start, own, language_head=True).to(best_device())
        card = {
            "start": own.init,
            "domains": [dataset.name for dataset in domains],
            "histories": len(histories),
            "seed": seed,
            "settings": dataclasses.asdict(config),
        }

        def keep(result: Pretraining) -> None:
            save_start(model, tokenizer, {**card, **result._asdict()}, folder)

        return _train(model, pairs, own, config, seed, log, keep)


def _histories(
    domains: Sequence[Dataset], start: Start, settings: TeacherSettings, cache: Cache
) -> list[History]:
    """Those of all domains' users who have one."""
    histories = []
    for dataset in domains:
        reader = make_reader(
            start, dataset.catalogue, configured(settings), settings.max_seq_len, cache
        )
        users = np.split(dataset.interactions.items, dataset.interactions.indptr[1:-1])
        histories += [History(reader, items) for items in users if len(items)]
    return histories


def check_pretraining(domains: Sequence[Dataset], settings: TeacherSettings, cache: Cache) -> None:
    """Checks that the domains have texts, and loads initial weights and tokenizer.

    Raises:
        UserError: as `pretrain`.
    """
    own = configured(settings)
    for domain in domains:
        attributes(domain.catalogue)
    with seeded(0):
        start = load_start(own, settings.max_seq_len)
        build_model(start, own, language_head=True)
    _require_mask(start.tokenizer.mask_token_id, own.init)


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


def _require_mask(token: object, init: str) -> None:
    if token is None:
        raise UserError(f"--init: recformer={init}: found a tokenizer without a mask token")


def _train(
    model: Recformer,
    pairs: Pairs,
    config: RecformerConfig,
    pretraining: RecformerPretrainConfig,
    seed: int,
    log: Log,
    keep: Callable[[Pretraining], None],
) -> Pretraining:
    """The optimisation; `keep` is called whenever the weights are the best so far."""
    size, every = pretraining.batch_size, pretraining.accumulate
    validation, training = _parts(len(pairs.histories), pretraining.validation_share, seed)
    model.longformer.fix_words(config.fix_word_embeddings)
    batches = -(-len(training) // size)
    steps = pretraining.max_epochs * -(-batches // every)
    optimizer, schedule = adamw(model, pretraining.learning_rate, 0, steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    best = Pretraining(0, 0, -1.0)
    for epoch in range(1, pretraining.max_epochs + 1):
        rng, started, total = np.random.default_rng([seed, epoch]), time.perf_counter(), 0.0
        shuffled = rng.permutation(training)
        for batch in range(1, batches + 1):
            views = pairs.draw(shuffled[(batch - 1) * size : batch * size], rng)
            total += _add_gradients(model, views, config, pretraining)
            if batch % every == 0 or batch == batches:
                torch.nn.utils.clip_grad_norm_(trained, pretraining.max_gradient_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            log({"event": "step", "epoch": epoch, "step": batch, "steps": batches})
            if batch % pretraining.evaluate_every and batch < batches:
                continue
            accuracy = _accuracy(model, pairs, validation, config, size)
            if accuracy > best.accuracy:
                best = Pretraining(epoch, epoch, accuracy)
                keep(best)
            log(
                {
                    "event": "validation",
                    "epoch": epoch,
                    "loss": total / batch,
                    "accuracy": accuracy,
                    "best_epoch": best.best_epoch,
                    "seconds": time.perf_counter() - started,
                }
            )
    return best._replace(epochs=pretraining.max_epochs)


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
    device, rng, right = next(model.parameters()).device, np.random.default_rng(0), 0.0
    for at in range(0, len(rows), batch_size):
        views = pairs.draw(rows[at : at + batch_size], rng)
        with autocast(config, device):
            pooled = [model.longformer.pooled(view.tokens.to(device)) for view in views]
        right += in_batch_accuracy(pooled[0].float(), pooled[1].float()) * len(pooled[0])
    return right / len(rows)
