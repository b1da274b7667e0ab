"""The body of `report`: table, page and figures of a finished study, made of its results again."""

from pathlib import Path
from typing import cast

from experiments.cli.command import Call
from experiments.cli.options import ReportConfig
from experiments.reporting.results import Results, Timing
from experiments.runs.views import TRAIN_FILES, StudyFiles, show, study_files, write_views
from experiments.stages.record import complete, read_results, read_versioned
from prmkd_jax.common.errors import UserError


def run(call: Call) -> None:
    """Writes and prints again what every finished study in `--output_dir` has found."""
    output = Path(call.config(ReportConfig).output_dir)
    for files in find_studies(output):
        results = cast(Results, read_versioned(output / files.results))
        timing = output / files.timing
        # Without it the page has dashes for the times.
        seconds = cast(Timing, read_results(timing)) if timing.is_file() else Timing()
        with complete(output / files.results):
            write_views(output, files, results, seconds)
            show(output, files, results, seconds, call.reporter)


def find_studies(output: Path) -> list[StudyFiles]:
    """The finished studies in a folder.

    Raises:
        UserError: there is none.
    """
    candidates = [TRAIN_FILES]
    for path in sorted(output.glob("*_run.json")):
        candidates.append(study_files(path.name.removesuffix("_run.json")))
    found = [files for files in candidates if (output / files.results).is_file()]
    if not found:
        raise UserError(
            f"--output_dir: found no results of a finished run in {output}, expected some"
        )
    return found
