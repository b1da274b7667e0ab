"""What a teacher is made of, checked before the hours and before anything is written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_class
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import OWN_GROUP, TeacherConfigs
from teachers_torch.given.precomputed import PrecomputedTeacher
from teachers_torch.items.image import feature_width, image_features
from teachers_torch.items.inputs import Modality, pixel_inputs
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.items.text import item_sentences, vector_width
from teachers_torch.items.text_files import read_text_features
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.start import build_model, load_start
from teachers_torch.registry import RECIPES, require_batch_size, require_inputs, require_known
from teachers_torch.sequence.start import begin_from, read_start
from teachers_torch.tuning import seeded


def check_inputs(name: str, dataset: Dataset, configs: TeacherConfigs, cache_dir: Path) -> None:
    """Loads what a teacher begins with and reads, without encoding or tuning anything.

    An encoder whose vectors aren't in the cache is loaded and reads one item. torch's global
    random state is left as it was.

    Raises:
        UserError: as `teachers_torch.registry.build`.
    """
    require_known(name)
    require_inputs(name, dataset)
    if name == PrecomputedTeacher.name:
        PrecomputedTeacher(configs.precomputed, dataset)
    elif name == RecformerTeacher.name:
        with seeded(0):
            build_model(load_start(configs.recformer, configs.max_seq_len), configs.recformer)
    elif name in RECIPES:
        _check_recipe(name, dataset, configs, cache_dir)
    else:
        own_class(OWN_GROUP, name, "teachers")


def check_pretraining(
    name: str, domains: Sequence[Dataset], configs: TeacherConfigs, cache_dir: Path
) -> None:
    """Loads what a pre-training begins with and reads, as `check_inputs` does for a tuning.

    Raises:
        UserError: as the pre-training.
    """
    if name == RecformerTeacher.name:
        with seeded(0):
            start = load_start(configs.recformer, configs.max_seq_len)
            build_model(start, configs.recformer, language_head=True)
        if start.tokenizer.mask_token_id is None:
            raise UserError(
                f"--recformer_start: found {configs.recformer.start!r} without a mask token"
            )
        return
    for domain in domains:
        _text_width(domain, configs, cache_dir)
        if name == "unim2rec" and domain.catalogue.image_features is not None:
            image_features(domain)


def _check_recipe(name: str, dataset: Dataset, configs: TeacherConfigs, cache_dir: Path) -> None:
    recipe = RECIPES[name]
    config = recipe.config(configs)
    require_batch_size(config, configs.max_seq_len)
    start = read_start(recipe.family, config, configs)
    widths = [_text_width(dataset, configs, cache_dir)]
    if name == "unim2rec":
        vision = None if start is None else start.vision
        widths.append(_image_width(dataset, configs, vision, cache_dir))
    if start is not None:
        # Two made-up items will do: nothing that the start has depends on their number.
        inputs = [Modality(np.zeros((2, width), np.float32), np.ones(2, bool)) for width in widths]
        with seeded(0):
            begin_from(recipe.model(configs, inputs), start, freeze=config.freeze_encoder)


def _text_width(dataset: Dataset, configs: TeacherConfigs, cache_dir: Path) -> int:
    if configs.text.text_features:
        return read_text_features(configs.text, dataset).shape[1]
    return vector_width(item_sentences(dataset.catalogue), configs.text, cache_dir)


def _image_width(
    dataset: Dataset, configs: TeacherConfigs, vision: PixelEncoder | None, cache_dir: Path
) -> int:
    if vision is not None:
        pixel_inputs(dataset)
        return vision.width
    if dataset.catalogue.image_features is None:
        return feature_width(dataset, configs.image, cache_dir)
    return image_features(dataset)[0].shape[1]
