"""python -m experiments.prepare --source=table --name=Shop --interactions=orders.csv

Makes a data set in the canonical layout of what people have: docs/data.md.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.flags import Group, parse, run_command
from prmkd_jax.data.sources.config import PrepareConfig

if TYPE_CHECKING:
    from experiments.console import Stage
    from prmkd_jax.data.sources.download import Progress

PREPARE_GROUPS = (Group("Prepare", "", PrepareConfig),)


def main(argv: Sequence[str]) -> None:
    """Reads the flags, prepares, prints the data sheet; warnings go last."""
    (config,) = parse(argv, PREPARE_GROUPS, "python -m experiments.prepare").configs
    config.require()
    # Only now: --help needs neither polars nor a terminal.
    from experiments.console import Reporter
    from prmkd_jax.data.sources.prepare import prepare

    reporter = Reporter()
    try:
        if config.download:
            with reporter.stage("fetching", "MB") as stage:
                report = prepare(config, in_megabytes(stage), reporter.say)
        else:
            report = prepare(config, say=reporter.say)
    except KeyboardInterrupt:
        reporter.say("interrupted; the data set was not written, downloads go on from here")
        sys.exit(130)
    for line in report.lines():
        reporter.say(line)
    for line in report.sheet.warnings:
        reporter.warn(str(line))


def in_megabytes(stage: "Stage") -> "Progress":
    """Shows bytes as megabytes, and only when there is one more."""
    shown = (-1, "")

    def progress(done: int, total: int | None, title: str) -> None:
        nonlocal shown
        if (done >> 20, title) != shown:
            shown = (done >> 20, title)
            stage.update(done >> 20, (total or done) >> 20, title)

    return progress


if __name__ == "__main__":
    run_command(main)
