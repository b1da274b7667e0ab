"""Every flag of the project, made from the packages' configuration dataclasses.

A field declared with `prmkd_jax.common.options.option` becomes one absl flag; its annotation
decides the type. The flags live in a `FlagValues` of their own and are turned once into
frozen configurations, so nothing else in the project knows of absl.

absl reads each value; `experiments.cli.arguments` decides which values there are.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from experiments.cli.arguments import expand
from experiments.cli.kinds import (
    FlagKind,
    check_place,
    describe,
    expand_path,
    kind_of,
    to_text,
    to_value,
)
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import Group, allowed, excess

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What the command line says.

    Attributes:
        configs: every group's dataclass → the configuration made of it.
        explicit: names of the flags given on the command line itself, not by a flagfile.
        given: names of the flags given anywhere.
    """

    configs: Mapping[type, object]
    explicit: frozenset[str]
    given: frozenset[str]


def config_of(configs: Mapping[type, object], kind: type[Config]) -> Config:
    """The configuration of one dataclass among a command's.

    Raises:
        TypeError: the command has no such group, which is a bug in its declaration.
    """
    config = configs.get(kind)
    if not isinstance(config, kind):
        raise TypeError(f"no group of flags has {kind.__name__}")
    return config


class _OptionParser(flags.ArgumentParser):
    """Reads one flag's text and checks it against the field's declaration."""

    def __init__(self, name: str, field: dataclasses.Field, kind: FlagKind):
        self.name = name
        self.field = field
        self.kind = kind

    def parse(self, argument: object) -> object:
        """Returns the value; a default that is no text is passed on as it is.

        Raises:
            UserError: naming the flag, the text found and what was expected.
        """
        if not isinstance(argument, str):
            return argument
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"--{self.name}: found {argument!r}, expected text of UTF-8: no file of flags "
                "could repeat it"
            ) from None
        value: Any = None
        try:
            value = to_value(argument.strip(), self.kind)
        except ValueError:
            valid = False
        else:
            valid = allowed(value, self.field)
        if not valid:
            wanted = describe(self.field, self.kind, found=argument.strip())
            wanted += excess(value, self.field)
            raise UserError(f"--{self.name}: found {argument!r}, expected {wanted}")
        if not self.field.metadata["path"]:
            return value
        if isinstance(value, tuple):
            return tuple(self._path(each) for each in value)
        return self._path(value) if isinstance(value, str) else value

    def _path(self, text: str) -> str:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            # No shell takes them away in a flagfile.
            raise UserError(f"--{self.name}: found {text!r}, expected a path without quotes")
        path = expand_path(text, f"--{self.name}")
        if re.search(r"\s(#|//)\s", text) and not os.path.lexists(path):
            # Behind a value it would name another folder, such as a cache without its teachers.
            raise UserError(
                f"--{self.name}: found {text!r}, expected a path without a comment, which has a "
                "line of its own"
            )
        check_place(path, f"--{self.name}", self.field.metadata["path"])
        return path


def define(groups: Sequence[Group]) -> flags.FlagValues:
    """Defines the flags of all groups, and --flagfile, in a fresh `FlagValues`.

    Raises:
        TypeError: two groups have the same dataclass.
    """
    if len({group.config for group in groups}) < len(groups):
        raise TypeError("two groups of flags have the same configuration")
    flag_values = flags.FlagValues()
    flags.DEFINE_string("flagfile", None, "File of flags.", flag_values=flag_values)
    for _, prefix, config in groups:
        for field, kind in flags_of(config):
            name = flag_name(prefix, field)
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


def parse(argv: Sequence[str], groups: Sequence[Group]) -> Parsed:
    """Reads the command line into configurations.

    A flag given twice takes its last value. Flags win over the flagfiles named next to them,
    wherever these are, on the command line as in a flagfile that names another.

    Args:
        argv: the arguments, without the program's name.
        groups: the flags that can be set.

    Raises:
        UserError: on an unknown flag, an impossible value or a leftover word, naming the
            flag (and the line of the flagfile), the value found and what was expected.
    """
    flag_values = define(groups)
    settings = expand([(argv, "")], flag_values)
    for setting in settings:
        try:
            flag_values(["", f"--{setting.name}={setting.value}"])
        except UserError as error:
            raise UserError(f"{setting.origin}{error}") from None
    return Parsed(
        configs={group.config: _build(group, flag_values) for group in groups},
        explicit=frozenset(setting.name for setting in settings if not setting.origin),
        given=frozenset(setting.name for setting in settings),
    )


def as_dict(groups: Sequence[Group], configs: Mapping[type, object]) -> dict[str, object]:
    """Every option's value by its flag's name, as JSON has it (a tuple is a list).

    Options without a flag are included: a run depends on them too.
    """
    values = {
        flag_name(group.prefix, field): getattr(configs[group.config], field.name)
        for group in groups
        for field, _ in _options(group.config)
    }
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def as_flagfile(groups: Sequence[Group], configs: Mapping[type, object]) -> str:
    """A flagfile with every flag, which gives the same configurations when read back."""
    topics = []
    for group in groups:
        lines = [
            f"--{flag_name(group.prefix, field)}="
            f"{to_text(getattr(configs[group.config], field.name))}"
            for field, _ in flags_of(group.config)
        ]
        topics.append("\n".join([f"# {group.title}", *lines]) + "\n")
    return "\n".join(topics)


def names_of(groups: Sequence[Group]) -> list[str]:
    """The names of all flags of these groups, in order, without the dashes."""
    return [
        flag_name(group.prefix, field) for group in groups for field, _ in flags_of(group.config)
    ]


def flag_name(prefix: str, field: dataclasses.Field) -> str:
    """A flag's name; a field that can't have a word of Python as its name has a _ after it."""
    return prefix + field.name.removesuffix("_")


def flags_of(config: type) -> Iterator[tuple[dataclasses.Field, FlagKind]]:
    """The options of a dataclass that the command line can set, and their types."""
    return (each for each in _options(config) if each[0].metadata["flag"])


def _options(config: type) -> Iterator[tuple[dataclasses.Field, FlagKind]]:
    """The fields of a dataclass that were declared with `option`, constants too."""
    annotations = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if "flag" in field.metadata:
            yield field, kind_of(annotations[field.name])


def _build(group: Group, flag_values: flags.FlagValues) -> object:
    """Makes the configuration, whose own checks may refuse two values together."""
    fields = [field for field, _ in flags_of(group.config)]
    names = [field.name for field in fields]
    values = {each.name: flag_values[flag_name(group.prefix, each)].value for each in fields}
    try:
        return group.config(**values)
    except UserError as error:
        # A configuration knows its fields without the prefix they have here.
        own = re.compile(rf"--({'|'.join(names)})\b")
        raise UserError(own.sub(rf"--{group.prefix}\1", str(error))) from None
