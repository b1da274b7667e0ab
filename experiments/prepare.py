"""python -m experiments.prepare --source=table --name=Shop --interactions=orders.csv

Makes a data set in the canonical layout of what people have: docs/data.md.
"""

import sys
from collections.abc import Sequence

from experiments.flags import Group, parse, run_command
from prmkd_jax.data.sources.config import PrepareConfig

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
        with reporter.stage("fetching", "MB") as stage:

            def progress(done: int, total: int | None, title: str) -> None:
                stage.update(done >> 20, (total or done) >> 20, title)

            report = prepare(config, progress, reporter.say)
    except KeyboardInterrupt:
        reporter.say("interrupted; the data set was not written, downloads go on from here")
        sys.exit(130)
    for line in report.lines():
        reporter.say(line)
    for line in report.sheet.warnings:
        reporter.warn(str(line))


if __name__ == "__main__":
    run_command(main)
