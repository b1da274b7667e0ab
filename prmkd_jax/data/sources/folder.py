"""The folder of a data set, replaced completely or not at all, whenever the process is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prmkd_jax.common.cache import held
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import recover_folder, remove_leftovers, writing_folder
from prmkd_jax.data.canonical import IMAGE_TEXT_FEATURES, INTERACTIONS, ITEMS
from prmkd_jax.data.config import IMAGE_FEATURES
from prmkd_jax.data.prepared import PREPARED

IMAGES = "images"
"""Folder of the images that were fetched."""
ENCODED = "encoded.json"
"""Which images image_features.npy has, and by which encoder; it says who wrote it."""
# What a data set made anew stands for. Images are named by their addresses, so those that were
# fetched are as good in it, and what else is there is the user's.
_REPLACED = (INTERACTIONS, ITEMS, PREPARED, IMAGE_FEATURES, ENCODED)


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write in, which becomes `target` at the end, and nothing on an error.

    Of an old data set only the files that it replaces are removed; other entries stay in `target`.

    Raises:
        UserError: the target is there, and is not to be replaced.
    """
    recover(target)
    refuse_existing(target, overwrite)
    with writing_folder(target, _REPLACED) as folder:
        yield folder
        refuse_existing(target, overwrite)


@contextmanager
def writes(target: Path) -> Iterator[None]:
    """Holds a data set while it is written.

    Raises:
        UserError: another command writes it.
    """
    with held(target.parent, target.name, target, keep=False):
        yield


def recover(target: Path) -> None:
    """Tidies up after calls that were killed: half a data set goes, an old one comes back."""
    remove_leftovers(target.parent)
    recover_folder(target, _REPLACED)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Refuses to replace a data set unasked, or anything else at all.

    Raises:
        UserError: it is there.
    """
    if os.path.lexists(target) and not overwrite:
        raise UserError(
            f"--name={target.name}: found {target} already, expected a new name or --overwrite"
        )
    if os.path.lexists(target) and not is_data_set(target):
        raise UserError(
            f"--name={target.name}: found {target}, which is no data set, expected a new name"
        )


def refuse_lost_features(target: Path, encode: bool) -> None:
    """Refuses to replace a data set whose vectors of images nobody would make again.

    Their rows are named by items.parquet, so they are worth nothing next to another one.

    Args:
        target: the data set.
        encode: whether its images will be encoded.

    Raises:
        UserError: naming the file.
    """
    features, texts = target / IMAGE_FEATURES, target / IMAGE_TEXT_FEATURES
    if os.path.lexists(texts):
        raise UserError(
            f"{texts}: found it, which would match no longer, expected none with --overwrite (move "
            "it)"
        )
    if os.path.lexists(features) and not (target / ENCODED).is_file():
        raise UserError(
            f"{features}: found it without {ENCODED}, so --encode_images has not written it, "
            "expected none with --overwrite (move it)"
        )
    if os.path.lexists(features) and not encode:
        raise UserError(
            f"{features}: found it, which --overwrite would remove, expected --encode_images to "
            "make it again (or move it)"
        )


def is_data_set(target: Path) -> bool:
    """Whether it is a folder with interactions, and no link to one."""
    return (target / INTERACTIONS).is_file() and not target.is_symlink()
