"""How UniSRec and UniM²Rec read items: texts alone, or texts and images."""

from collections.abc import Callable
from typing import Any, NamedTuple

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import UniM2RecConfig, UniSRecConfig
from teachers_torch.items.image import feature_width, image_features, images_digest
from teachers_torch.items.inputs import (
    Modality,
    image_inputs,
    mask_modality,
    pixel_inputs,
    text_inputs,
    texts_identity,
    texts_width,
)
from teachers_torch.items.pixels import PixelEncoder, encode_pixels
from teachers_torch.items.text import encoder_identity
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import Log


class ItemInputs(NamedTuple):
    """How a teacher reads items.

    Attributes:
        read: features of all items, raw pixels encoded by the vision encoder if one is given.
        widths: computes the inputs' widths without encoding the items; missing inputs are an error.
        identity: encoders and files that they depend on; JSON values.
    """

    read: Callable[[Dataset, TeacherSettings, PixelEncoder | None, Cache, Log], list[Modality]]
    widths: Callable[[Dataset, TeacherSettings, PixelEncoder | None, Cache], list[int]]
    identity: Callable[[Dataset, TeacherSettings], dict[str, Any]]


def _read_texts(
    dataset: Dataset, settings: TeacherSettings, _: PixelEncoder | None, cache: Cache, log: Log
) -> list[Modality]:
    norm = settings.get(UniSRecConfig).feature_norm
    return [text_inputs(dataset, settings.text, norm, cache, log)]


def _text_widths(
    dataset: Dataset, settings: TeacherSettings, _: PixelEncoder | None, cache: Cache
) -> list[int]:
    return [texts_width(dataset, settings.text, cache)]


def _read_texts_and_images(
    dataset: Dataset,
    settings: TeacherSettings,
    vision: PixelEncoder | None,
    cache: Cache,
    log: Log,
) -> list[Modality]:
    config = settings.get(UniM2RecConfig)
    norm = config.feature_norm
    if vision is None:
        images = image_inputs(dataset, settings.image, norm, cache, log)
    else:
        pixels, available = pixel_inputs(dataset)
        images = Modality(encode_pixels(vision, pixels), available)
    images = mask_modality(images, config.hide_images)
    return [text_inputs(dataset, settings.text, norm, cache, log), images]


def _text_and_image_widths(
    dataset: Dataset, settings: TeacherSettings, vision: PixelEncoder | None, cache: Cache
) -> list[int]:
    catalogue = dataset.catalogue
    if catalogue.image_features is None and not catalogue.image_paths:
        raise UserError(
            f"data set {dataset.name}: found no images, expected some for unim2rec, or "
            "--teachers without it"
        )
    if vision is not None:
        pixel_inputs(dataset)
        images = vision.width
    elif catalogue.image_features is None:
        images = feature_width(dataset, settings.image, cache)
    else:
        images = image_features(dataset)[0].shape[1]
    return [*_text_widths(dataset, settings, None, cache), images]


def image_files_encoder(dataset: Dataset, settings: TeacherSettings) -> str | None:
    """Identity of the encoder that reads a data set's image files; None where none are read."""
    if dataset.catalogue.image_features is not None or not dataset.catalogue.image_paths:
        return None
    return encoder_identity(settings.image.image_encoder)


def _text_identity(dataset: Dataset, settings: TeacherSettings) -> dict[str, object]:
    return {"text_encoder": texts_identity(dataset, settings.text)}


def _text_and_image_identity(dataset: Dataset, settings: TeacherSettings) -> dict[str, object]:
    found = _text_identity(dataset, settings)
    if dataset.catalogue.image_paths is None:
        return found  # image features are part of the data's own fingerprint
    encoder = encoder_identity(settings.image.image_encoder)
    return {**found, "image_encoder": encoder, "images": images_digest(dataset)}


TEXTS = ItemInputs(_read_texts, _text_widths, _text_identity)
TEXTS_AND_IMAGES = ItemInputs(
    _read_texts_and_images, _text_and_image_widths, _text_and_image_identity
)
