"""What a study leaves for people: table, page and figures, made of its results alone."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from experiments.cli.console import Reporter
from experiments.reporting.curves import SIGNS, curve
from experiments.reporting.figures import figure_names, save_figures
from experiments.reporting.plotting import Sketch
from experiments.reporting.report import write_report
from experiments.reporting.results import Results, Timing
from experiments.reporting.study_figure import effects_figure, study_figure
from experiments.reporting.tables import markdown, print_files, print_results
from experiments.reporting.together import is_together, together
from experiments.runs.analysis import ANALYSES
from experiments.runs.variant import Study
from experiments.stages.record import read_versioned
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text

CURVES = {"sensitivity": tuple(SIGNS)}
"""Study → the settings that it has a curve for."""


@dataclasses.dataclass(frozen=True)
class StudyFiles:
    """Names of a study's files in `--output_dir`.

    Attributes:
        manifest: the file that says whose folder it is, see `stages.run_folder`.
        results: the results as JSON (docs/records.md).
        timing: the seconds as JSON.
        table: the variants as a Markdown table.
        report: the page.
        ranks: every test instance's expected rank, an array `<variant>-seed<seed>` each.
        drawn: name of the study's figures without suffix; "" where `figures` has them.
        figures: a folder of the page's figures; "" for none.
    """

    manifest: str
    results: str
    timing: str
    table: str
    report: str
    ranks: str
    drawn: str = ""
    figures: str = ""

    def names(self) -> list[str]:
        """The files that every such study writes."""
        each = [self.results, self.timing, self.table, self.report, self.ranks]
        if self.drawn:
            each += [f"{name}{end}" for name in self.sketches() for end in (".svg", ".png")]
        return each

    def sketches(self) -> dict[str, Callable[[Results], Sketch]]:
        """The study's own figures, by the names of their files without suffix."""
        found: dict[str, Callable[[Results], Sketch]] = {
            self.drawn: study_figure,
            f"{self.drawn}_effects": effects_figure,
        }
        # A study of one of several data sets has its name after a hyphen.
        for flag in CURVES.get(self.drawn.partition("-")[0], ()):
            found[f"{self.drawn}_{flag}"] = functools.partial(curve, flag=flag)
        return found

    def figure_names(self, groups: list[str]) -> list[str]:
        """The files that it may write in `figures`."""
        if not self.figures:
            return []
        return [f"{self.figures}/{name}" for group in groups for name in figure_names(group)]


TRAIN_FILES = StudyFiles(
    manifest="run.json",
    results="results.json",
    timing="timing.json",
    table="results.md",
    report="report.html",
    ranks="ranks.npz",
    figures="figures",
)


def study_files(name: str) -> StudyFiles:
    """The files of a study that shares its folder with others."""
    return StudyFiles(
        manifest=f"{name}_run.json",
        results=f"{name}.json",
        timing=f"{name}_timing.json",
        table=f"{name}.md",
        report=f"{name}.html",
        ranks=f"{name}_ranks.npz",
        drawn=name,
    )


def find_studies(output: Path) -> list[StudyFiles]:
    """The finished studies in a folder, without those that train nothing and have no ranks.

    Raises:
        UserError: there is none.
    """
    candidates = [TRAIN_FILES]
    names = [path.name.removesuffix("_run.json") for path in sorted(output.glob("*_run.json"))]
    candidates += [study_files(name) for name in names if name not in ANALYSES]
    found = [files for files in candidates if (output / files.results).is_file()]
    if not found:
        raise UserError(
            f"--output_dir: found no results of a finished run in {output}, expected some"
        )
    return found


def write_views(output: Path, files: StudyFiles, results: Results, timing: Timing) -> None:
    """Writes table, page and figures.

    Args:
        output: the study's folder.
        files: the names of the files.
        results: see docs/records.md.
        timing: see docs/records.md.
    """
    # The page first, for it reads the most: of damaged results nothing is written.
    write_report(output / files.report, results, timing, (files.results, files.timing))
    write_text(output / files.table, markdown(results, timing))
    if files.drawn:
        for name, sketch in files.sketches().items():
            sketch(results).save(output / name)
    if files.figures:
        save_figures(output / files.figures, results)


def show(
    output: Path,
    files: StudyFiles,
    results: Results,
    timing: Timing,
    reporter: Reporter,
) -> None:
    """Prints the results and where the files are."""
    shown = {
        "report": output / files.report,
        "results": output / files.results,
        "timing": output / files.timing,
        "test ranks": output / files.ranks,
        "table": output / files.table,
    }
    if len(results["variants"]) > 2:
        reporter.say(markdown(results, timing))
        print_files(reporter.console, shown)
    else:
        students = {"students": output / "students"} if files.figures else {}
        print_results(reporter.console, results, timing, {**shown, **students})


def require_together(output: Path, study: Study) -> None:
    """Refuses to replace what is no table of several data sets, such as that of one alone.

    Raises:
        UserError: naming it.
    """
    path = output / f"{study.name}.md"
    if os.path.lexists(path) and not is_together(path, study.title):
        raise UserError(
            f"{path}: found a file that is no table of several data sets, expected one or nothing "
            "(take another --output_dir)"
        )


def write_together(output: Path, study: Study, names: Sequence[str], reporter: Reporter) -> None:
    """Writes and prints `<study>.md`, the table of several data sets.

    Args:
        output: folder of the data sets' own results.
        study: the study that was made for each.
        names: the data sets.
        reporter: prints.

    Raises:
        UserError: as `require_together`.
    """
    require_together(output, study)
    several = {
        name: cast(Results, read_versioned(output / study_files(f"{study.name}-{name}").results))
        for name in names
    }
    table = together(study.title, several)
    write_text(output / f"{study.name}.md", table)
    reporter.say(table)
