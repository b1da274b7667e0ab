"""Image features of the catalogue, on one scale whatever encoder they come from."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import ImageConfig
from teachers_torch.items.text import encoder_identity

Progress = Callable[[int, int], None]


def image_features(
    dataset: Dataset,
) -> tuple[Float32[np.ndarray, "items features"], Bool[np.ndarray, " items"]]:
    """Each item's image features, centred and L2-normalised, and whether it has any.

    CLIP vectors (norm about 10, a few features carry most of it) and raw pixels (all
    positive) both have a large part that all pictures share, which would leave every cosine
    near one. The mean over the catalogue's pictures is therefore taken off before the rows
    are scaled to norm 1, the scale of sentence vectors. A row equal to the mean stays zero.

    Returns:
        Features, zero where the item has no picture, and the availability bits.

    Raises:
        UserError: the data set has no image features, or one is not finite.
    """
    pictures, rows = dataset.catalogue.image_features, dataset.catalogue.image_rows
    if pictures is None or rows is None or not (rows >= 0).any():
        raise UserError(f"data set {dataset.name}: no item has image features, expected some")
    available = rows >= 0
    # float32 before the sums: those of float16 overflow.
    shown = pictures[rows[available]].astype(np.float32)
    finite = np.isfinite(shown).all(axis=1)
    if not finite.all():
        row = int(rows[available][~finite][0])
        raise UserError(
            f"data set {dataset.name}: image_features row {row}: found a value that is not "
            "finite, expected finite numbers"
        )
    shown -= shown.mean(axis=0)
    norms = np.linalg.norm(shown, axis=1, keepdims=True)
    features = np.zeros((dataset.num_items, pictures.shape[1]), dtype=np.float32)
    features[available] = np.divide(shown, norms, out=np.zeros_like(shown), where=norms > 0)
    return features, available


def encode_files(
    dataset: Dataset,
    config: ImageConfig,
    cache_dir: Path,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data set with `image_features` encoded from its picture files.

    Args:
        dataset: its catalogue has `image_paths`.
        config: the encoder and its batch size.
        cache_dir: features are kept in `images/<hash of files and encoder>.npy` there.
        progress: told the number of pictures encoded and to encode, every batch.

    Raises:
        UserError: a picture or the encoder can't be read.
    """
    paths = dataset.catalogue.image_paths
    assert paths is not None
    distinct = sorted(set(paths) - {""})
    cached = _cached(distinct, config, cache_dir)
    if not cached.exists():
        features = _encode(distinct, config, progress)
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_name(f"{cached.name}.{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, features)
        os.replace(partial, cached)
    row_of = {path: row for row, path in enumerate(distinct)}
    rows = np.array([row_of.get(path, -1) for path in paths], dtype=np.int32)
    catalogue = dataclasses.replace(
        dataset.catalogue, image_features=np.load(cached), image_rows=rows
    )
    return dataclasses.replace(dataset, catalogue=catalogue)


def feature_width(dataset: Dataset, config: ImageConfig, cache_dir: Path) -> int:
    """How wide the features of `encode_files` are; with a new encoder one picture is encoded.

    Raises:
        UserError: as `encode_files`, or no item has a picture.
    """
    distinct = sorted(set(dataset.catalogue.image_paths or ()) - {""})
    if not distinct:
        raise UserError(f"data set {dataset.name}: no item has a picture, expected some")
    cached = _cached(distinct, config, cache_dir)
    if cached.exists():
        return np.load(cached, mmap_mode="r").shape[1]
    return _encode(distinct[:1], config, lambda done, total: None).shape[1]


def _cached(paths: Sequence[str], config: ImageConfig, cache_dir: Path) -> Path:
    content = f"{encoder_identity(config.image_encoder)} {files_digest(paths)}"
    return cache_dir / "images" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"


def files_digest(paths: Sequence[str]) -> str:
    """SHA-256 over the content of files, wherever they lie.

    Raises:
        UserError: one can't be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: found no such file, expected the item's picture") from error
    return digest.hexdigest()


def _encode(
    paths: Sequence[str], config: ImageConfig, progress: Progress
) -> Float16[np.ndarray, "pictures features"]:
    processor, model = _load_encoder(config.image_encoder)
    parts = []
    for start in range(0, len(paths), config.image_batch_size):
        pictures = [_open(path) for path in paths[start : start + config.image_batch_size]]
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        parts.append(_vectors(model, pixels.to(model.device)).cpu().numpy().astype(np.float16))
        progress(start + len(pictures), len(paths))
    return np.concatenate(parts)


@torch.inference_mode()
def _vectors(model: Any, pixels: torch.Tensor) -> Float32[torch.Tensor, "pictures features"]:
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--image_encoder: found {encoder!r}, expected a Hugging Face hub name or folder of "
            f"a vision encoder ({reason})"
        ) from error


def _open(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: found no readable picture, expected one") from error
