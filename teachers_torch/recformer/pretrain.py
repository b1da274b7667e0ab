"""Pre-training Recformer on other domains: item-item contrast and masked words.

Pairs, masks and losses are those of arXiv 2305.13731 (section 2.3) and its
official code; the loop is in `pretrain_loop`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import RecformerPretrainConfig
from teachers_torch.recformer.official import CARD, TOKENIZER, WEIGHTS, save_start
from teachers_torch.recformer.pairs import DomainHistory, Pairs
from teachers_torch.recformer.pretrain_loop import PretrainResult, train
from teachers_torch.recformer.start import (
    RecformerStart,
    build_model,
    configured,
    load_start,
    make_reader,
    start_identity,
)
from teachers_torch.recformer.tokens import attributes
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import BEFORE, best_device, remove_state, seeded
from teachers_torch.teacher import Log

STATE = "state.pt"


def written(config: RecformerPretrainConfig) -> tuple[list[str], list[str]]:
    """The files of a finished pre-training, and those that may be there as well."""
    tokenizer = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    optional = [STATE, STATE + BEFORE, *(f"{TOKENIZER}/{file}" for file in tokenizer)]
    return [WEIGHTS, CARD], optional


def pretrain(
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: RecformerPretrainConfig,
    folder: Path,
    *,
    cache: Cache,
    seed: int,
    log: Log,
) -> PretrainResult:
    """Trains on the complete histories of some domains, a user of two domains being two.

    `folder` holds the best weights so far from the first validation on; tuning begins from
    them with `--init=recformer=<folder>`. The complete state is saved there at validations, so
    a stopped pre-training goes on with the same numbers. torch's global random state is left as
    it was.

    Args:
        domains: none of them may be tuned on later.
        settings: the model, its initial weights, the longest history.
        config: optimisation.
        cache: holds the domains' tokens.
        seed: seed of weights, pairs, masks, batches and dropout.
        log: receives each `step` with its number and how many an epoch has, each `validation`
            with epoch, loss, accuracy and seconds.

    Raises:
        UserError: there are no initial weights, their tokenizer has no mask, there are too few
            histories, it diverges, or the folder holds the state of another pre-training.
    """
    own = configured(settings)
    max_items = settings.max_seq_len
    identity = _identity(domains, settings, config, seed)
    if (done := _finished(folder, identity)) is not None:
        remove_state(folder / STATE)  # a kill may have come before it was
        return done
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
            "identity": identity,
            "finished": False,
        }

        def keep(result: PretrainResult) -> None:
            save_start(model, tokenizer, {**card, **result._asdict()}, folder)

        found = train(model, pairs, own, config, seed, log, keep, folder / STATE, identity)
    found_card = read_sealed_json(folder / CARD)
    write_sealed_json(folder / CARD, {**found_card, **found._asdict(), "finished": True})
    remove_state(folder / STATE)
    return found


def _identity(
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: RecformerPretrainConfig,
    seed: int,
) -> str:
    """Hash of all that the numbers depend on."""
    own = configured(settings)
    content = {
        "model": {**dataclasses.asdict(own), "init": start_identity(own)},
        "max_seq_len": settings.max_seq_len,
        "pretraining": dataclasses.asdict(config),
        "domains": [domain.fingerprint for domain in domains],
        "seed": seed,
    }
    return content_digest(content)


def _finished(folder: Path, identity: str) -> PretrainResult | None:
    """The result of the same pre-training, if the folder holds it finished."""
    try:
        card = read_sealed_json(folder / CARD)
        if card["finished"] is True and card["identity"] == identity:
            return PretrainResult(card["epochs"], card["best_epoch"], card["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _histories(
    domains: Sequence[Dataset], start: RecformerStart, settings: TeacherSettings, cache: Cache
) -> list[DomainHistory]:
    """Those of all domains' users who have one."""
    histories = []
    for dataset in domains:
        reader = make_reader(
            start, dataset.catalogue, configured(settings), settings.max_seq_len, cache
        )
        users = np.split(dataset.interactions.items, dataset.interactions.indptr[1:-1])
        histories += [DomainHistory(reader, items) for items in users if len(items)]
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


def _require_mask(token: object, init: str) -> None:
    if token is None:
        raise UserError(f"--init: recformer={init}: found a tokenizer without a mask token")
