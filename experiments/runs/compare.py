"""Finished runs as the results of a study: what variants give, and what their differences mean."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from experiments.reporting.results import Timing
from experiments.runs.finished import FinishedRun
from experiments.runs.variant import Study, Variant
from experiments.stages.lists import Figures, SegmentFigures
from experiments.stages.record import SCHEMA_VERSION, SeedResult
from experiments.stages.seconds import describe_timing
from prmkd_jax.evaluate.metrics import METRICS
from prmkd_jax.evaluate.significance import Comparison, difference, holm, measure

PARTS = ("validation", "test", "test_masked")

Tested = dict[str, dict[str, float | tuple[float, float] | None]]
"""Metric → `change` (a fraction of the reference, None where that is 0), `interval` (its 95 %
interval over users), `t_p`, `t_p_holm`, `wilcoxon_p`, `wilcoxon_p_holm`."""

Ranks = Float[np.ndarray, " instances"]
Key = TypeVar("Key")


class Compared(NamedTuple):
    """The tests of a study, the p-values of each kind corrected by themselves.

    Attributes:
        reference: name of each variant that has a reference → its tests.
        models: name of each variant → model that no seed trains → tests.
        alone: name of each distilled variant → its student alone from another start, where neither
            is the other's reference → tests.
    """

    reference: dict[str, Tested]
    models: dict[str, dict[str, Tested]]
    alone: dict[str, dict[str, Tested]]


def study_results(
    study: Study,
    runs: Mapping[Variant, FinishedRun],
    environment: Mapping[str, object],
    settings: Mapping[str, Any],
    models: Mapping[str, Ranks] | None = None,
    models_masked: Mapping[str, Ranks] | None = None,
) -> dict[str, object]:
    """The results of a study, a view of its runs' records (docs/records.md).

    Args:
        study: the study, with its name and title.
        runs: variant, in the table's order → its run.
        environment: machine and versions with which the results were put together.
        settings: every flag's value, as the command got them.
        models: test ranks of the teachers and of the untrained models, as far as known.
        models_masked: the same with the items of the history taken out.
    """
    teachers: dict[str, Any] = {}
    for run in runs.values():
        teachers = {**run.record.teachers, **teachers}
    asked = [name for name in settings["teachers"] if name in teachers]
    order = dict.fromkeys([*asked, *teachers])
    ranks, masked = {}, {}
    for variant, run in runs.items():
        if run.ranks is not None:
            ranks[variant.name] = run.ranks
        if run.masked is not None:
            masked[variant.name] = run.masked
    compared = compare_runs(runs, ranks, models or {})
    compared_masked = compare_runs(runs, masked, models_masked or {}) if masked else None
    first = next(iter(runs.values())).record
    return {
        "schema_version": SCHEMA_VERSION,
        "study": {"name": study.name, "title": study.title, "versus": study.versus},
        "data": first.data,
        "split": first.split,
        "environment": environment,
        "settings": settings,
        "teachers": {name: teachers[name] for name in order},
        "variants": [
            {
                **describe_variant(variant, run),
                **_described(compared, variant),
                "masked": _described(compared_masked, variant)
                if compared_masked and variant.name in masked
                else None,
            }
            for variant, run in runs.items()
        ],
    }


def study_timing(runs: Mapping[Variant, FinishedRun], stages: Mapping[str, float]) -> Timing:
    """What the clock says of a study, in seconds, apart from the results.

    Args:
        runs: variant → its run.
        stages: seconds of each stage of this command.
    """
    teachers: dict[str, Any] = {}
    for run in runs.values():
        teachers |= run.teacher_seconds
    return {
        "stages": dict(stages),
        "teachers": teachers,
        "variants": {
            variant.name: describe_timing(run.record.seeds, run.seconds)
            for variant, run in runs.items()
        },
    }


def _described(compared: Compared, variant: Variant) -> dict[str, object]:
    return {
        "against": compared.reference.get(variant.name),
        "against_models": compared.models.get(variant.name, {}),
        "against_alone": compared.alone.get(variant.name, {}),
    }


def compare_runs(
    runs: Mapping[Variant, FinishedRun],
    ranks: Mapping[str, Float[np.ndarray, "seeds instances"]],
    models: Mapping[str, Ranks],
) -> Compared:
    """What each variant's difference from its reference, and from each rival, is worth.

    Each user's metric is averaged over the seeds, then one paired test runs over the users. The
    p-values of a metric are corrected by Holm's method, over all variants that have a reference,
    and apart from them over all pairs of a variant and a model, and over all pairs of a distilled
    variant and its student alone.

    Args:
        runs: variants and their runs.
        ranks: name of a variant → its test ranks; a variant without them is compared with none.
        models: name → test ranks of models that have no seeds.
    """
    found = measure([*ranks.values(), *(row[None] for row in models.values())])
    variants = dict(zip(ranks, found, strict=False))
    others = dict(zip(models, found[len(ranks) :], strict=True))
    references = {
        v.name: v.reference
        for v in runs
        if v.reference is not None and {v.name, v.reference} <= set(variants)
    }
    against = _tested(
        {name: difference(variants[other], variants[name]) for name, other in references.items()}
    )
    pairs = _tested(
        {
            (name, model): difference(before, after)
            for name, after in variants.items()
            for model, before in others.items()
        }
    )
    rivals = [(name, other) for name, other in _rivals(runs) if {name, other} <= set(variants)]
    starts = _tested(
        {(name, other): difference(variants[other], variants[name]) for name, other in rivals}
    )
    alone: dict[str, dict[str, Tested]] = {}
    for (name, other), tested in starts.items():
        alone.setdefault(name, {})[other] = tested
    ahead = {name: {model: pairs[name, model] for model in others} for name in variants if others}
    return Compared(against, ahead, alone)


def _rivals(runs: Mapping[Variant, FinishedRun]) -> list[tuple[str, str]]:
    """Distilled variants with their student alone from another start than their own.

    Not those that `reference` pairs already, and not the student alone at another width or with a
    curriculum, which is no rival.
    """
    return [
        (one.name, other.name)
        for one in runs
        for other in runs
        if (one.kind, other.kind) == ("distilled", "base")
        and runs[one].record.student["name"] == runs[other].record.student["name"]
        and _start(runs[one]) != _start(runs[other])
        and other.name != one.reference
        and one.name != other.reference
    ]


def _start(run: FinishedRun) -> object:
    return run.record.settings.get("item_init")


def _tested(compared: Mapping[Key, Mapping[str, Comparison]]) -> dict[Key, Tested]:
    """Comparisons as JSON has them, each metric's p-values corrected over all of them."""
    tested: dict[Key, Tested] = {key: {} for key in compared}
    for metric in METRICS:
        each = [comparison[metric] for comparison in compared.values()]
        t_holm = holm([one.t_p for one in each])
        wilcoxon_holm = holm([one.wilcoxon_p for one in each])
        for key, one, t, wilcoxon in zip(compared, each, t_holm, wilcoxon_holm, strict=True):
            tested[key][metric] = {
                "change": one.improvement,
                "interval": one.interval,
                "t_p": one.t_p,
                "t_p_holm": t,
                "wilcoxon_p": one.wilcoxon_p,
                "wilcoxon_p_holm": wilcoxon,
            }
    return tested


