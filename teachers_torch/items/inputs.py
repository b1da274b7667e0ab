"""What the teachers know of the items: scaled features of texts and images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import ImageConfig, TextConfig
from teachers_torch.items.image import encode_files, image_features
from teachers_torch.items.text import (
    drop_words,
    encode_texts,
    item_sentences,
    text_identity,
    vector_width,
)
from teachers_torch.items.text_files import features_digest, read_text_features
from teachers_torch.teacher import Log


class Modality(NamedTuple):
    """Features of all items and which of them have any; the other rows mean nothing."""

    features: Float32[np.ndarray, "items features"]
    available: Bool[np.ndarray, " items"]


def made_up(width: int) -> Modality:
    """Two items with features of a width, to try weights on: none depends on the items' number."""
    return Modality(np.zeros((2, width), np.float32), np.ones(2, bool))


def has_texts(dataset: Dataset, config: TextConfig) -> bool:
    """Whether there are vectors of texts, or any text to encode."""
    sentences = item_sentences(dataset.catalogue)
    return bool(config.text_features) or any(sentence.strip() for sentence in sentences)


def texts_width(dataset: Dataset, config: TextConfig, cache: Cache) -> int:
    """Width of the texts' vectors, without encoding them.

    Raises:
        UserError: the encoder or the file is missing or wrong.
    """
    if config.text_features:
        return read_text_features(config, dataset).shape[1]
    return vector_width(item_sentences(dataset.catalogue), config, cache)


def texts_identity(dataset: Dataset, config: TextConfig) -> str:
    """What the texts' vectors depend on besides the texts.

    Raises:
        UserError: the file is missing.
    """
    if config.text_features:
        return features_digest(config, dataset.name)
    return text_identity(config)


class WordDrop(NamedTuple):
    """A text whose words are dropped: each with probability `share`, drawn from `seed`."""

    share: float
    seed: int


def text_inputs(
    dataset: Dataset,
    config: TextConfig,
    norm: float,
    cache: Cache,
    log: Log,
    drop: WordDrop | None = None,
) -> Modality:
    """Vectors of the items' texts, scaled to a mean norm (see `scale_features`).

    Args:
        dataset: texts or images are those of its catalogue.
        config: the encoder, or the file that holds the vectors.
        norm: the mean norm; 0 leaves the vectors.
        cache: holds encoded texts.
        log: receives `encode_texts` events with `done` and `total`.
        drop: encode the texts without the words dropped; from files, read the `.feat2CLS`.

    Raises:
        UserError: the encoder or the file is missing or wrong.
    """
    sentences = item_sentences(dataset.catalogue)
    available = np.array([bool(sentence.strip()) for sentence in sentences])
    if config.text_features:
        vectors = read_text_features(config, dataset, dropped=drop is not None)
        return Modality(scale_features(vectors, norm), np.ones_like(available))
    if drop is not None:
        sentences = drop_words(sentences, drop.share, drop.seed)

    def progress(done: int, total: int) -> None:
        log({"event": "encode_texts", "done": done, "total": total})

    vectors = encode_texts(sentences, config, cache, progress)
    return Modality(scale_features(vectors, norm), available)


def image_inputs(
    dataset: Dataset, config: ImageConfig, norm: float, cache: Cache, log: Log
) -> Modality:
    """Centred, scaled features of the items' images: given ones, else encoded files.

    Args:
        dataset: texts or images are those of its catalogue.
        config: the encoder of image files.
        norm: the mean norm; 0 leaves the unit vectors.
        cache: holds encoded images.
        log: receives `encode_images` events with `done` and `total`.

    Raises:
        UserError: there are no images, or they or the encoder can't be read.
    """

    def progress(done: int, total: int) -> None:
        log({"event": "encode_images", "done": done, "total": total})

    if dataset.catalogue.image_features is None and dataset.catalogue.image_paths is not None:
        dataset = encode_files(dataset, config, cache, progress)
    features, available = image_features(dataset)
    return Modality(scale_features(features, norm), available)


def pixel_inputs(dataset: Dataset) -> Modality:
    """The raw pixels of a data set whose `image_features` hold them.

    Raises:
        UserError: they are not.
    """
    catalogue = dataset.catalogue
    if catalogue.image_shape is None or catalogue.image_rows is None:
        raise UserError(
            f"data set {dataset.name}: found no raw pixels, expected them for a checkpoint with "
            "a vision encoder of its own"
        )
    assert catalogue.image_features is not None
    # Row -1, the last image, stands in where there is none: nothing reads it.
    features = catalogue.image_features[catalogue.image_rows].astype(np.float32)
    return Modality(features, catalogue.image_rows >= 0)


def mask_modality(modality: Modality, share: float) -> Modality:
    """Takes the modality from this fraction of the items that have it, in a fixed random order."""
    shown = np.flatnonzero(modality.available)
    hidden = np.random.default_rng(0).permutation(shown)[: round(share * len(shown))]
    available = modality.available.copy()
    available[hidden] = False
    return Modality(modality.features, available)


def join(parts: Sequence[Modality]) -> Modality:
    """One modality of several domains, one domain's items after the other's.

    Raises:
        UserError: their features differ in width.
    """
    widths = {part.features.shape[1] for part in parts if part.available.any()}
    if len(widths) > 1:
        raise UserError(
            f"--domains: found features of widths {sorted(widths)}, expected one encoder for all"
        )
    width = max(widths, default=parts[0].features.shape[1])
    features = [
        part.features
        if part.available.any()
        else np.zeros((len(part.available), width), np.float32)
        for part in parts
    ]
    return Modality(np.concatenate(features), np.concatenate([part.available for part in parts]))


def scale_features(
    features: Float32[np.ndarray, "items features"], norm: float
) -> Float32[np.ndarray, "items features"]:
    """Scales all rows by one number, so that the mean norm of those not zero is `norm`.

    Next to features of norm 1 a fresh ID embedding (deviation 0.02) would be three times as
    long as the adapted text, and a transductive teacher would learn the IDs by heart instead
    of the texts. `norm` 0 leaves the features as they are.
    """
    norms = np.linalg.norm(features, axis=1)
    if norm == 0 or not norms.any():
        return features
    return features * np.float32(norm / norms[norms > 0].mean())
