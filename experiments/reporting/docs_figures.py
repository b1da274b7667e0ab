"""Figures of the docs, drawn of the same small copies as their tables."""

import functools
from collections.abc import Callable, Mapping

from experiments.reporting.curves import SIGNS, curve
from experiments.reporting.plotting import Sketch
from experiments.reporting.results import Results
from experiments.reporting.study_figure import effects_figure, study_figure

OWN = "figure"
"""View of every record: the figure that its study leaves under its own name."""

FIGURES: Mapping[str, Callable[[Results], Sketch]] = {
    OWN: study_figure,
    "effects": effects_figure,
    **{flag: functools.partial(curve, flag=flag) for flag in SIGNS},
}
"""What a block `<!-- made of NAME: VIEW -->` draws of a study; a sensitivity's has the settings'
curves, too."""


def on_white(svg: str) -> str:
    """An SVG file that can be read on a page of any colour."""
    return svg.replace("<svg ", '<svg style="background: #fff" ', 1)
