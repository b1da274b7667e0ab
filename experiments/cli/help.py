"""What `--help` prints, and the same as a page of the docs: all commands, all flags."""

import shutil
import textwrap
from collections.abc import Sequence

from experiments.cli.arguments import CONFIGS, list_configs
from experiments.cli.flags import flag_name, flags_of
from experiments.cli.kinds import describe, to_text
from prmkd_jax.common.options import Group


def commands_text(program: str, summaries: Sequence[tuple[str, str]]) -> str:
    """The commands, one a line.

    Args:
        program: how the program is called.
        summaries: name and summary of each command.
    """
    width = max(len(name) for name, _ in summaries) + 2
    lines = [f"  {name:{width}}{summary}" for name, summary in summaries]
    return "\n".join(
        [
            f"Usage: {program} <command> [--flagfile=FILE] [--name=value ...]",
            "",
            *lines,
            "",
            f"{program} <command> --help lists a command's flags.",
        ]
    )


def flags_text(groups: Sequence[Group], usage: str) -> str:
    """All flags by topic, each with its default, its meaning and what it accepts.

    Args:
        groups: the flags.
        usage: how the command is called, and what it does.
    """
    width = min(shutil.get_terminal_size().columns, 100)

    def entry(flag: str, meaning: str) -> str:
        indent = " " * 6
        return f"  {flag}\n" + textwrap.fill(
            meaning, width, initial_indent=indent, subsequent_indent=indent
        )

    topics = [
        usage,
        "Every flag is shown with its default. A switch is also written --name or --noname.",
        "General\n"
        + entry(
            "--flagfile=FILE",
            "Read flags from a file, one a line; flags given next to it win. A name that is not "
            f"a file here is looked up in {CONFIGS.parent.name}/{CONFIGS.name}: "
            f"{list_configs()}.",
        )
        + "\n"
        + entry("--help", "Show this text."),
    ]
    for group in groups:
        entries = [entry(*each) for each in _entries(group)]
        if entries:
            topics.append("\n".join([group.title, *entries]))
    return "\n\n".join(topics)


def flags_page(commands: Sequence[tuple[str, str, Sequence[Group]]]) -> str:
    """docs/flags.md: every flag of every command; one that several share is listed once.

    Args:
        commands: name, summary and flags of each command.
    """
    lines = [
        "# Flags",
        "",
        "Made by `python -m experiments flags > docs/flags.md`; don't edit it by hand.",
        "",
        "A flag is given as `--name=value`, a switch also as `--name` or `--noname`, a list with "
        "commas and no spaces. `--flagfile=FILE` reads flags from a file, one a line; flags on the "
        "command line win over it, in any order. A name without a folder is looked up in "
        f"`{CONFIGS.parent.name}/{CONFIGS.name}`. In paths `~` and `$VAR` are expanded.",
    ]
    shared: dict[type, str] = {}
    for name, summary, groups in commands:
        lines += ["", f"## {name}", "", summary]
        known = dict.fromkeys(shared[group.config] for group in groups if group.config in shared)
        if known:
            lines += ["", f"Reads flags of {', '.join(f'`{each}`' for each in known)} too."]
        for group in groups:
            if group.config not in shared:
                lines += _rows(group)
            shared.setdefault(group.config, name)
    return "\n".join(lines) + "\n"


def _rows(group: Group) -> list[str]:
    """A group's flags as a Markdown table."""
    entries = _entries(group)
    if not entries:
        return []
    head = ["", f"### {group.title}", "", "| flag and default | meaning |", "|---|---|"]
    escaped = [(flag, meaning.replace("|", "\\|")) for flag, meaning in entries]
    return head + [f"| `{flag}` | {meaning} |" for flag, meaning in escaped]


def _entries(group: Group) -> list[tuple[str, str]]:
    """Each flag with its default, and its meaning with what it accepts."""
    entries = []
    for field, kind in flags_of(group.config):
        wanted = describe(field, kind)
        plain = wanted.rpartition(", each ")[2].removesuffix(", not empty") in ("text", "a path")
        accepts = "" if plain else f" {wanted[0].upper()}{wanted[1:]}."
        flag = f"--{flag_name(group.prefix, field)}={to_text(field.default)}"
        entries.append((flag, field.metadata["help"] + accepts))
    return entries
