"""All variants of a study as bars."""

from matplotlib.axes import Axes

from experiments.reporting.plotting import COLOURS, draw_svg, horizontal_bars, svg_file
from experiments.reporting.results import Results
from experiments.reporting.tables import SHOWN
from experiments.reporting.wording import ALPHA, decimals


def study_figure(results: Results) -> str:
    """The variants' test NDCG@10 as bars in an SVG file; hollow ones may differ by chance."""
    rows = results["variants"]
    values = [row["test"][SHOWN] for row in rows]
    spreads = [(row["test_std"] or {}).get(SHOWN, 0.0) for row in rows]
    sure = [not row["against"] or row["against"][SHOWN]["t_p_holm"] < ALPHA for row in rows]
    words = [f"{SHOWN}, test set"]
    if any(spreads):
        words.append("whiskers: ±1 standard deviation over seeds")
    if not all(sure):
        words.append(f"hollow: p ≥ {ALPHA:g} against {results['study']['versus']}")

    def draw(axes: Axes) -> None:
        horizontal_bars(
            axes,
            [row["label"] for row in rows],
            values,
            [*map(decimals, values)],
            [COLOURS[row["kind"]] for row in rows],
            spreads,
            filled=sure,
        )
        axes.set_xlabel("\n".join(words))

    return svg_file(draw_svg(0.9 + 0.34 * len(rows) + 0.2 * (len(words) - 1), draw))
