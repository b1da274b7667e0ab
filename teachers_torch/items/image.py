"""Image features of the catalogue, on one scale whatever encoder they come from."""

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32
from PIL import Image, UnidentifiedImageError

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import files_digest
from prmkd_jax.common.parts import make_in_parts
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import ImageConfig
from teachers_torch.items.text import Progress, encoder_identity

# About how many images are encoded between two parts on disk.
PART = 256


def image_features(
    dataset: Dataset,
) -> tuple[Float32[np.ndarray, "items features"], Bool[np.ndarray, " items"]]:
    """Each item's image features, centred and L2-normalised, and whether it has any.

    CLIP vectors (norm about 10, a few features carry most of it) and raw pixels (all
    positive) both have a large part that all images share, which would leave every cosine
    near one. The mean over the catalogue's images is therefore subtracted before the rows
    are scaled to norm 1, the scale of sentence vectors. A row equal to the mean stays zero.

    Returns:
        Features, zero where the item has no image, and the availability bits.

    Raises:
        UserError: the data set has no image features, or one is not finite.
    """
    images = dataset.catalogue.image_features
    rows = dataset.catalogue.image_rows
    if images is None or rows is None or not (rows >= 0).any() or not images.shape[1]:
        raise UserError(f"data set {dataset.name}: no item has image features, expected some")
    available = rows >= 0
    # float32 before the sums: those of float16 overflow.
    shown = images[rows[available]].astype(np.float32)
    finite = np.isfinite(shown).all(axis=1)
    if not finite.all():
        row = int(rows[available][~finite][0])
        raise UserError(
            f"data set {dataset.name}: image_features row {row}: found a value that is not "
            "finite, expected finite numbers"
        )
    shown -= shown.mean(axis=0)
    norms = np.linalg.norm(shown, axis=1, keepdims=True)
    features = np.zeros((dataset.num_items, images.shape[1]), dtype=np.float32)
    features[available] = np.divide(shown, norms, out=np.zeros_like(shown), where=norms > 0)
    return features, available


def encode_files(
    dataset: Dataset,
    config: ImageConfig,
    cache: Cache,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data set with `image_features` encoded from its image files.

    Args:
        dataset: its catalogue has `image_paths`.
        config: the encoder and its batch size.
        cache: its room `images` holds the features.
        progress: receives the images encoded and to encode, every batch.

    Raises:
        UserError: an image or the encoder can't be read.
    """
    distinct = _distinct(dataset)

    name = _entry(distinct, config)
    # What a killed encoding has done stays there for the next one.
    parts = cache.room("images") / f"{name}.parts"

    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, _encode(distinct, config, progress, parts))

    features = np.load(cache.entry("images", name, make))
    shutil.rmtree(parts, ignore_errors=True)
    row_of = {path: row for row, path in enumerate(distinct)}
    paths = dataset.catalogue.image_paths or ()
    rows = np.array([row_of.get(path, -1) for path in paths], dtype=np.int32)
    catalogue = dataclasses.replace(dataset.catalogue, image_features=features, image_rows=rows)
    return dataclasses.replace(dataset, catalogue=catalogue)


def feature_width(dataset: Dataset, config: ImageConfig, cache: Cache) -> int:
    """Width of the features of `encode_files`; a new encoder is loaded and encodes one image.

    Raises:
        UserError: as `encode_files`, or no item has an image.
    """
    distinct = _distinct(dataset)
    if not distinct:
        raise UserError(f"data set {dataset.name}: no item has an image, expected some")
    name = _entry(distinct, config)
    if cache.has("images", name):
        return np.load(cache.room("images") / name, mmap_mode="r").shape[1]
    return encode_paths(distinct[:1], config, lambda done, total: None).shape[1]


def contents_digest(paths: Sequence[str]) -> str:
    """SHA-256 over the contents of files; their places don't matter.

    Raises:
        UserError: one can't be read.
    """
    try:
        return files_digest(map(Path, paths))
    except OSError as error:
        raise UserError(f"{error.filename}: no such file, expected the item's image") from error


def images_digest(dataset: Dataset) -> str:
    """`contents_digest` of a data set's image files."""
    return contents_digest(_distinct(dataset))


def _distinct(dataset: Dataset) -> list[str]:
    return sorted(set(dataset.catalogue.image_paths or ()) - {""})


def _entry(paths: Sequence[str], config: ImageConfig) -> str:
    content = f"{encoder_identity(config.image_encoder)} {contents_digest(paths)}"
    return f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"


def encode_paths(
    paths: Sequence[str], config: ImageConfig, progress: Progress
) -> Float16[np.ndarray, "images features"]:
    """Encodes image files, without the cache.

    Args:
        paths: the files, at least one.
        config: the encoder and its batch size.
        progress: receives the images encoded and to encode, every batch.

    Raises:
        UserError: an image or the encoder can't be read.
    """
    with tempfile.TemporaryDirectory() as parts:
        return _encode(paths, config, progress, Path(parts))


def _encode(
    paths: Sequence[str], config: ImageConfig, progress: Progress, parts: Path
) -> Float16[np.ndarray, "images features"]:
    """`encode_paths`, with a folder for what is done if it is stopped."""
    processor, model = _load_encoder(config.image_encoder)
    size = config.image_batch_size

    def encode(start: int, stop: int) -> np.ndarray:
        batches = []
        for at in range(start, stop, size):
            images = [_open(path) for path in paths[at : min(at + size, stop)]]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            encoded = _vectors(model, pixels.to(model.device)).cpu().numpy()
            finite = np.isfinite(encoded).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"--image_encoder: found a vector of {config.image_encoder} that is not "
                    f"finite, for {paths[at + int(np.argmin(finite))]}, expected finite numbers"
                )
            batches.append(encoded.astype(np.float16))
            progress(at + len(images), len(paths))
        return np.concatenate(batches)

    # A part is some batches, so that small batches don't make many files.
    return make_in_parts(parts, len(paths), size * max(1, PART // size), encode)


@torch.inference_mode()
def _vectors(model: Any, pixels: torch.Tensor) -> Float32[torch.Tensor, "images features"]:
    """CLIP's projected vectors, [CLS] of other Transformers, the pooled map of a ConvNet."""
    if hasattr(model, "get_image_features"):
        features = model.get_image_features(pixel_values=pixels)
        return getattr(features, "pooler_output", features)
    hidden = model(pixel_values=pixels).last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean(dim=(2, 3))


def _load_encoder(encoder: str) -> tuple[Any, Any]:
    # Imported here: it takes seconds, and features from the cache don't need it.
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Resizing by Pillow: it is there without torchvision, and so everywhere the same.
        processor = AutoImageProcessor.from_pretrained(encoder, backend="pil")
        return processor, AutoModel.from_pretrained(encoder).eval().to(device)
    except Exception as error:  # the library fails in many ways, all of them the user's input
        raise UserError(
            f"--image_encoder: found {encoder!r}, expected a Hugging Face hub name or folder of "
            f"a vision encoder ({first_line(error)})"
        ) from error


def _open(path: str) -> Any:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: found no readable image, expected one") from error
