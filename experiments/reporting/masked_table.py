"""What models reach where nobody may recommend what a user has, as a table of its own."""

from collections.abc import Callable

from experiments.reporting.groups import teachers_in_order, untrained
from experiments.reporting.results import Results, VariantResult
from experiments.reporting.wording import MISSING, decimals, p_value, percent
from prmkd_jax.evaluate.metrics import KEY_METRIC, KEY_METRICS


def masked_rows(results: Results, written: Callable[[float], str] = p_value) -> list[list[str]]:
    """Label, Recall@10, NDCG@10, the change of NDCG@10 and its p-value.

    None of results that were not tested so, as those of earlier versions.

    Args:
        results: see docs/records.md.
        written: how a p-value is.
    """
    measured = [row for row in results["variants"] if row.get("test_masked")]
    if not any(row.get("masked") for row in measured):
        return []
    models = results.get("models", {})
    rows = []
    for name, model in {**untrained(results), **teachers_in_order(results)}.items():
        masked = models.get(name, {}).get("test_masked")
        values = [decimals(masked[metric]) for metric in KEY_METRICS] if masked else [MISSING] * 2
        rows.append([model["label"], *values, "", ""])
    for variant in measured:
        masked = variant.get("test_masked") or {}
        values = [decimals(masked[metric]) for metric in KEY_METRICS]
        rows.append([variant["label"], *values, *_test(variant, written)])
    return rows


def masked_lines(results: Results) -> list[str]:
    """The table as Markdown; nothing where it has no rows."""
    rows = masked_rows(results)
    if not rows:
        return []
    return [
        "",
        f"With what a user already has masked, for all models; the change of {KEY_METRIC} and "
        f"p-values against {results['study']['versus']} as above.",
        "",
        f"| model | {' | '.join(KEY_METRICS)} | change of {KEY_METRIC} | p, t-test |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _test(variant: VariantResult, written: Callable[[float], str]) -> list[str]:
    tests = variant.get("masked")
    against = (tests or {}).get("against")
    if not against:
        return ["", ""]
    return [percent(against[KEY_METRIC]["change"]), written(against[KEY_METRIC]["t_p_holm"])]
