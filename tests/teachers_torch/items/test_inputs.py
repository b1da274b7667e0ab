"""What is done to frozen features before a teacher reads them."""

import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from teachers_torch.config import TextConfig
from teachers_torch.items.inputs import (
    Modality,
    WordDrop,
    join,
    mask_modality,
    pixel_inputs,
    scale_features,
    text_inputs,
)


def test_mean_norm_of_the_rows_that_are_not_zero_is_the_one_asked_for():
    """One factor scales all rows, and rows of zeros don't count in the mean."""
    features = np.array([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    scaled = scale_features(features, 15.0)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), [25.0, 0.0, 5.0], rtol=1e-6)
    assert scaled.dtype == np.float32


def test_zero_leaves_the_features_as_they_are():
    """A norm of 0 switches the scaling off, and features that are all zero stay zero."""
    features = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(scale_features(features, 0.0), features)
    np.testing.assert_array_equal(scale_features(features * 0, 15.0), features * 0)


def test_word_dropped_texts_are_other_vectors_of_the_same_items(ring, tmp_path):
    """Many but not all rows differ from those of the plain texts."""
    config = TextConfig()
    plain = text_inputs(ring, config, 15.0, Cache(tmp_path), print, WordDrop(0.0, seed=0))
    dropped = text_inputs(ring, config, 15.0, Cache(tmp_path), print, WordDrop(0.5, seed=0))
    changed = (plain.features != dropped.features).any(axis=1)
    assert 5 < changed.sum() < 20
    assert plain.available.all()
    np.testing.assert_allclose(np.linalg.norm(plain.features, axis=1).mean(), 15.0, rtol=1e-5)


def test_files_take_the_encoders_place(ring, tmp_path):
    """With --text_features nothing is encoded, and the file's rows are the features."""
    rows = np.random.default_rng(0).normal(size=(20, 768)).astype("<f4")
    rows.tofile(tmp_path / "ring.feat1CLS")
    numbering = "".join(f"i{item}\t{item}\n" for item in range(20))
    (tmp_path / "ring.item2index").write_text(numbering)
    config = TextConfig(text_features=str(tmp_path / "ring.feat1CLS"))
    found = text_inputs(ring, config, 0.0, Cache(tmp_path), lambda event: pytest.fail("encoded"))
    np.testing.assert_array_equal(found.features, rows)


@pytest.mark.parametrize(("share", "left"), [(0.0, 8), (0.25, 6), (0.5, 4), (1.0, 0)])
def test_a_share_of_the_images_is_hidden(share, left):
    """The share is one of the items that have an image, and the given array isn't changed."""
    available = np.arange(10) % 5 > 0
    modality = Modality(np.ones((10, 3), np.float32), available)
    found = mask_modality(modality, share)
    assert found.available.sum() == left
    assert not (found.available & ~available).any()
    assert available.sum() == 8


def test_more_hidden_is_the_same_and_more():
    """Items hidden at a share of 0.5 are hidden at 0.75 as well."""
    modality = Modality(np.ones((99, 3), np.float32), np.ones(99, bool))
    half, most = (mask_modality(modality, share).available for share in (0.5, 0.75))
    assert not (most & ~half).any()


def test_domains_without_a_modality_have_rows_that_are_not_available():
    """Each domain keeps its own rows, and features of two widths are refused."""
    first = Modality(np.ones((2, 3), np.float32), np.array([True, False]))
    second = Modality(np.zeros((1, 0), np.float32), np.array([False]))
    both = join([first, second, first])
    assert both.features.shape == (5, 3)
    assert both.available.tolist() == [True, False, False, True, False]
    other = Modality(np.ones((2, 4), np.float32), np.array([True, False]))
    with pytest.raises(UserError, match=r"found features of widths \[3, 4\]"):
        join([first, other])


def test_missing_images_have_no_pixels(ring):
    """An item without an image isn't available, and features that aren't pixels are refused."""
    pixels = np.arange(20 * 5, dtype=np.float16).reshape(20, 5)
    catalogue = dataclasses.replace(ring.catalogue, image_features=pixels, image_shape=(1, 1, 5))
    found = pixel_inputs(dataclasses.replace(ring, catalogue=catalogue))
    assert found.available.tolist() == [item % 3 > 0 for item in range(20)]
    np.testing.assert_array_equal(found.features[found.available], pixels[found.available])
    with pytest.raises(UserError, match="found no raw pixels"):
        pixel_inputs(ring)
