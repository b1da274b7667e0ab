"""The body of `bench`: the suite that `--suite` names."""

from experiments.benchmarks import serve_costs, steps
from experiments.cli.command import Call
from experiments.cli.options import BenchConfig

SUITES = {"train": steps.run, "serve": serve_costs.run}


def run(call: Call) -> None:
    """Measures, prints and writes what the suite writes."""
    SUITES[call.config(BenchConfig).suite](call)
