"""Encodes a data set's images once, so that no run needs the files."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.cli.console import Reporter
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json, writing
from prmkd_jax.common.reading import read_json
from prmkd_jax.data.canonical import ITEMS
from prmkd_jax.data.config import IMAGE_FEATURES
from prmkd_jax.data.sources.folder import ENCODED
from teachers_torch.config import ImageConfig

COLUMN = "image_feature_row"
_PARTS = ".parts"


def encode_images(
    folder: Path, config: ImageConfig, reporter: Reporter, *, strict: bool = False
) -> None:
    """Writes image_features.npy, a row an image, and `image_feature_row` in items.parquet.

    A file that can't be read as an image is counted and named; its items have none then. What a
    killed call has encoded is not encoded again.

    Args:
        folder: the data set.
        config: the encoder.
        reporter: says what was found.
        strict: whether an unreadable image is an error.

    Raises:
        UserError: no item has an image, or the encoder can't be read.
    """
    # Imported here: it loads torch, and most uses of `prepare` have no images.
    from teachers_torch.items.image import encode_paths

    table = pq.read_table(folder / ITEMS)
    paths = table["image_path"].to_pylist() if "image_path" in table.column_names else []
    named = sorted({path for path in paths if path})
    if not named:
        raise UserError(
            f"{folder / ITEMS}: found no images in column image_path, expected some for "
            "--encode_images (--download_images fetches those that are named by address)"
        )
    with reporter.stage("reading", "images") as stage:
        broken = unreadable(folder, named, stage.update)
    if broken:
        path, fault = min(broken.items())
        warning = f"images: {len(broken):,} could not be read (such as {path}: {fault})"
        if strict or len(broken) == len(named):
            raise UserError(warning)
        reporter.warn(warning)
    kept = [path for path in named if path not in broken]
    made_of = _made_of(folder, kept, config)
    if _is_encoded(folder, table, made_of):
        _remove_parts(folder)  # a kill may have come before they were
        reporter.say(f"{folder / IMAGE_FEATURES} has these images already: nothing to do")
        return
    parts = _parts(folder, made_of, config)
    with reporter.stage("encoding", "images") as stage:
        features = encode_paths([str(folder / each) for each in kept], config, stage.update, parts)
    row_of = {path: row for row, path in enumerate(kept)}
    _write(folder, table, features, [row_of.get(path) for path in paths])
    write_json(folder / ENCODED, made_of)
    _remove_parts(folder)
    reporter.say(f"{folder / IMAGE_FEATURES}: {len(kept):,} images by {config.image_encoder}")


def _made_of(folder: Path, paths: Sequence[str], config: ImageConfig) -> dict[str, str]:
    """The encoder, how files are read, and what stands for them: names, sizes and times."""
    from teachers_torch.items.image_file import READING
    from teachers_torch.items.text import encoder_identity

    found = [(path, (folder / path).stat()) for path in paths]
    files = [[path, status.st_size, status.st_mtime_ns] for path, status in found]
    digest = content_digest([READING, files])
    return {
        "image_encoder": config.image_encoder,
        "encoder": encoder_identity(config.image_encoder),
        "images": digest,
    }


def _parts(folder: Path, made_of: dict[str, str], config: ImageConfig) -> Path:
    """The folder of what is encoded of these images; those of others are removed."""
    digest = content_digest([made_of, config.image_batch_size])[:32]
    parts = folder / f".{IMAGE_FEATURES}-{digest}{_PARTS}"
    _remove_parts(folder, but=parts)
    return parts


def _remove_parts(folder: Path, but: Path | None = None) -> None:
    for parts in folder.glob(f".{IMAGE_FEATURES}-*{_PARTS}"):
        if parts != but:
            shutil.rmtree(parts, ignore_errors=True)


def _is_encoded(folder: Path, table: pa.Table, made_of: dict[str, str]) -> bool:
    """Whether the vectors that are there are of these images, by this encoder."""
    try:
        kept = read_json(folder / ENCODED)
    except (OSError, ValueError):
        return False
    return kept == made_of and COLUMN in table.column_names and (folder / IMAGE_FEATURES).is_file()


def unreadable(
    folder: Path, paths: Sequence[str], progress: Callable[[int, int], None]
) -> dict[str, str]:
    """Files that are no complete image → why; all are read before hours are spent on some.

    Args:
        folder: folder that relative paths begin at.
        paths: the files.
        progress: receives the files read and to read.
    """
    from teachers_torch.items.image import image_fault

    broken = {}
    for number, path in enumerate(paths, start=1):
        fault = image_fault(folder / path)
        if fault:
            broken[path] = fault
        progress(number, len(paths))
    return broken


def _write(folder: Path, table: pa.Table, features: np.ndarray, rows: list[int | None]) -> None:
    """The features first: the table alone would name rows that aren't there."""
    with writing(folder / IMAGE_FEATURES) as partial, partial.open("wb") as stream:
        np.save(stream, features)
    if COLUMN in table.column_names:
        table = table.drop_columns(COLUMN)
    with writing(folder / ITEMS) as partial:
        pq.write_table(table.append_column(COLUMN, pa.array(rows, pa.int32())), partial)