def describe_variant(variant: Variant, run: FinishedRun) -> dict[str, object]:
    """A variant's results: the means over seeds, and each seed."""
    seeds = run.record.seeds
    return {
        "name": variant.name,
        "label": variant.label,
        "kind": variant.kind,
        "flags": list(variant.flags),
        "reference": variant.reference,
        "student": run.record.student,
        "method": run.record.method,
        "teacher_weights": run.record.teacher_weights,
        **{part: _over_seeds(seeds, part, statistics.fmean) for part in PARTS},
        "test_before_refit": _before_refit(seeds),
        # Means over seeds; None where one seed's were not measured.
        "lists": _mean_lists(seeds),
        "segment_lists": _segment_lists(seeds),
        # One seed has no spread.
        "test_std": _over_seeds(seeds, "test", statistics.stdev) if len(seeds) > 1 else None,
        "best_epoch": statistics.fmean(seed.best_epoch for seed in seeds),
        "parameters": run.record.parameters,
        "seeds": [vars(seed) for seed in seeds],
    }


def _before_refit(seeds: Sequence[SeedResult]) -> dict[str, float] | None:
    if any(seed.test_before_refit is None for seed in seeds):
        return None
    return _over_seeds(seeds, "test_before_refit", statistics.fmean)


def _segment_lists(seeds: Sequence[SeedResult]) -> SegmentFigures | None:
    measured = [seed.segment_lists for seed in seeds if seed.segment_lists is not None]
    if len(measured) < len(seeds):
        return None
    return {
        kind: {name: _mean_figures([one[kind][name] for one in measured]) for name in segments}
        for kind, segments in measured[0].items()
    }


def _mean_lists(seeds: Sequence[SeedResult]) -> Figures | None:
    measured = [seed.lists for seed in seeds if seed.lists is not None]
    return None if len(measured) < len(seeds) else _mean_figures(measured)


def _mean_figures(seeds: Sequence[Figures]) -> Figures:
    return {
        # A data set without texts has no diversity, whatever the seed.
        name: None if value is None else statistics.fmean(float(one[name] or 0) for one in seeds)
        for name, value in seeds[0].items()
    }


def _over_seeds(
    seeds: Sequence[SeedResult], part: str, summarise: Callable[[list[float]], float]
) -> dict[str, float]:
    values = {metric: [getattr(seed, part)[metric] for seed in seeds] for metric in METRICS}
    return {metric: summarise(values[metric]) for metric in METRICS}
