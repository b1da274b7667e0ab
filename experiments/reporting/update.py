"""The table of an update: yesterday's student, the updated one, one from scratch."""

from collections.abc import Mapping
from typing import Any

from experiments.reporting.wording import MISSING, decimals
from prmkd_jax.evaluate.metrics import KEY_METRICS

MODELS = {
    "yesterday": "Yesterday's",
    "mapped": "With rows for new items",
    "updated": "Updated",
    "scratch": "From scratch",
}
"""The compared students, in the table's order, and what they are called."""
_PARTS = {
    "test": "all targets",
    "known_targets": "known targets",
    "new_targets": "new targets",
}


def update_table(result: Mapping[str, Any]) -> str:
    """Recall@10 / NDCG@10 on today's test part, and seconds, as Markdown.

    Args:
        result: the content of update.json.
    """
    models = [result["models"][name] for name in MODELS if name in result["models"]]
    first = models[0]
    heads = [
        f"{title} ({0 if first[part] is None else first[part]['instances']})"
        for part, title in _PARTS.items()
    ]
    lines = [
        f"{result['student']} on {result['data']['name']}: Recall@10 / NDCG@10 on the test part",
        "",
        f"| student | {' | '.join(heads)} | seconds |",
        "|---|" + "---:|" * (len(heads) + 1),
    ]
    for model in models:
        cells = [_cell(model[part]) for part in _PARTS]
        seconds = MISSING if model["seconds"] is None else f"{model['seconds']:.1f}"
        lines.append(f"| {model['label']} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines) + "\n"


def _cell(metrics: Mapping[str, float] | None) -> str:
    if metrics is None:
        return MISSING
    return " / ".join(decimals(metrics[name]) for name in KEY_METRICS)
