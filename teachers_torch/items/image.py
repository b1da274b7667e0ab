"""Image features of the catalogue, on one scale whatever encoder they come from."""

import dataclasses
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, Float32

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import make_in_parts
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import ImageConfig
from teachers_torch.items.image_encoder import ImageEncoder
from teachers_torch.items.image_file import READING, BrokenImage, read_image
from teachers_torch.items.text import Progress, encoder_identity

_LOG = logging.getLogger(__name__)

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

    Files that are no image which can be read are counted and named in a warning; their items
    have no image.

    Args:
        dataset: the data set, whose catalogue has `image_paths`.
        config: the encoder and its batch size.
        cache: the cache; the features are kept in its room `images`.
        progress: receives the images encoded and to encode, every batch.

    Raises:
        UserError: no image can be read, or not the encoder.
    """
    distinct = _distinct(dataset)

    name = _entry(distinct, config)
    # What a killed encoding has done stays there for the next one.
    parts = cache.room("images") / f"{name}.parts"

    def make(path: Path) -> None:
        made = encode_paths(distinct, config, progress, parts)
        if np.isnan(made).any(axis=1).all():
            raise UserError(_none(dataset, distinct))
        with path.open("wb") as file:
            np.save(file, made)

    features = np.load(cache.entry("images", name, make))
    shutil.rmtree(parts, ignore_errors=True)
    broken = np.isnan(features).any(axis=1)
    if broken.any():
        told = _unreadable([path for path, bad in zip(distinct, broken, strict=True) if bad])
        _LOG.warning("data set %s: %s; its items have none", dataset.name, told)
    row_of = {path: row for row, path in enumerate(distinct) if not broken[row]}
    paths = dataset.catalogue.image_paths or ()
    rows = np.array([row_of.get(path, -1) for path in paths], dtype=np.int32)
    features[broken] = 0  # no item has these rows
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
    readable = next((path for path in distinct if not image_fault(path)), None)
    if readable is None:
        raise UserError(_none(dataset, distinct))
    return encode_paths([readable], config, lambda done, total: None).shape[1]


def image_fault(path: str | Path) -> str:
    """Why a file is no image that can be read; "" if it is one."""
    try:
        read_image(path)
    except BrokenImage as error:
        return str(error)
    return ""


def _none(dataset: Dataset, paths: Sequence[str]) -> str:
    return f"data set {dataset.name}: {_unreadable(paths)}, expected at least one image"


def _unreadable(broken: Sequence[str]) -> str:
    """How many image files can't be read, and one of them."""
    return (
        f"found {len(broken):,} image files that can't be read (such as {broken[0]}: "
        f"{image_fault(broken[0])})"
    )


def contents_digest(paths: Sequence[str]) -> str:
    """SHA-256 over the contents of files; their places don't matter.

    What is no file, or can't be read, counts as it is: whoever puts an image there has changed it.
    """
    digest = hashlib.sha256(f"reading {READING}".encode())
    for path in paths:
        try:
            digest.update(bytes.fromhex(file_digest(Path(path))))
        except OSError:
            digest.update(b"none")
    return digest.hexdigest()


def images_digest(dataset: Dataset) -> str:
    """`contents_digest` of a data set's image files."""
    return contents_digest(_distinct(dataset))


def _distinct(dataset: Dataset) -> list[str]:
    return sorted(set(dataset.catalogue.image_paths or ()) - {""})


def _entry(paths: Sequence[str], config: ImageConfig) -> str:
    content = f"{encoder_identity(config.image_encoder)} {contents_digest(paths)}"
    return f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"


def encode_paths(
    paths: Sequence[str], config: ImageConfig, progress: Progress, parts: Path | None = None
) -> Float16[np.ndarray, "images features"]:
    """Encodes image files, without the cache; NaN where one can't be read.

    Args:
        paths: the files, at least one of which can be read.
        config: the encoder and its batch size.
        progress: receives the images encoded and to encode, every batch.
        parts: folder for what is done if it is stopped; whoever calls gives the same one for the
            same images, encoder and batch size only, and removes it.

    Raises:
        UserError: the encoder can't be read, or gives what is not finite.
    """
    if parts is None:
        with tempfile.TemporaryDirectory() as folder:
            return encode_paths(paths, config, progress, Path(folder))
    encoder = ImageEncoder(config.image_encoder)
    size = config.image_batch_size

    def encode(start: int, stop: int) -> np.ndarray:
        batches = []
        for at in range(start, stop, size):
            some = paths[at : min(at + size, stop)]
            batches.append(encoder.encode(some))
            progress(at + len(some), len(paths))
        return np.concatenate(batches)

    # A part is some batches, so that small batches don't make many files.
    return make_in_parts(parts, len(paths), size * max(1, PART // size), encode).array()
