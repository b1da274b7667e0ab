"""What a student's lists of the test part are like, for its record."""

from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.calibration import calibration
from prmkd_jax.evaluate.evaluator import BestItems, UserRanks
from prmkd_jax.evaluate.lists import list_metrics, word_vectors

FIELDS = ("title", "brand", "categories")
"""The texts whose words count: those that teachers read in one sentence."""


def describe_lists(task: Task, lists: BestItems, ranks: UserRanks) -> dict[str, float | None]:
    """Coverage, Gini, tail, novelty and diversity of the lists, and how sure the scores are.

    Args:
        task: data and split; the training part says what is popular.
        lists: each test instance's best items, history not masked.
        ranks: the ranks of the same instances.
    """
    length = lists.items.shape[1]
    words = word_vectors({field: task.dataset.catalogue.texts[field] for field in FIELDS})
    return {
        # Two items are the fewest that differ from each other.
        **list_metrics(lists.items, task.training_counts, words if length > 1 else None),
        **calibration(lists.confidence, ranks.all_items < length),
    }
