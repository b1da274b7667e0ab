"""Models to pre-train, without IDs, and the joint items and histories of several domains."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.dataset import Dataset, Interactions
from teachers_torch.config import EncoderConfig, PretrainConfig, UniM2RecConfig, UniSRecConfig
from teachers_torch.items.inputs import (
    Modality,
    WordDrop,
    image_inputs,
    join,
    made_up,
    pixel_inputs,
    text_inputs,
)
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.items.text_files import features_digest
from teachers_torch.sequence.item_inputs import image_files_encoder
from teachers_torch.sequence.start import (
    PretrainDomain,
    PretrainFacts,
    SequenceStart,
    begin_from,
    model_facts,
    read_sequence_start,
    require_image_encoder,
)
from teachers_torch.sequence.unim2rec import IMAGE, UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import seeded
from teachers_torch.teacher import Log

FREE = ("epochs", "save_every")
"""Settings that a stopped pre-training may change: how far it is to go, and what it leaves."""


class PretrainTask(NamedTuple):
    """A model to pre-train and the rows of its item table.

    Attributes:
        model: without IDs, which mean nothing in another domain.
        config: the encoder's settings.
        num_items: items N of all domains. Row 0 of the item table is [PAD], rows 1 … N are the
            items, and each augmentation reads the items from N rows of its own after these.
        variants: number of these augmentations.
        start: description of what the weights began from; None where they are random.
    """

    model: UniSRec | UniM2Rec
    config: EncoderConfig
    num_items: int
    variants: int
    start: str | None


def join_interactions(domains: Sequence[Dataset]) -> Interactions:
    """The histories of all domains, one domain's users and items after the other's."""
    ends = np.cumsum([domain.num_items for domain in domains])
    items = [
        domain.interactions.items + (end - domain.num_items)
        for domain, end in zip(domains, ends, strict=True)
    ]
    lengths = np.concatenate([domain.interactions.lengths for domain in domains])
    return Interactions(offsets_of(lengths), np.concatenate(items).astype(np.int32))


class FeatureRequest(NamedTuple):
    """What features are read for, and by which settings."""

    domains: Sequence[Dataset]
    settings: TeacherSettings
    config: PretrainConfig
    seed: int
    cache: Cache
    log: Log


Make = Callable[[TeacherSettings, Sequence[Modality], PixelEncoder | None], UniSRec | UniM2Rec]


class Family(NamedTuple):
    """What is pre-trained under a name in `--init`.

    Attributes:
        config: class of its settings.
        read: the features of all domains' items; a part with images is the second one.
        make: the model over them, and over an encoder of raw pixels where there are some.
        variants: see `PretrainTask`.
        more_read: see `teacher.Pretraining`.
        image_encoder: identity of the encoder that reads a data set's image files, if one does.
    """

    config: type[UniSRecConfig] | type[UniM2RecConfig]
    read: Callable[[FeatureRequest], list[Modality]]
    make: Make
    variants: int
    more_read: Callable[[Dataset, TeacherSettings], dict[str, object]] = lambda _, __: {}
    image_encoder: Callable[[Dataset, TeacherSettings], str | None] = lambda _, __: None


def _read_unisrec(request: FeatureRequest) -> list[Modality]:
    """The texts, and below them the same texts without some of their words."""
    domains, settings, config, seed, cache, log = request
    norm = settings.get(UniSRecConfig).feature_norm
    drop = WordDrop(config.word_drop, seed)
    texts = join([text_inputs(d, settings.text, norm, cache, log) for d in domains])
    dropped = join([text_inputs(d, settings.text, norm, cache, log, drop) for d in domains])
    return [join([texts, dropped])]


def _dropped_texts(domain: Dataset, settings: TeacherSettings) -> dict[str, object]:
    """The file of the texts without some of their words, where they are given."""
    if not settings.text.text_features:
        return {}
    return {"dropped_texts": features_digest(settings.text, domain.name, dropped=True)}


def _read_unim2rec(request: FeatureRequest) -> list[Modality]:
    domains, settings, _, _, cache, log = request
    norm = settings.get(UniM2RecConfig).feature_norm
    modalities = [join([text_inputs(d, settings.text, norm, cache, log) for d in domains])]
    if _pixels_shape(domains) is not None:
        modalities.append(join([pixel_inputs(domain) for domain in domains]))
    elif any(_has_images(domain) for domain in domains):
        modalities.append(join([_images(d, settings, cache, log) for d in domains]))
    return modalities


def _make_unisrec(
    settings: TeacherSettings, modalities: Sequence[Modality], vision: PixelEncoder | None
) -> UniSRec:
    config, features = settings.get(UniSRecConfig), modalities[0].features
    return UniSRec(config, features, settings.max_seq_len, transductive=False)


def _make_unim2rec(
    settings: TeacherSettings, modalities: Sequence[Modality], vision: PixelEncoder | None
) -> UniM2Rec:
    config = settings.get(UniM2RecConfig)
    return UniM2Rec(config, modalities, settings.max_seq_len, has_ids=False, vision=vision)


FAMILIES = {
    "unisrec": Family(
        UniSRecConfig, _read_unisrec, _make_unisrec, variants=1, more_read=_dropped_texts
    ),
    "unim2rec": Family(
        UniM2RecConfig,
        _read_unim2rec,
        _make_unim2rec,
        variants=2,
        image_encoder=image_files_encoder,
    ),
}


def build(
    family: str,
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: PretrainConfig,
    seed: int,
    cache: Cache,
    log: Log,
) -> PretrainTask:
    """The model over the items of all domains, with random weights or those of `--init`.

    Raises:
        UserError: inputs or initial weights are missing or wrong.
    """
    chosen = FAMILIES[family]
    modalities = chosen.read(FeatureRequest(domains, settings, config, seed, cache, log))
    model, start = _begun(family, domains, settings, modalities)
    num_items = sum(domain.num_items for domain in domains)
    return PretrainTask(model, settings.get(chosen.config), num_items, chosen.variants, start)


def check_start(
    family: str,
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    widths: Sequence[Sequence[int]],
) -> None:
    """Checks that the domains' features and the weights of `--init` go together.

    Args:
        family: the teacher family, as in `build`.
        domains: the data sets, as in `build`.
        settings: the teachers' settings, as in `build`.
        widths: for each domain the widths of its texts' features and of its images', if any.

    Raises:
        UserError: they don't, or the weights are missing or damaged.
    """
    made = [[made_up(width) for width in own] for own in widths]
    none = Modality(np.zeros((2, 0), np.float32), np.zeros(2, bool))
    count = max(len(own) for own in widths)
    modalities = [
        join([own[index] if index < len(own) else none for own in made]) for index in range(count)
    ]
    with seeded(0):
        _begun(family, domains, settings, modalities)


def _begun(
    family: str,
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    modalities: Sequence[Modality],
) -> tuple[UniSRec | UniM2Rec, str | None]:
    """The model, and a description of what it begins from; None where that is random."""
    chosen = FAMILIES[family]
    start = read_sequence_start(family, settings.get(chosen.config), settings)
    shape = _pixels_shape(domains) if len(modalities) > IMAGE else None
    model = chosen.make(settings, modalities, _vision(start, shape))
    if start is None:
        return model, None
    encoders = [chosen.image_encoder(domain, settings) for domain in domains]
    require_image_encoder(start, encoders, settings)
    begin_from(model, start, freeze=False)
    return model, start.description


def _vision(start: SequenceStart | None, shape: tuple[int, int, int] | None) -> PixelEncoder | None:
    """The encoder of raw images of this shape: the start's, else a new one.

    Raises:
        UserError: the start's reads images of another shape.
    """
    if start is None or start.vision is None:
        return None if shape is None else PixelEncoder(shape)
    if start.vision.image_shape != shape:
        raise UserError(
            f"--domains: found {'no raw images' if shape is None else f'images of {shape}'}, "
            f"expected images of {start.vision.image_shape} in all, as those of what --init names"
        )
    return start.vision


def _pixels_shape(domains: Sequence[Dataset]) -> tuple[int, int, int] | None:
    """The shape of all domains' raw images; None where it isn't one."""
    shapes = {domain.catalogue.image_shape for domain in domains}
    return next(iter(shapes)) if len(shapes) == 1 else None


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
    facts: PretrainFacts = {
        "teacher": family,
        "domains": [_described(family, domain, settings) for domain in domains],
        "model": model_facts(family, task.config, settings),
        "settings": dataclasses.asdict(task.config),
        "pretraining": dataclasses.asdict(config),
        "seed": seed,
        "image_shape": None if vision is None else list(vision.image_shape),
    }
    if task.start is not None:
        facts["start"] = task.start
    return facts


def _described(family: str, domain: Dataset, settings: TeacherSettings) -> PretrainDomain:
    described: PretrainDomain = {
        "name": domain.name,
        "fingerprint": domain.fingerprint,
        "users": domain.num_users,
        "items": domain.num_items,
        "interactions": len(domain.interactions.items),
    }
    encoder = FAMILIES[family].image_encoder(domain, settings)
    if encoder is not None:
        described["image_encoder"] = encoder
    return described


def identity(facts: PretrainFacts) -> str:
    """Hash of what a pre-training under way must not change: all but how far it is to go."""
    kept = ("teacher", "domains", "model", "settings", "seed", "start")
    fixed = {key: value for key, value in facts.items() if key in kept}
    fixed["pretraining"] = {
        key: value for key, value in facts["pretraining"].items() if key not in FREE
    }
    return content_digest(fixed)
