"""What a run's record says of its lists."""

import dataclasses
import math

import numpy as np
import pytest

from experiments.stages.lists import describe_lists
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.evaluate.evaluator import BestItems, UserRanks
from tests.worlds import from_histories, task_of

# Trained on: 0 and 1, 0 and 2, 0; items 3, 4 and 5 are held out.
WORLD = from_histories([[0, 1, 3, 4], [0, 2, 3, 5], [0, 3, 4]], 6)
# The description, which no figure reads, would make 0 and 5 alike.
TEXTS = {
    **WORLD.catalogue.texts,
    "title": ("red hat", "cup", "", "lamp", "red hat", "desk"),
    "description": ("oak", "", "", "", "", "oak"),
}
TASK = task_of(dataclasses.replace(WORLD, catalogue=Catalogue(TEXTS)))
LISTS = np.array([[0, 4], [3, 1], [0, 5]], np.int32)
CONFIDENCE = np.array([0.25, 0.375, 1.0])


def test_lists_are_measured_by_the_training_part_and_by_ranks_with_nothing_masked():
    """Popularity counts the training part alone, and a hit has a place within the list."""
    # Of two places 1.5 is in the list, 2 is the first one behind it.
    ranks = UserRanks(np.array([1.5, 2.0, 0.0]), np.array([np.inf, 0.0, np.inf]))
    found = describe_lists(TASK, BestItems(LISTS, CONFIDENCE), ranks).together
    assert found["coverage"] == 5 / 6
    # The head is item 0, which two of six places have.
    assert found["tail"] == pytest.approx(4 / 6)
    counts = {0: 3, 1: 1, 2: 1, 3: 0, 4: 0, 5: 0}
    bits = [-math.log2((counts[item] + 1) / 11) for item in LISTS.reshape(-1).tolist()]
    assert found["novelty"] == pytest.approx(sum(bits) / 6)
    # 0 and 4 are alike, 3 and 1 as well as 0 and 5 share no word.
    assert found["diversity"] == pytest.approx(2 / 3)
    assert found["confidence"] == pytest.approx(1.625 / 3)
    assert found["calibration_error"] == pytest.approx((0.75 + 0.375 + 0.0) / 3)


def test_lists_of_one_item_have_no_diversity():
    """It is None, and the other measures don't fail."""
    ranks = UserRanks(np.zeros(3), np.zeros(3))
    found = describe_lists(TASK, BestItems(LISTS[:, :1], CONFIDENCE), ranks)
    assert found.together["diversity"] is None


def test_a_segments_lists_are_those_of_its_instances():
    """They are counted by themselves, with the popularity of the whole training part."""
    ranks = UserRanks(np.array([1.5, 2.0, 0.0]), np.array([np.inf, 0.0, np.inf]))
    found = describe_lists(TASK, BestItems(LISTS, CONFIDENCE), ranks).segments
    # All targets, 4, 5 and 4, are held out; three, three and two items come before them.
    assert {kind: list(segments) for kind, segments in found.items()} == {
        "target": ["0"],
        "history": ["2", "3"],
    }
    longer, shorter = found["history"]["3"], found["history"]["2"]
    assert (longer["coverage"], shorter["coverage"]) == (4 / 6, 2 / 6)
    assert (longer["tail"], shorter["tail"]) == (3 / 4, 1 / 2)
    assert longer["confidence"] == pytest.approx(0.3125)
    # A promise of 0.25 and a hit, one of 0.375 and none; the third is sure and right.
    assert longer["calibration_error"] == pytest.approx((0.75 + 0.375) / 2)
    assert shorter["calibration_error"] == 0
    assert (longer["diversity"], shorter["diversity"]) == (pytest.approx(1 / 2), 1)
