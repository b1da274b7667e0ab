"""Whether validation ranks what a study compares as the test does."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.reporting.groups import teachers_in_order, untrained
from experiments.reporting.results import Results
from experiments.reporting.wording import MISSING, decimals
from prmkd_jax.evaluate.metrics import SELECTION_METRIC

FEWEST = 4
"""Candidates below which an order says nothing: two of three pairs agree by chance often enough."""


class Candidate(NamedTuple):
    """A model that could have been chosen, with its `SELECTION_METRIC` on both parts."""

    label: str
    validation: float
    test: float


def candidates(results: Results) -> list[Candidate]:
    """The untrained models, the teachers and the variants of a study.

    A student that was trained again on the validation items counts as it was before, since that
    is the one whose validation is known.
    """
    given = (*untrained(results).values(), *teachers_in_order(results).values())
    found = [(one["label"], one["validation"], one["test"]) for one in given]
    for one in results["variants"]:
        test = one.get("test_before_refit") or one["test"]
        found.append((one["label"], one["validation"], test))
    return [
        Candidate(label, validation[SELECTION_METRIC], test[SELECTION_METRIC])
        for label, validation, test in found
    ]


def choice_lines(results: Results) -> list[str]:
    """What validation would have chosen, as a paragraph; nothing for fewer than `FEWEST`."""
    found = candidates(results)
    if len(found) < FEWEST:
        return []
    chosen = max(found, key=lambda one: one.validation)
    best = max(found, key=lambda one: one.test)
    ends = (
        "which is the best there"
        if chosen == best
        else f"where {best.label} is the best with {decimals(best.test)}"
    )
    tau = order(found)
    kendall = MISSING if math.isnan(tau) else f"{tau:.2f}"
    refitted = any(one.get("test_before_refit") for one in results["variants"])
    before = " All tests here are before the refit, as validation saw the students." * refitted
    return [
        "",
        "Does validation choose what the test would? Kendall's τ of the two orders by "
        f"{SELECTION_METRIC} is {kendall} over {len(found)} models (1: the same, 0: unrelated). "
        f"Validation prefers {chosen.label}, which has {decimals(chosen.test)} on the test, "
        f"{ends}.{before}",
    ]


def order(found: Sequence[Candidate]) -> float:
    """Kendall's τ-b of the candidates by validation and by test; NaN if either ties them all."""
    tau, _ = stats.kendalltau([one.validation for one in found], [one.test for one in found])
    return float(np.asarray(tau))
