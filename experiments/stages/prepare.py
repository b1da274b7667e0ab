"""The body of `prepare`: what people have becomes a data set in the canonical layout."""

from experiments.cli.command import Call
from experiments.cli.console import Stage
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.download import Progress
from prmkd_jax.data.sources.prepare import prepare


def run(call: Call) -> None:
    """Prepares the data set and prints its data sheet, warnings last."""
    config, reporter = call.config(PrepareConfig), call.reporter
    config.require()
    if config.download:
        with reporter.stage("fetching", "MB") as stage:
            report = prepare(config, in_megabytes(stage), reporter.say)
    else:
        report = prepare(config, say=reporter.say)
    for line in report.lines():
        reporter.say(line)
    for warning in report.sheet.warnings:
        reporter.warn(str(warning))


def in_megabytes(stage: Stage) -> Progress:
    """Shows bytes as megabytes, and only when there is one more."""
    shown = (-1, "")

    def progress(done: int, total: int | None, title: str) -> None:
        nonlocal shown
        if (done >> 20, title) != shown:
            shown = (done >> 20, title)
            stage.update(done >> 20, (total or done) >> 20, title)

    return progress
