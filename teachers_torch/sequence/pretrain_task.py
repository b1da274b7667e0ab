"""Models to pre-train, without IDs, and the joint items and histories of several domains."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.files import content_digest
from prmkd_jax.data.dataset import Dataset, Interactions
from teachers_torch.config import EncoderConfig, PretrainConfig, UniM2RecConfig, UniSRecConfig
from teachers_torch.items.inputs import (
    Modality,
    WordDrop,
    image_inputs,
    join,
    pixel_inputs,
    text_inputs,
)
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.sequence.start import PretrainFacts, model_facts
from teachers_torch.sequence.unim2rec import UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import Log


class PretrainTask(NamedTuple):
    """A model to pre-train and the rows of its item table.

    Attributes:
        model: without IDs, which mean nothing in another domain.
        config: its settings.
        num_items: items N of all domains. Row 0 of the item table is [PAD], rows 1 … N are the
            items, and each augmentation reads the items from N rows of its own after these.
        variants: number of these augmentations.
    """

    model: UniSRec | UniM2Rec
    config: EncoderConfig
    num_items: int
    variants: int


def join_interactions(domains: Sequence[Dataset]) -> Interactions:
    """The histories of all domains, one domain's users and items after the other's."""
    ends = np.cumsum([domain.num_items for domain in domains])
    items = [
        domain.interactions.items + (end - domain.num_items)
        for domain, end in zip(domains, ends, strict=True)
    ]
    lengths = np.concatenate([domain.interactions.lengths for domain in domains])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Interactions(indptr, np.concatenate(items).astype(np.int32))


def _build_unisrec(
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: PretrainConfig,
    seed: int,
    cache: Cache,
    log: Log,
) -> PretrainTask:
    own = settings.get(UniSRecConfig)
    norm = own.feature_norm
    drop = WordDrop(config.word_drop, seed)
    texts = join([text_inputs(d, settings.text, norm, cache, log) for d in domains])
    dropped = join([text_inputs(d, settings.text, norm, cache, log, drop) for d in domains])
    vectors = np.concatenate([texts.features, dropped.features])
    model = UniSRec(own, vectors, settings.max_seq_len, transductive=False)
    return PretrainTask(model, own, len(texts.available), variants=1)


def _build_unim2rec(
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: PretrainConfig,
    seed: int,
    cache: Cache,
    log: Log,
) -> PretrainTask:
    own = settings.get(UniM2RecConfig)
    texts = [text_inputs(d, settings.text, own.feature_norm, cache, log) for d in domains]
    modalities, vision = [join(texts)], None
    shapes = {domain.catalogue.image_shape for domain in domains}
    if shapes != {None} and len(shapes) == 1:
        vision = PixelEncoder(next(shape for shape in shapes if shape is not None))
        modalities.append(join([pixel_inputs(domain) for domain in domains]))
    elif any(_has_images(domain) for domain in domains):
        modalities.append(join([_images(d, settings, cache, log) for d in domains]))
    model = UniM2Rec(own, modalities, settings.max_seq_len, has_ids=False, vision=vision)
    return PretrainTask(model, own, len(modalities[0].available), variants=2)


BUILD = {"unisrec": _build_unisrec, "unim2rec": _build_unim2rec}


def _has_images(domain: Dataset) -> bool:
    catalogue = domain.catalogue
    return catalogue.image_features is not None or catalogue.image_paths is not None


def _images(domain: Dataset, settings: TeacherSettings, cache: Cache, log: Log) -> Modality:
    if _has_images(domain):
        norm = settings.get(UniM2RecConfig).feature_norm
        return image_inputs(domain, settings.image, norm, cache, log)
    return Modality(np.zeros((domain.num_items, 0), np.float32), np.zeros(domain.num_items, bool))


def describe(
    family: str,
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: PretrainConfig,
    task: PretrainTask,
    seed: int,
) -> PretrainFacts:
    """Description of a checkpoint; JSON values."""
    vision = getattr(task.model, "vision", None)
    return {
        "teacher": family,
        "domains": [
            {
                "name": domain.name,
                "fingerprint": domain.fingerprint,
                "users": domain.num_users,
                "items": domain.num_items,
                "interactions": len(domain.interactions.items),
            }
            for domain in domains
        ],
        "model": model_facts(family, task.config, settings),
        "settings": dataclasses.asdict(task.config),
        "pretraining": dataclasses.asdict(config),
        "seed": seed,
        "image_shape": None if vision is None else list(vision.image_shape),
    }


def identity(facts: PretrainFacts) -> str:
    """Hash of what a pre-training under way must not change: all but how far it is to go."""
    fixed = {key: facts[key] for key in ("teacher", "domains", "model", "settings", "seed")}
    fixed["pretraining"] = {
        key: value
        for key, value in facts["pretraining"].items()
        if key not in ("epochs", "save_every")
    }
    return content_digest(fixed)
