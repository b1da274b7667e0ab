"""All commands; a new one is a file here and a line in `COMMANDS`."""

from experiments.cli.command import Call
from experiments.cli.help import flags_page
from experiments.commands import (
    bench,
    export,
    flags,
    load,
    measure,
    portability,
    prepare,
    pretrain,
    recommend,
    report,
    search,
    serve,
    study,
    teach,
    train,
    update,
)

COMMANDS = (
    prepare.COMMAND,
    train.COMMAND,
    pretrain.COMMAND,
    study.COMMAND,
    search.COMMAND,
    report.COMMAND,
    recommend.COMMAND,
    export.COMMAND,
    teach.COMMAND,
    update.COMMAND,
    bench.COMMAND,
    serve.COMMAND,
    load.COMMAND,
    measure.COMMAND,
    portability.COMMAND,
    flags.COMMAND,
)


def print_flags(_: Call) -> None:
    """Prints docs/flags.md."""
    print(flags_page([(each.usage, each.summary, each.groups) for each in COMMANDS]), end="")
