"""The teachers there are, and how each is built from a data set."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import TEACHERS, EncoderConfig, TeacherConfigs
from teachers_torch.given.plugin import OwnTeacher
from teachers_torch.given.precomputed import PrecomputedTeacher
from teachers_torch.items.inputs import Log, Modality, hide, image_inputs, pixel_inputs, text_inputs
from teachers_torch.items.pixels import PixelEncoder, encode_pixels
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.start import build_model, load_start, make_reader
from teachers_torch.sequence.encoder import SequenceModel
from teachers_torch.sequence.start import begin_from, read_start
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.unim2rec import UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec


class Recipe(NamedTuple):
    """How a tuned teacher comes about.

    Attributes:
        family: whose checkpoints it starts from, one of `CHECKPOINTED`.
        config: its settings.
        inputs: what it knows of a data set's items, its pixels read by a vision encoder
            where one is given.
        model: the untuned model that reads these inputs.
    """

    family: str
    config: Callable[[TeacherConfigs], EncoderConfig]
    inputs: Callable[[Dataset, TeacherConfigs, PixelEncoder | None, Path, Log], list[Modality]]
    model: Callable[[TeacherConfigs, Sequence[Modality]], SequenceModel]


def build(
    name: str, dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> TunedTeacher | RecformerTeacher | PrecomputedTeacher | OwnTeacher:
    """A teacher before tuning, fresh weights drawn from torch's global generator.

    Raises:
        UserError: there is no such teacher, or its inputs are missing or wrong.
    """
    require_known(name)
    if name == PrecomputedTeacher.name:
        return PrecomputedTeacher(configs.precomputed, dataset)
    if name == RecformerTeacher.name:
        return _build_recformer(dataset, configs, cache_dir, log)
    if name not in RECIPES:
        return OwnTeacher(name, dataset)
    recipe = RECIPES[name]
    config = recipe.config(configs)
    require_batch_size(config, configs.max_seq_len)
    start = read_start(recipe.family, config, configs)
    vision = None if start is None else start.vision
    model = recipe.model(configs, recipe.inputs(dataset, configs, vision, cache_dir, log))
    if start is not None:
        begin_from(model, start, freeze=config.freeze_encoder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    origin = "random" if start is None else start.description
    return TunedTeacher(
        name, model.to(device), dataset.interactions, config, configs.max_seq_len, origin
    )


def require_known(name: str) -> None:
    """Refuses a name that is no teacher's.

    Raises:
        UserError: listing the known ones.
    """
    if name not in TEACHERS:
        raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(TEACHERS)}")


def require_batch_size(config: EncoderConfig, max_seq_len: int) -> None:
    """Refuses batches that the longest prefix doesn't fit in.

    Raises:
        UserError: naming both flags.
    """
    if config.batch_size < max_seq_len:
        raise UserError(
            f"--{config.prefix}batch_size: found {config.batch_size}, expected at least "
            f"--max_seq_len={max_seq_len}"
        )


def require_inputs(name: str, dataset: Dataset) -> None:
    """Refuses a data set without what a teacher can't do without.

    Raises:
        UserError: there are no pictures for unim2rec.
    """
    known = dataset.catalogue.image_features is not None or dataset.catalogue.image_paths
    if name == "unim2rec" and not known:
        raise UserError(
            f"data set {dataset.name}: found no pictures, expected some for unim2rec, or "
            "--teachers without it"
        )


def _read_texts(
    dataset: Dataset, configs: TeacherConfigs, _: PixelEncoder | None, cache_dir: Path, log: Log
) -> list[Modality]:
    return [text_inputs(dataset, configs.text, configs.unisrec.feature_norm, cache_dir, log)]


def _read_texts_and_images(
    dataset: Dataset,
    configs: TeacherConfigs,
    vision: PixelEncoder | None,
    cache_dir: Path,
    log: Log,
) -> list[Modality]:
    norm = configs.unim2rec.feature_norm
    if vision is None:
        images = image_inputs(dataset, configs.image, norm, cache_dir, log)
    else:
        pixels, available = pixel_inputs(dataset)
        images = Modality(encode_pixels(vision, pixels), available)
    images = hide(images, configs.unim2rec.hide_images)
    return [text_inputs(dataset, configs.text, norm, cache_dir, log), images]


def _unisrec(configs: TeacherConfigs, inputs: Sequence[Modality], *, transductive: bool) -> UniSRec:
    vectors = inputs[0].features
    return UniSRec(configs.unisrec, vectors, configs.max_seq_len, transductive=transductive)


def _unim2rec(configs: TeacherConfigs, inputs: Sequence[Modality]) -> UniM2Rec:
    has_ids = configs.unim2rec.id_embedding
    return UniM2Rec(configs.unim2rec, inputs, configs.max_seq_len, has_ids=has_ids)


def _build_recformer(
    dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> RecformerTeacher:
    config = configs.recformer
    start = load_start(config, configs.max_seq_len)
    model = build_model(start, config, num_items=dataset.num_items)
    reader = make_reader(start, dataset.catalogue, config, configs.max_seq_len, cache_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RecformerTeacher(
        model.to(device), dataset.interactions, reader, config, config.start, log
    )


RECIPES = {
    "unisrec-text": Recipe(
        "unisrec",
        lambda configs: configs.unisrec,
        _read_texts,
        functools.partial(_unisrec, transductive=False),
    ),
    "unisrec": Recipe(
        "unisrec",
        lambda configs: configs.unisrec,
        _read_texts,
        functools.partial(_unisrec, transductive=True),
    ),
    "unim2rec": Recipe(
        "unim2rec", lambda configs: configs.unim2rec, _read_texts_and_images, _unim2rec
    ),
}
