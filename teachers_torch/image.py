"""Image features of the catalogue, on one scale whatever encoder they come from."""

import numpy as np
from jaxtyping import Bool, Float32

from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.errors import UserError


def image_features(
    dataset: Dataset,
) -> tuple[Float32[np.ndarray, "items features"], Bool[np.ndarray, "items"]]:
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
