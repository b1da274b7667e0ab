"""What trained students know of a data set: user vectors of all instances, and scores.

Made by the code that ranks, so that a student that teaches another says what it is tested by.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32, Int64

from prmkd_jax.data.dataset import Dataset
from prmkd_jax.evaluate.evaluator import prefix_queries
from prmkd_jax.serve.exported import Exported
from prmkd_jax.serve.self_check import close
from prmkd_jax.students.registry import about, prefixes_alone
from prmkd_jax.students.student import structure

# Token slots encoded at once, at least one longest prefix.
SLOTS = 2048
# Instances by which it is seen whether scores are inner products.
_JUDGED = 64


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """One student's.

    Attributes:
        exported: the student.
        queries: the student's user vectors, row = instance id; zeros for users' first items.
        has_prefix: the instances that it can answer, ascending.
    """

    exported: Exported
    queries: Float32[np.ndarray, "N Q"]
    has_prefix: Int64[np.ndarray, " instances"]

    def score(self, instances: Int64[np.ndarray, " B"]) -> Float32[np.ndarray, "B V"]:
        """Its scores of all items."""
        return np.asarray(self._scorer(self.queries[instances]), np.float32)

    @functools.cached_property
    def is_inner_product(self) -> bool:
        """Whether a score is the user vector times the item's vector."""
        some = self.has_prefix[:: max(1, len(self.has_prefix) // _JUDGED)]
        queries, items = self.queries[some], self.exported.items
        return queries.shape[1] == items.shape[1] and close(queries @ items.T, self.score(some))

    @functools.cached_property
    def _scorer(self):
        config, facts = self.exported.config, self.exported.facts
        student = nnx.merge(structure(config, facts), nnx.State(self.exported.params))
        return jax.jit(lambda queries: student.score(queries, self.exported.items))


def knowledge(exported: Exported, dataset: Dataset) -> Knowledge:
    """Encodes every prefix of the histories that the student was trained on.

    Args:
        exported: the student.
        dataset: the student's data set; items and, where they have vectors, users in the student's
            order.
    """
    config, facts, interactions = exported.config, exported.facts, dataset.interactions
    ids = np.setdiff1d(np.arange(len(interactions.items)), interactions.indptr[:-1])
    if exported.users is None:
        own_slot = about(config.student).own_slot
        queries = prefix_queries(
            structure(config, facts),
            exported.params,
            interactions,
            facts.window,
            max(SLOTS, facts.window + own_slot),
            own_slot=own_slot,
            alone=prefixes_alone(config),
        )
    else:
        users = np.asarray(exported.users, np.float32)
        queries = np.zeros((len(interactions.items), users.shape[1]), np.float32)
        queries[ids] = users[interactions.users[ids]]
    return Knowledge(exported, queries, ids)


def joint_vectors(
    known: Sequence[Knowledge],
) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "V D"]] | None:
    """Vectors whose dot products are the mean of the students' scores.

    Returns:
        instances' and items'; None where a student's scores are no inner products.
    """
    if not all(one.is_inner_product for one in known):
        return None
    items = np.concatenate([np.asarray(one.exported.items, np.float32) for one in known], axis=1)
    return np.concatenate([one.queries for one in known], axis=1), items / np.float32(len(known))


def mean_scores(
    known: Sequence[Knowledge], instances: Int64[np.ndarray, " B"]
) -> Float32[np.ndarray, "B V"]:
    """The mean of the students' scores of all items."""
    scores = [one.score(instances) for one in known]
    return sum(scores[1:], start=scores[0]) / np.float32(len(known))
