"""Vectors that rows of new items are made of."""

import dataclasses

import numpy as np
import pytest

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.new_rows import item_vectors
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve.new_items import RowMap
from teachers_torch.items import inputs
from tests.teachers_torch.worlds import ring_world, text_vectors


@pytest.mark.parametrize("source", ["texts", "words"])
def test_an_item_without_a_text_gets_the_mean_row(source, tmp_path, monkeypatch):
    """Empty or blank titles count as no text, whether rows are made of texts or of words."""
    monkeypatch.setattr(inputs, "encode_texts", text_vectors)
    titles = (*(f"item number {item}" for item in range(20)), "", "  ")
    items = tuple(f"i{item}" for item in range(22))
    world = dataclasses.replace(
        ring_world(), catalogue=Catalogue({"title": titles}), item_ids=items
    )
    settings = settings_from(parse([f"--cache_dir={tmp_path}"], GROUPS).configs)
    vectors = item_vectors(source, world, settings, [])
    assert vectors is not None
    table = np.random.default_rng(0).normal(size=(20, 6))
    rows = RowMap(vectors[:20]).rows(table, vectors[20:], 1e-4, 1.0)
    np.testing.assert_allclose(rows, table.mean(0) + np.zeros((2, 1)), atol=1e-9)
