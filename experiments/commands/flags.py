"""The command `flags`, which makes docs/flags.md."""

from experiments.cli.command import Command

COMMAND = Command(
    name="flags",
    summary="Print every flag of every command as Markdown (docs/flags.md).",
    groups=(),
    body="experiments.commands.table:print_flags",
    computes=False,
)
