"""What a study leaves for people: table, page and figures, made of its results alone."""

import dataclasses
from pathlib import Path

from experiments.cli.console import Reporter
from experiments.reporting.figures import figure_names, save_figures
from experiments.reporting.report import write_report
from experiments.reporting.results import Results, Timing
from experiments.reporting.study_figure import study_figure
from experiments.reporting.tables import markdown, print_files, print_results
from prmkd_jax.common.files import write_text


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
        figure: the variants as bars; "" where `figures` has them.
        figures: a folder of the page's figures; "" for none.
    """

    manifest: str
    results: str
    timing: str
    table: str
    report: str
    ranks: str
    figure: str = ""
    figures: str = ""

    def names(self) -> list[str]:
        """The files that every such study writes."""
        each = (self.results, self.timing, self.table, self.report, self.ranks, self.figure)
        return [name for name in each if name]

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
        figure=f"{name}.svg",
    )


def write_views(output: Path, files: StudyFiles, results: Results, timing: Timing) -> None:
    """Writes table, page and figures.

    Args:
        output: the study's folder.
        files: their names.
        results: see docs/records.md.
        timing: see docs/records.md.
    """
    write_text(output / files.table, markdown(results, timing))
    if files.figure:
        write_text(output / files.figure, study_figure(results))
    if files.figures:
        save_figures(output / files.figures, results)
    write_report(output / files.report, results, timing, (files.results, files.timing))


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
