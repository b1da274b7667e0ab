"""The house style of the figures: SVG without pyplot's global state, equal bytes every time."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from prmkd_jax.common.files import write_text, writing

INK, RULE = "#1d2733", "#d3d9e0"
BASE, DISTILLED, TEACHER = "#8593a3", "#1f5fa8", "#c9a86a"
COLOURS = {"teacher": TEACHER, "base": BASE, "distilled": DISTILLED, "other": TEACHER}
"""Kind of a row → its colour."""
FONT = "DejaVu Sans"
# 4.6 in is 331 SVG units: in the page's columns the letters keep about the size of its text.
WIDTH = 4.6
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prmkd",
    "font.family": "sans-serif",
    "font.sans-serif": [FONT],
    "font.size": 9,
    # A user's own teacher may have a dollar sign in its name.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and its words.

    Attributes:
        name: the file's name, without suffix.
        title: a short heading.
        note: how to read it.
        alt: a description with the numbers, for readers who don't see it.
        svg: the `<svg>` element.
    """

    name: str
    title: str
    note: str
    alt: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Sketch:
    """A figure that is still to be drawn, as one file or another.

    Attributes:
        height: inches, to a width of `WIDTH`.
        draw: puts the content on the axes.
        alt: a description with the numbers, for readers who don't see it.
    """

    height: float
    draw: Callable[[Axes], None]
    alt: str

    def svg(self) -> str:
        """An SVG file's content."""
        return svg_file(draw_svg(self.height, self.draw))

    def png(self) -> bytes:
        """A PNG file's content, on white."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
            self.draw(figure.subplots())
            out = BytesIO()
            # matplotlib's version would change the bytes without changing the figure.
            figure.savefig(out, format="png", dpi=200, metadata={"Software": None})
        return out.getvalue()

    def save(self, stem: Path) -> None:
        """Writes `<stem>.svg` and `<stem>.png`."""
        write_text(stem.with_name(f"{stem.name}.svg"), self.svg())
        with writing(stem.with_name(f"{stem.name}.png")) as partial:
            partial.write_bytes(self.png())


def draw_svg(height: float, draw: Callable[[Axes], None], width: float = WIDTH) -> str:
    """One pair of axes in the house style as an `<svg>` element.

    Args:
        height: inches.
        draw: puts the content on the axes.
        width: inches.
    """
    return draw_panels(height, [draw], width)


def draw_panels(
    height: float, panels: Sequence[Callable[[Axes], None]], width: float = WIDTH
) -> str:
    """Axes below each other, of one height, in the house style as an `<svg>` element.

    Args:
        height: inches, of all of them together.
        panels: each puts the content on its axes.
        width: inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        for draw, (axes,) in zip(panels, figure.subplots(len(panels), squeeze=False), strict=True):
            draw(axes)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    # matplotlib's version would change the bytes without changing the figure.
    return re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S).strip()


def svg_file(svg: str) -> str:
    """An `<svg>` element as a file of its own."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def horizontal_bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    colours: Sequence[str],
    errors: Sequence[float] | None = None,
    filled: Sequence[bool] | None = None,
    intervals: Sequence[tuple[float, float] | None] | None = None,
) -> None:
    """Bars from the top down, each with its text at its end.

    A positive error is drawn as whiskers; 0 says that there is no spread to show. An interval is
    drawn in its place. Bars that are not filled show their outline.
    """
    places = range(len(labels))
    bars = axes.barh(places, values, height=0.64, color=colours, edgecolor=colours)
    for bar, fill in zip(bars, filled or [True] * len(labels), strict=True):
        bar.set_fill(fill)
    spread = np.zeros(len(labels)) if errors is None else np.asarray(errors)
    starts, ends = np.asarray(values) - spread, np.asarray(values) + spread
    for place, known in enumerate(intervals or []):
        if known is not None:
            starts[place], ends[place] = known
    for place in np.flatnonzero(starts != ends):
        whisker = (starts[place], ends[place])
        axes.plot(whisker, (place, place), color=INK, lw=1, marker="|", ms=4)
    name_rows(axes, labels)
    for place, value, start, end, text in zip(places, values, starts, ends, texts, strict=True):
        axes.annotate(
            text,
            (end if value >= 0 else start, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value >= 0 else "right",
        )
    # Room for the texts, which don't count when matplotlib sets the limits.
    low, high = min(0.0, *starts), max(0.0, *ends)
    room = 0.2 * (high - low or 1)
    axes.set_xlim(low - room if low < 0 else 0, high + room if high > 0 or low == 0 else 0)


def explain_x(axes: Axes, lines: Sequence[str]) -> None:
    """Words below the x axis, in the figure's middle: below the axes' own, beside long names, they
    would be cut off. For figures of one pair of axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes of ours are always on one
    figure.supxlabel("\n".join(lines), fontsize=STYLE["font.size"])


def log_x(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers; called when all is drawn.

    Matplotlib's own labels are formulas, which the house style shows as they are written.
    """
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis, axes.get_xlim())


def log_y(axes: Axes) -> None:
    """A logarithmic y axis, as `log_x`."""
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis, axes.get_ylim())


def _plain_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    low, high = limits
    few = high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}")
    )
    axis.set_minor_locator(NullLocator())


def name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Bars' names from the top down; no grid, since every bar carries its value."""
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.spines["left"].set_visible(False)
    axes.invert_yaxis()
