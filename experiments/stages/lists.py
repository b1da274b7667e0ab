"""What a student's lists of the test part are like, for its record."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import sparse

from experiments.stages.segments import segments_of
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.calibration import calibration
from prmkd_jax.evaluate.evaluator import BestItems, UserRanks
from prmkd_jax.evaluate.lists import list_metrics, word_vectors

FIELDS = ("title", "brand", "categories")
"""The texts whose words count: those that teachers read in one sentence."""

Figures = dict[str, float | None]
"""Coverage, Gini, tail, novelty and diversity of some lists, and how sure the scores are."""


SegmentFigures = dict[str, dict[str, Figures]]
"""Kind of segment → segment → the figures of its instances' lists."""


class DescribedLists(NamedTuple):
    """What lists are like.

    Attributes:
        together: the figures of all lists.
        segments: the same by segments.
    """

    together: Figures
    segments: SegmentFigures


def describe_lists(task: Task, lists: BestItems, ranks: UserRanks) -> DescribedLists:
    """What the lists of the test part are like, together and by segments.

    Args:
        task: data and split; the training part says what is popular.
        lists: each test instance's best items, history not masked.
        ranks: the ranks of the same instances.
    """
    words = None
    if lists.items.shape[1] > 1:  # two items are the fewest that differ from each other
        words = word_vectors({field: task.dataset.catalogue.texts[field] for field in FIELDS})
    return DescribedLists(
        _figures(task, lists, ranks, words, np.ones(len(lists.items), dtype=bool)),
        {
            kind: {
                segment.name: _figures(task, lists, ranks, words, segment.members)
                for segment in segments
            }
            for kind, segments in segments_of(task).items()
        },
    )


def _figures(
    task: Task,
    lists: BestItems,
    ranks: UserRanks,
    words: sparse.csr_array | None,
    members: Bool[np.ndarray, " instances"],
) -> Figures:
    items = lists.items[members]
    return {
        **list_metrics(items, task.training_counts, words),
        **calibration(lists.confidence[members], ranks.all_items[members] < items.shape[1]),
    }
