"""All commands; a new one is a file here and a line in `COMMANDS`."""

from experiments.cli.command import Call
from experiments.cli.help import flags_page
from experiments.commands import bench, flags, prepare, pretrain, report, search, study, train

COMMANDS = (
    prepare.COMMAND,
    train.COMMAND,
    pretrain.COMMAND,
    study.COMMAND,
    search.COMMAND,
    report.COMMAND,
    bench.COMMAND,
    flags.COMMAND,
)


def print_flags(_: Call) -> None:
    """Prints docs/flags.md."""
    print(flags_page([(each.usage, each.summary, each.groups) for each in COMMANDS]), end="")
