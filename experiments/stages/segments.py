"""Groups of test instances that are looked at apart."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.segments import Segment, count_segments

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "target": "how often the target was trained on",
        "history": "how many items came before the target",
    }
)
"""Kind of segment → what its numbers count."""


def segments_of(task: Task) -> dict[str, Sequence[Segment]]:
    """Kind → the groups of test instances, each instance in one group of a kind."""
    interactions, test = task.dataset.interactions, task.split.test
    before = test - interactions.indptr[interactions.users[test]]
    return {
        "target": count_segments(task.training_counts[task.targets(test)]),
        "history": count_segments(before),
    }
