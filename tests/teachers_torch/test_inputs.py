"""What is done to frozen features before a teacher reads them."""

import numpy as np

from teachers_torch.inputs import scale_features


def test_mean_norm_of_the_rows_that_are_not_zero_is_the_one_asked_for():
    """Missing rows counted in the mean, or rows scaled each by its own factor."""
    features = np.array([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    scaled = scale_features(features, 15.0)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), [25.0, 0.0, 5.0], rtol=1e-6)
    assert scaled.dtype == np.float32


def test_zero_leaves_the_features_as_they_are():
    """An official checkpoint's features scaled all the same; a division by zero."""
    features = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(scale_features(features, 0.0), features)
    np.testing.assert_array_equal(scale_features(features * 0, 15.0), features * 0)
