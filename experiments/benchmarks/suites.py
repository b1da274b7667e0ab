"""The body of `bench`: the suite that `--suite` names."""

from collections.abc import Callable
from pathlib import Path

from experiments.benchmarks import (
    compiling,
    devices,
    distill,
    end_to_end,
    evaluate,
    memory,
    report,
    scale,
    serve_costs,
    steps,
    students,
    tuning,
)
from experiments.benchmarks.columns import require_columns
from experiments.benchmarks.peers import measure as peers
from experiments.benchmarks.timing import BenchRow
from experiments.cli.command import Call
from experiments.cli.flags import as_flagfile
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS, Settings
from prmkd_jax.common.places import require_place

Measure = Callable[[Settings, BenchConfig, Callable[[str], None]], list[BenchRow]]

MEASURED: dict[str, Measure] = {
    "train": steps.rows,
    "students": students.measure,
    "distill": distill.measure,
    "evaluate": evaluate.measure,
    "teachers": tuning.measure,
    "compile": compiling.measure,
    "scale": scale.measure,
    "memory": memory.measure,
    "devices": devices.measure,
}
"""Suites that measure in this process and leave rows."""
DISTILLED = ("train", "students", "distill", "compile", "scale", "memory")
"""Those that take distilled steps without a training before them."""


def run(call: Call) -> None:
    """Measures, prints and writes what the suite writes.

    Raises:
        UserError: the place can't be written to, the suite can't measure these columns, or as the
            suite.
    """
    config, say = call.config(BenchConfig), call.reporter.say
    suite = config.suite
    require_place(Path(call.settings.run.output_dir), "--output_dir")
    if suite in DISTILLED:
        require_columns(call.settings, f"--suite={suite}")
    if suite == "serve":
        serve_costs.run(call)
    elif suite == "peers":
        rows, printed = peers.measure(call)
        report.write(call, suite, rows, {"peers": printed})
    elif suite == "end_to_end":
        report.write(call, suite, end_to_end.measure(as_flagfile(GROUPS, call.configs), say))
    else:
        report.write(call, suite, MEASURED[suite](call.settings, config, say))
