"""The body of `report`: table, page and figures of a finished study, made of its results again."""

from pathlib import Path
from typing import cast

from experiments.cli.command import Call
from experiments.cli.options import ReportConfig
from experiments.reporting.results import Results, Timing
from experiments.runs.views import find_studies, show, write_views
from experiments.stages.record import complete, read_results, read_versioned


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
