"""Which items a teacher is shown, and at which scale, by its own settings."""

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from teachers_torch.config import UniM2RecConfig, UniSRecConfig
from teachers_torch.sequence.item_inputs import TEXTS, TEXTS_AND_IMAGES
from tests.teachers_torch.worlds import settings_of


def test_each_teacher_reads_items_by_its_own_settings(ring, tmp_path):
    """The feature norm and the share of hidden images are each teacher's own."""
    settings = settings_of(
        UniSRecConfig(feature_norm=3.0), UniM2RecConfig(feature_norm=5.0, hide_images=0.5)
    )
    (texts,) = TEXTS.read(ring, settings, None, Cache(tmp_path), print)
    both = TEXTS_AND_IMAGES.read(ring, settings, None, Cache(tmp_path), print)
    for modality, norm in ((texts, 3.0), (both[0], 5.0), (both[1], 5.0)):
        norms = np.linalg.norm(modality.features, axis=1)
        assert norms[norms > 0].mean() == pytest.approx(norm, rel=1e-5)
    # Every third of 20 items has none; of the 13 others half are hidden.
    assert [part.available.sum() for part in both] == [20, 7]
    assert len(texts.features) == len(both[1].features) == 20
