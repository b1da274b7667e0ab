"""What a suite leaves: one JSON file, one table, one figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from experiments.benchmarks.timing import BenchRow, exponent
from experiments.cli.command import Call
from experiments.cli.flags import as_dict
from experiments.cli.settings import GROUPS
from experiments.reporting.plotting import WIDTH, draw_panels, draw_svg, log_x, log_y
from experiments.stages.environment import describe_environment
from prmkd_jax.common.files import write_json, write_text

_FEWEST_POINTS = 3  # of a curve

# Bars have long names beside them.
WIDE = 1.6 * WIDTH


def write(
    call: Call, suite: str, rows: Sequence[BenchRow], more: Mapping[str, object] | None = None
) -> None:
    """Shows the table and writes `bench-<suite>.json`, `.md` and `.svg` into --output_dir.

    Args:
        call: the command, with its settings and output folder.
        suite: the suite's name.
        rows: the suite's figures.
        more: further fields of the JSON file.
    """
    folder = Path(call.settings.run.output_dir)
    content = {
        "suite": suite,
        "environment": describe_environment(),
        "settings": as_dict(GROUPS, call.configs),
        "rows": [{**row._asdict(), "of": dict(row.of)} for row in rows],
        "exponents": exponents(rows),
        **(more or {}),
    }
    write_json(folder / f"bench-{suite}.json", content)
    text = table(rows)
    write_text(folder / f"bench-{suite}.md", text)
    write_text(folder / f"bench-{suite}.svg", figure(rows) + "\n")
    call.reporter.say(text)
    call.reporter.say(f"Written to {folder}: bench-{suite}.json, .md and .svg")


def table(rows: Sequence[BenchRow]) -> str:
    """Markdown: a line a row, then a line a fitted exponent."""
    lines = ["| what | at | median | quartiles | unit | times |", "|---|---|---|---|---|---|"]
    for row in rows:
        at = ", ".join(f"{size:,} {name}" for name, size in row.of.items())
        spread = f"{row.low:.4g} – {row.high:.4g}" if row.repeats > 1 else ""
        # What couldn't be measured has a row all the same, whose name says why.
        value = f"{row.value:.4g}" if row.repeats else ""
        lines.append(f"| {row.name} | {at} | {value} | {spread} | {row.unit} | {row.repeats} |")
    fitted = exponents(rows)
    if fitted:
        lines += ["", "| grows with | exponent |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in fitted.items()]
    return "\n".join(lines)


def exponents(rows: Sequence[BenchRow]) -> dict[str, float]:
    """b of seconds ≈ a · size^b, for every curve of three points or more."""
    return {
        f"{name}, {axis}": exponent(*zip(*points, strict=True))
        for (name, axis), points in curves(rows).items()
    }


def curves(rows: Iterable[BenchRow]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(name, axis) → (size, seconds) of the rows that one size alone tells apart."""
    alike: dict[tuple[str, tuple[str, ...]], list[BenchRow]] = {}
    for row in rows:
        if row.unit == "s" and row.of and row.value > 0:
            alike.setdefault((row.name, tuple(row.of)), []).append(row)
    found = {}
    for (name, _), group in alike.items():
        varying = [axis for axis in group[0].of if len({row.of[axis] for row in group}) > 1]
        if len(varying) == 1 and len(group) >= _FEWEST_POINTS:
            (axis,) = varying
            found[name, axis] = sorted((row.of[axis], row.value) for row in group)
    return found


def figure(rows: Sequence[BenchRow]) -> str:
    """Curves on logarithmic axes where there are any, else a bar a row.

    Bars are seconds; where nothing was timed, what has the first row's unit.
    """
    found = curves(rows)
    if found:
        return _draw_curves(found)
    units = [row.unit for row in rows]
    shown = "s" if "s" in units else "".join(units[:1])
    return _draw_bars([row for row in rows if row.unit == shown], shown)


def _draw_curves(found: Mapping[tuple[str, str], Sequence[tuple[int, float]]]) -> str:
    """Axes for each size that varies."""

    def panel(size: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for (name, axis), points in found.items():
                if axis == size:
                    sizes, seconds = zip(*points, strict=True)
                    slope = exponent(sizes, seconds)
                    axes.plot(sizes, seconds, marker="o", label=f"{name} ({axis}^{slope:.2f})")
            axes.set_xlabel(size)
            axes.set_ylabel("seconds")
            log_x(axes)
            log_y(axes)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=8)

        return draw

    axes = list(dict.fromkeys(axis for _, axis in found))
    return draw_panels(2.7 * len(axes) + 0.2 * len(found), [panel(axis) for axis in axes])


def _draw_bars(rows: Sequence[BenchRow], unit: str) -> str:
    def draw(axes: Axes) -> None:
        names = [row.name for row in rows]
        if len(set(names)) < len(names):
            # Only where sizes tell rows apart: a long label leaves no room for its bar.
            sizes = [[f"{v:,} {k}" for k, v in row.of.items()] for row in rows]
            names = [", ".join([name, *of]) for name, of in zip(names, sizes, strict=True)]
        middle = [row.value for row in rows]
        spread = [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]
        axes.barh(range(len(rows)), middle, xerr=spread)
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlabel("seconds, with quartiles" if unit == "s" else unit)

    return draw_svg(0.8 + 0.24 * max(len(rows), 1), draw, WIDE)
