"""What models reach where nobody may recommend what a user has, as a table of its own."""

from collections.abc import Callable

from experiments.reporting.groups import teachers_in_order, untrained
from experiments.reporting.results import Results, VariantResult
from experiments.reporting.wording import MISSING, decimals, p_value, percent

SHOWN = ("Recall@10", "NDCG@10")
TESTED = "NDCG@10"


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
        values = [decimals(masked[metric]) for metric in SHOWN] if masked else [MISSING] * 2
        rows.append([model["label"], *values, "", ""])
    for variant in measured:
        masked = variant.get("test_masked") or {}
        values = [decimals(masked[metric]) for metric in SHOWN]
        rows.append([variant["label"], *values, *_test(variant, written)])
    return rows


def masked_lines(results: Results) -> list[str]:
    """The table as Markdown; nothing where it has no rows."""
    rows = masked_rows(results)
    if not rows:
        return []
    return [
        "",
        f"With what a user already has masked, for all models; the change of {TESTED} and p-values "
        f"against {results['study']['versus']} as above.",
        "",
        f"| model | {' | '.join(SHOWN)} | change of {TESTED} | p, t-test |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _test(variant: VariantResult, written: Callable[[float], str]) -> list[str]:
    tests = variant.get("masked")
    against = (tests or {}).get("against")
    if not against:
        return ["", ""]
    return [percent(against[TESTED]["change"]), written(against[TESTED]["t_p_holm"])]
