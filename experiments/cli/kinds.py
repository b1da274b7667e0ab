"""The types that a flag can have: from text to a value, back, and in words."""

import dataclasses
import os
import re
import types
import typing
from typing import Any

from absl import flags

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import expected

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


Element = int | float | bool | str
Value = Element | tuple[Element, ...] | None


@dataclasses.dataclass(frozen=True)
class FlagKind:
    """The type of a flag: one `element` or a tuple of them, and whether None is a value."""

    element: type
    many: bool
    optional: bool


def kind_of(annotation: Any) -> FlagKind:
    """Reads an annotation: `int`, `float | None`, `tuple[str, ...]`, `Literal` and their like.

    Raises:
        TypeError: if no flag can hold such a value, which is a bug in the declaration.
    """
    optional = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    if optional:
        (annotation,) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
    if typing.get_origin(annotation) is typing.Literal:
        annotation = type(typing.get_args(annotation)[0])
    many = typing.get_origin(annotation) is tuple
    element = typing.get_args(annotation)[0] if many else annotation
    if element not in _WORDS:
        raise TypeError(f"no flag can hold {annotation}")
    return FlagKind(element, many, optional)


def to_value(text: str, kind: FlagKind) -> Value:
    """Reads a flag's text.

    Raises:
        ValueError: if it is no value of this kind.
    """
    if kind.optional and text.lower() == "none":
        return None
    if kind.many:
        parts = [part.strip() for part in text.split(",")] if text else []
        if "" in parts:
            raise ValueError("an empty element")
        return tuple(_element(part, kind.element) for part in parts)
    return _element(text, kind.element)


def _element(text: str, element: type) -> Element:
    if element is bool:
        return flags.BooleanParser().parse(text)
    # A flagfile has no quoting: such a text could not be written down for a later run.
    if len(text.splitlines()) > 1:
        raise ValueError("more than one line")
    return element(text)


def expand_path(text: str, flag: str) -> str:
    """A path with `~`, `~user`, `$VAR` and `${VAR}` replaced, as a shell would have done.

    Args:
        text: the path as written.
        flag: the flag's name for the error message, with its dashes.

    Raises:
        UserError: a variable is not set, or there is no such user.
    """
    path = os.path.expanduser(os.path.expandvars(text))
    unset = re.search(r"\$(\w+|\{\w+\})", path)
    if unset:
        raise UserError(f"{flag}: found {text!r}, expected a path: {unset.group()} is not set")
    if path.startswith("~"):
        raise UserError(f"{flag}: found {text!r}, expected a path: there is no such user")
    return path


def check_place(path: str, flag: str, what: bool | str) -> None:
    """Refuses a path that a file is in the way of, or a folder where a file is meant.

    Args:
        path: a path that a flag names; "" is nothing.
        flag: the flag's name for the error message, with its dashes.
        what: "folder" or "file"; True for either, which is not looked at.

    Raises:
        UserError: naming what was found in the way.
    """
    if what is True or not path:
        return
    if what == "file" and os.path.isdir(path):
        raise UserError(f"{flag}: found the folder {path}, expected a file")
    if what == "file" and os.path.lexists(path) and not os.path.isfile(path):
        # It would be replaced, or waited for.
        raise UserError(f"{flag}: found {path}, which is no file, expected one or nothing")
    place = path if what == "folder" else os.path.dirname(path)
    while place and not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if place and not os.path.isdir(place):
        link = "a link to nothing" if not os.path.exists(place) else "the file"
        raise UserError(f"{flag}: found {link} {place}, expected a folder")


def to_text(value: object) -> str:
    """The inverse of `to_value`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(to_text, value))
    return str(value)


def describe(field: dataclasses.Field, kind: FlagKind, *, found: str = "") -> str:
    """Says what a flag accepts, for `--help` and for what follows "expected".

    Args:
        field: the flag's.
        kind: the type expected.
        found: the text given in its place: of text that has several lines, lines are the mistake.
    """
    declared = field.metadata["choices"] or field.metadata["path"]
    limits = [] if declared else [_WORDS[kind.element]]
    limits += filter(None, [expected(field)])
    words = ", ".join(limits)
    if len(found.splitlines()) > 1 and kind.element is str and not field.metadata["choices"]:
        words = words.removesuffix(", not empty") + " of one line"
    if kind.many:
        words = f"values separated by commas, each {words}"
    return f"{words}, or none" if kind.optional else words
