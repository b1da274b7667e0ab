"""Whether validation ranks what a study compares as the test does."""

import math
from collections.abc import Mapping, Sequence
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


def choice_table(studies: Mapping[str, Results]) -> str:
    """What validation would have chosen in each of several studies, one a row.

    Args:
        studies: name → results; those with fewer than `FEWEST` models are left out.
    """
    rows = {}
    for name, results in studies.items():
        found = candidates(results)
        if len(found) >= FEWEST:
            rows[name] = results["data"]["name"], found, *_chosen_and_best(found)
    same = sum(chosen == best for _, _, chosen, best in rows.values())
    lines = [
        f"In {same} of {len(rows)} studies the model that validation prefers is the best on the "
        "test.",
        "",
        f"| record | data | models | Kendall's τ | best on validation | its {SELECTION_METRIC}, "
        "validation and test | best on the test, if another |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (data, found, chosen, best) in rows.items():
        figures = f"{decimals(chosen.validation)} and {decimals(chosen.test)}"
        other = "" if chosen == best else f"{best.label}, {decimals(best.test)}"
        cells = [name, data, str(len(found)), _tau(found), chosen.label, figures, other]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def choice_lines(results: Results) -> list[str]:
    """What validation would have chosen, as a paragraph; nothing for fewer than `FEWEST`."""
    found = candidates(results)
    if len(found) < FEWEST:
        return []
    chosen, best = _chosen_and_best(found)
    ends = (
        "which is the best there"
        if chosen == best
        else f"where {best.label} is the best with {decimals(best.test)}"
    )
    refitted = any(one.get("test_before_refit") for one in results["variants"])
    before = " All tests here are before the refit, as validation saw the students." * refitted
    return [
        "",
        "Does validation choose what the test would? Kendall's τ of the two orders by "
        f"{SELECTION_METRIC} is {_tau(found)} over {len(found)} models (1: the same, 0: "
        f"unrelated). Validation prefers {chosen.label}, which has {decimals(chosen.test)} on the "
        f"test, {ends}.{before}",
    ]


def order(found: Sequence[Candidate]) -> float:
    """Kendall's τ-b of the candidates by validation and by test; NaN if either ties them all."""
    tau, _ = stats.kendalltau([one.validation for one in found], [one.test for one in found])
    return float(np.asarray(tau))


def _tau(found: Sequence[Candidate]) -> str:
    tau = order(found)
    return MISSING if math.isnan(tau) else f"{tau:.2f}"


def _chosen_and_best(found: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """The best by validation, and by the test."""
    by_test = max(found, key=lambda one: one.test)
    return max(found, key=lambda one: one.validation), by_test
