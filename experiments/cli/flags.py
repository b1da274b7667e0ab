"""Every flag of the project, made from the packages' configuration dataclasses.

A field declared with `prmkd_jax.common.options.option` becomes one absl flag; its annotation
decides the type. The flags live in a `FlagValues` of their own and are turned once into
frozen configurations, so nothing else in the project knows of absl.

absl reads each value; `experiments.cli.arguments` decides which values there are.
"""

import dataclasses
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import flags

from experiments.cli.arguments import CONFIGS, expand, list_configs
from experiments.cli.kinds import Kind, describe, kind_of, to_text, to_value
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import allowed


class Group(NamedTuple):
    """The flags of one configuration dataclass: a topic of `--help`.

    Attributes:
        title: the topic.
        prefix: put before every field's name, as in `--unisrec_dropout`; "" for none.
        config: the dataclass.
    """

    title: str
    prefix: str
    config: type


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What the command line says.

    Attributes:
        configs: one configuration a group, in the order of the groups.
        explicit: names of the flags given on the command line itself, not by a flagfile.
    """

    configs: tuple[Any, ...]
    explicit: frozenset[str]


class _OptionParser(flags.ArgumentParser):
    """Reads one flag's text and checks it against the field's declaration."""

    def __init__(self, name: str, field: dataclasses.Field, kind: Kind):
        self.name, self.field, self.kind = name, field, kind

    def parse(self, argument: Any) -> Any:
        """Returns the value; a default that is no text is passed on as it is.

        Raises:
            UserError: naming the flag, the text found and what was expected.
        """
        if not isinstance(argument, str):
            return argument
        try:
            value = to_value(argument.strip(), self.kind)
        except ValueError:
            valid = False
        else:
            valid = allowed(value, self.field)
        if not valid:
            wanted = describe(self.field, self.kind)
            raise UserError(f"--{self.name}: found {argument!r}, expected {wanted}")
        return value


def define(groups: Sequence[Group]) -> flags.FlagValues:
    """Defines the flags of all groups, and --flagfile, in a fresh `FlagValues`."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("flagfile", None, "File of flags.", flag_values=flag_values)
    for _, prefix, config in groups:
        for field, kind in _options(config):
            name = prefix + field.name
            parser = _OptionParser(name=name, field=field, kind=kind)
            flag = flags.Flag(
                parser,
                None,
                name,
                field.default,
                field.metadata["help"],
                boolean=kind.element is bool and not kind.many,
            )
            flags.DEFINE_flag(flag, flag_values)
    return flag_values


def parse(
    argv: Sequence[str], groups: Sequence[Group], program: str = "python -m experiments.main"
) -> Parsed:
    """Reads the command line into configurations; `--help` prints and exits with status 0.

    A flag given twice takes its last value. Flags win over the flagfiles named beside them,
    wherever these stand, on the command line as in a flagfile that names another.

    Args:
        argv: the arguments, without the program's name.
        groups: what can be set.
        program: how the command is called, for `--help`.

    Raises:
        UserError: on an unknown flag, an impossible value or a leftover word, naming the
            flag (and the line of the flagfile), the value found and what was expected.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(groups, program), flush=True)
        raise SystemExit(0)
    flag_values = define(groups)
    settings = expand([(argv, "")], flag_values)
    for setting in settings:
        try:
            flag_values([program, f"--{setting.name}={setting.value}"])
        except UserError as error:
            raise UserError(f"{setting.origin}{error}") from None
    return Parsed(
        configs=tuple(_build(group, flag_values) for group in groups),
        explicit=frozenset(setting.name for setting in settings if not setting.origin),
    )


def as_dict(groups: Sequence[Group], configs: Sequence[Any]) -> dict[str, Any]:
    """Every flag's value by the flag's name, as JSON has it (a tuple is a list)."""
    values = {
        group.prefix + field.name: getattr(config, field.name)
        for group, config in zip(groups, configs, strict=True)
        for field, _ in _options(group.config)
    }
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def as_flagfile(groups: Sequence[Group], configs: Sequence[Any]) -> str:
    """A flagfile with every flag, which gives the same configurations when read back."""
    topics = []
    for group, config in zip(groups, configs, strict=True):
        lines = [
            f"--{group.prefix}{field.name}={to_text(getattr(config, field.name))}"
            for field, _ in _options(group.config)
        ]
        topics.append("\n".join([f"# {group.title}", *lines]) + "\n")
    return "\n".join(topics)


def help_text(groups: Sequence[Group], program: str) -> str:
    """All flags by topic, each with its default, its meaning and what it accepts."""
    width = min(shutil.get_terminal_size().columns, 100)

    def entry(flag: str, meaning: str) -> str:
        indent = " " * 6
        return f"  {flag}\n" + textwrap.fill(
            meaning, width, initial_indent=indent, subsequent_indent=indent
        )

    topics = [
        f"Usage: {program} [--flagfile=FILE] [--name=value ...]\n\n"
        "Every flag is shown with its default. A switch is also written --name or --noname.",
        "General\n"
        + entry(
            "--flagfile=FILE",
            "Read flags from a file, one a line; flags given beside it win. A name that is not "
            f"a file here is looked up in {CONFIGS.parent.name}/{CONFIGS.name}: "
            f"{list_configs()}.",
        )
        + "\n"
        + entry("--help", "Show this text."),
    ]
    for group in groups:
        entries = []
        for field, kind in _options(group.config):
            wanted = describe(field, kind)
            accepts = f" {wanted[0].upper()}{wanted[1:]}." if wanted != "text" else ""
            meaning = field.metadata["help"] + accepts
            entries.append(entry(f"--{group.prefix}{field.name}={to_text(field.default)}", meaning))
        topics.append("\n".join([group.title, *entries]))
    return "\n\n".join(topics)


def fail(message: str) -> NoReturn:
    """Prints one line to stderr and exits with status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` on the command line; a `UserError` ends in one line and status 2."""
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        # `--help | head` is no bug; stdout is flushed once more at exit, so it must lead somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        # A folder that is a file, no permission, no room: nothing that a traceback explains.
        fail(" ".join(str(error).split()))


def _options(config: type) -> Iterator[tuple[dataclasses.Field, Kind]]:
    """The fields of a dataclass that were declared with `option`, as flags."""
    annotations = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.metadata.get("flag"):
            yield field, kind_of(annotations[field.name])


def _build(group: Group, flag_values: flags.FlagValues) -> Any:
    """Makes the configuration, whose own checks may refuse two values together."""
    names = [field.name for field, _ in _options(group.config)]
    values = {name: flag_values[group.prefix + name].value for name in names}
    try:
        return group.config(**values)
    except UserError as error:
        # A configuration knows its fields without the prefix they have here.
        own = re.compile(rf"--({'|'.join(names)})\b")
        raise UserError(own.sub(rf"--{group.prefix}\1", str(error))) from None
