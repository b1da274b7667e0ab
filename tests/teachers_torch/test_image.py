import dataclasses

import numpy as np
import pytest

from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.data.errors import UserError
from teachers_torch.image import image_features
from tests.teachers_torch.worlds import ring_world

ROWS = np.array([2, -1, 0, 1, -1, 3, 3], dtype=np.int32)


def dataset_with(pictures, rows=ROWS):
    ids = tuple(f"i{i}" for i in range(len(rows)))
    texts = {"title": ids}
    catalogue = Catalogue(texts, pictures, rows)
    return dataclasses.replace(ring_world(), catalogue=catalogue, item_ids=ids)


def reference(pictures):
    """Centred over the items that have a picture, then every row to norm 1, in float64."""
    features = np.zeros((len(ROWS), pictures.shape[1]))
    shown = pictures[ROWS[ROWS >= 0]].astype(np.float64)
    shown -= shown.mean(axis=0)
    features[ROWS >= 0] = shown / np.linalg.norm(shown, axis=1, keepdims=True)
    return features


@pytest.mark.parametrize("kind", ["clip", "pixels"])
def test_rows_are_centred_unit_vectors_and_missing_ones_zero(kind):
    """Rows of other items, a shared offset left in, a scale that depends on the encoder."""
    rng = np.random.default_rng(0)
    if kind == "clip":
        pictures = rng.normal(size=(4, 512)) + 6 * (np.arange(512) == 92)
    else:
        pictures = rng.uniform(size=(4, 768))
    pictures = pictures.astype(np.float16)
    features, available = image_features(dataset_with(pictures))
    assert features.dtype == np.float32
    np.testing.assert_array_equal(available, [True, False, True, True, False, True, True])
    np.testing.assert_allclose(features, reference(pictures), atol=1e-5)
    assert (features[~available] == 0).all()


def test_many_large_values_do_not_overflow_half_precision():
    """A mean accumulated in float16 is infinite here."""
    pictures = np.full((4, 512), 60000.0, dtype=np.float16)
    pictures[0] = -60000.0
    features, _ = image_features(dataset_with(pictures))
    assert np.isfinite(features).all()


def test_equal_pictures_stay_zero_rather_than_nan():
    """Division by the norm of a row that equals the mean."""
    features, available = image_features(dataset_with(np.ones((4, 3), dtype=np.float16)))
    assert available.sum() == 5
    assert (features == 0).all()


def test_a_value_that_is_not_finite_is_named():
    """NaN would silently spread to every item through the mean."""
    pictures = np.ones((4, 3), dtype=np.float16)
    pictures[1, 2] = np.nan
    with pytest.raises(UserError, match="data set ring: image_features row 1: found"):
        image_features(dataset_with(pictures))


@pytest.mark.parametrize("pictures", [None, np.ones((4, 3), dtype=np.float16)])
def test_no_picture_at_all_is_refused(pictures):
    """A teacher of texts and pictures that quietly learns from texts alone."""
    dataset = dataset_with(pictures, np.full(5, -1, dtype=np.int32))
    with pytest.raises(UserError, match="no item has image features"):
        image_features(dataset)
