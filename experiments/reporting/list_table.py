"""What variants' lists are like, as a table of its own (docs/records.md)."""

from experiments.reporting.results import Figures, Results
from experiments.reporting.wording import MISSING, decimals

LISTS = {
    "coverage": ("coverage", "share of all items that some list has"),
    "gini": ("Gini", "how unequally items are shown: 0 alike, 1 one item alone"),
    "tail": ("tail", "share of the places given to items outside of the most popular fifth"),
    "novelty": ("novelty", "mean −log₂ of the items' share of the training interactions, bits"),
    "diversity": ("diversity", "1 − mean cosine of two items' words"),
    "confidence": ("promised", "the list's share of the softmax; compare with Recall@10"),
    "calibration_error": ("calibration error", "of that promise, ten groups of equal size"),
}
"""What lists are like: the key in the results → heading, meaning."""


def list_lines(results: Results) -> list[str]:
    """A second table: what the variants' lists are like; nothing where none was measured."""
    rows = results["variants"]
    if not any(row.get("lists") for row in rows):
        return []
    return [
        "",
        f"Lists of ten, test part, history not masked; MRR: mean of 1 / the target's rank among "
        f"all items. {explain_lists()}.",
        "",
        f"| variant | MRR | {' | '.join(heading for heading, _ in LISTS.values())} |",
        f"|---|---|{'---|' * len(LISTS)}",
        *(
            f"| {row['label']} | {decimals(row['test']['MRR'])} | "
            f"{' | '.join(list_cells(row.get('lists')))} |"
            for row in rows
        ),
    ]


def explain_lists() -> str:
    """The meaning of each heading."""
    return "; ".join(f"{heading}: {meaning}" for heading, meaning in LISTS.values())


def list_cells(lists: Figures | None) -> list[str]:
    """A variant's figures in the order of `LISTS`; a dash where one isn't known."""
    values = [(lists or {}).get(key) for key in LISTS]
    return [MISSING if value is None else f"{value:.3f}" for value in values]
