"""Typed options: a dataclass field that knows its help text and its allowed values.

Every configuration dataclass of the project declares its fields with `option` and calls
`validate` in `__post_init__`; `experiments.cli.flags` makes the command line from the same
declarations, so a value is described, checked and refused in one place.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from prmkd_jax.common.errors import UserError


def option(
    default: object,
    help: str,
    *,
    choices: Sequence[object] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    filled: bool = False,
    flag: bool = True,
    path: bool | str = False,
    repeats: bool = False,
) -> Any:
    """Declares one option as a dataclass field.

    Args:
        default: the default value; its dataclass annotation decides the flag's type.
        help: the sentence that `--help` shows.
        choices: the allowed values (of every element, for a tuple).
        low: smallest allowed value, inclusive.
        high: largest allowed value, inclusive.
        above: exclusive lower bound.
        below: exclusive upper bound.
        filled: whether empty text is refused: as a path it would mean the current folder.
        flag: False for a constant that only Python code sets: checked and recorded like the
            others, but the command line has no flag for it.
        path: whether it is a file or folder name, in which the command line expands `~` and
            `$VAR`, and NUL is refused. "folder": a folder that is there or can be made; "file":
            a file that is there or can be; the command line looks whether something else is.
        repeats: whether a tuple may hold a value twice.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "bounds": bounds,
        "filled": filled,
        "flag": flag,
        "path": path,
        "repeats": repeats,
    }
    return dataclasses.field(default=default, metadata=metadata)


# Sizes and counts beyond are mistakes, and arrays of such sizes fit nowhere.
LARGEST_COUNT = 2**31 - 1
# What float32, in which everything is computed, makes neither infinite nor 0.
SMALLEST, LARGEST = 2.0**-126, 2.0**128 - 2.0**103


class Group(NamedTuple):
    """The flags of one configuration dataclass: a topic of `--help`.

    Attributes:
        title: the topic.
        prefix: put before every field's name, as in `--unisrec_dropout`; "" for none.
        config: the dataclass, which no other group of the command has.
    """

    title: str
    prefix: str
    config: type


def expected(field: dataclasses.Field) -> str:
    """Says in words what a field accepts: `one of a, b` or `at least 0, below 1`."""
    choices = field.metadata["choices"]
    bounds = field.metadata["bounds"]
    if choices:
        return "one of " + ", ".join(map(str, choices))
    if field.metadata["path"] or field.metadata["filled"]:
        kind = ["a path"] if field.metadata["path"] else []
        return ", ".join(kind + ["not empty"] * field.metadata["filled"])
    words = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    return ", ".join(
        f"{word} {_formatted(bounds[key])}"
        for key, word in words.items()
        if bounds[key] is not None
    )


def _formatted(bound: float) -> str:
    """A bound as people write it."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def validate(config: Any) -> None:
    """Checks every field of a configuration against its declaration.

    Raises:
        UserError: naming the field, the value found and what was expected. Here and in a
            configuration's own checks `--name` is its own field; `experiments.cli.flags` puts
            the prefix before it that the flag has.
    """
    for field in dataclasses.fields(config):
        if "bounds" not in field.metadata:
            continue
        value = getattr(config, field.name)
        if not allowed(value, field):
            raise UserError(
                f"--{field.name}: found {value!r}, expected "
                f"{expected(field) or 'a finite number'}{excess(value, field)}"
            )
        if isinstance(value, tuple) and not field.metadata["repeats"]:
            # Paths that are written otherwise, such as a and a/, are one.
            each = {Path(one) if field.metadata["path"] else one for one in value}
            if len(each) < len(value):
                found = ",".join(map(str, value))
                raise UserError(f"--{field.name}: found {found!r}, expected each value once")


def excess(value: object, field: dataclasses.Field) -> str:
    """What an error adds where a number is within the declared bounds, but of an absurd size."""
    elements = value if isinstance(value, tuple) else (value,)
    if any(is_number(one) and math.isfinite(one) and not _sane(one, field) for one in elements):
        whole = any(isinstance(one, int) for one in elements)
        return f", at most {LARGEST_COUNT}" if whole else ", that float32 can hold"
    return ""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a flag's or a JSON file's value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sane(value: float, field: dataclasses.Field) -> bool:
    """Whether a number's size is one that arrays and float32 can have."""
    if isinstance(value, float):
        return value == 0 or SMALLEST <= abs(value) <= LARGEST
    return field.metadata["bounds"]["high"] is not None or abs(value) <= LARGEST_COUNT


def allowed(value: object, field: dataclasses.Field) -> bool:
    """Whether a value (every element, for a tuple) lies within a field's declaration.

    None always does: the annotation says where it may stand. nan and infinity never do, nor
    numbers whose size is none that arrays and float32 can have.
    """
    elements = value if isinstance(value, tuple) else (value,)
    return all(_element_allowed(element, field) for element in elements)


def _element_allowed(value: Any, field: dataclasses.Field) -> bool:
    choices = field.metadata["choices"]
    bounds = field.metadata["bounds"]
    if value is None:
        return True
    if choices:
        return value in choices
    if field.metadata["filled"] and not value:
        return False
    if field.metadata["path"] and "\0" in value:
        return False  # no system has such a file
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if is_number(value) and not _sane(value, field):
        return False
    checks = {
        "low": lambda bound: value >= bound,
        "high": lambda bound: value <= bound,
        "above": lambda bound: value > bound,
        "below": lambda bound: value < bound,
    }
    return all(checks[key](bound) for key, bound in bounds.items() if bound is not None)
