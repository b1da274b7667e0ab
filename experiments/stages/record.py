"""What stands in results.json and timing.json: trained models in, JSON values out."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bridge.teacher_bank import TeacherBank
from experiments.stages.students import Trained
from prmkd_jax.data.dataset import Dataset, table_statistics
from prmkd_jax.data.splits import Split
from prmkd_jax.evaluate.evaluator import UserRanks
from prmkd_jax.evaluate.metrics import METRICS, ranking_metrics
from prmkd_jax.evaluate.significance import compare

SCHEMA_VERSION = 1


def describe_dataset(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Table 2's statistics, and how many test targets no student can learn of."""
    items = dataset.interactions.items
    in_train = np.arange(len(items)) < split.train_end[dataset.interactions.users]
    trained = np.zeros(dataset.num_items, dtype=bool)
    trained[items[in_train]] = True
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        **table_statistics(dataset),
        "cold_targets": int((~trained[items[split.test]]).sum()),
    }


def describe_teacher(card: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's entry, out of its card; the clock stays outside."""
    kept = ("validation", "test", "table_bytes", "epochs", "best_epoch")
    return {**{key: card[key] for key in kept}, "parameters": card["num_parameters"]}


def describe_student(
    base: Sequence[Trained], distilled: Sequence[Trained], bank: TeacherBank | None
) -> dict[str, Any]:
    """A student's entry: plain, distilled, and what the difference is worth."""
    entry: dict[str, Any] = {"base": _describe_variant(base)}
    if bank is None:
        return entry
    entry["prmkd"] = _describe_variant(distilled)
    weights = zip(bank.names, bank.default_weights, strict=True)
    entry["prmkd"]["teacher_weights"] = {name: float(weight) for name, weight in weights}
    # JSON has no infinity: null is "never exclude".
    thresholds = [t.threshold if np.isfinite(t.threshold) else None for t in distilled]
    for record, threshold in zip(entry["prmkd"]["per_seed"], thresholds, strict=True):
        record["threshold"] = threshold
    ranks = [np.stack([test_ranks(t).all_items for t in runs]) for runs in (base, distilled)]
    compared = compare(*ranks)
    entry["improvement"] = {metric: compared[metric].improvement for metric in METRICS}
    entry["p_value"] = {metric: compared[metric].t_p for metric in METRICS}
    entry["p_value_wilcoxon"] = {metric: compared[metric].wilcoxon_p for metric in METRICS}
    return entry


def describe_timing(trained: Sequence[Trained]) -> dict[str, float]:
    """Seconds of a student's training (mean over seeds), of an epoch and of a validation."""
    epochs = sum(len(t.fitted.history) for t in trained)
    train = sum(t.fitted.train_seconds for t in trained)
    return {
        "train_seconds": train / len(trained),
        "seconds_per_epoch": train / epochs,
        "evaluate_seconds": sum(t.fitted.evaluate_seconds for t in trained) / epochs,
    }


def test_ranks(trained: Trained) -> UserRanks:
    """The ranks of the test instances of a run that reports them."""
    if trained.fitted.test is None:
        raise ValueError("this run was not to rank the test part")
    return trained.fitted.test


def _describe_variant(trained: Sequence[Trained]) -> dict[str, Any]:
    per_seed = [
        {
            "seed": one.seed,
            "validation": ranking_metrics(one.fitted.validation.all_items),
            "test": ranking_metrics(test_ranks(one).all_items),
            "test_masked": ranking_metrics(test_ranks(one).unseen_items),
            "best_epoch": one.fitted.best_epoch,
            "epochs": len(one.fitted.history),
            "history": one.fitted.history,
        }
        for one in trained
    ]

    def over_seeds(part: str, summarise: Callable[[list[float]], float]) -> dict[str, float]:
        return {metric: summarise([seed[part][metric] for seed in per_seed]) for metric in METRICS}

    parts = ("validation", "test", "test_masked")
    return {
        **{part: over_seeds(part, statistics.fmean) for part in parts},
        # One seed has no spread.
        "test_std": over_seeds("test", statistics.stdev) if len(trained) > 1 else None,
        "parameters": trained[0].fitted.parameters,
        "per_seed": per_seed,
    }
