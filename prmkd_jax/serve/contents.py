"""What an export's card, ids and arrays must hold: a file with the right digest may still be wrong.

Digests tell accidents. A file that somebody wrote by hand, or another program, is told here, by its
field, before it is used.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prmkd_jax.common.errors import UserError, shortened
from prmkd_jax.common.options import is_number
from prmkd_jax.data.config import LONGEST_WINDOW, DataConfig
from prmkd_jax.serve.card import CardFacts
from prmkd_jax.students.config import StudentConfig

# More rows than any table has: JAX counts them in 32 bits.
_MOST_ROWS = 2**31 - 1

Config = TypeVar("Config", StudentConfig, DataConfig)
Check = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what is."""


def _is_whole(low: int, high: int = _MOST_ROWS) -> Check:
    def right(value: object) -> bool:
        return type(value) is int and low <= value <= high

    most = "" if high == _MOST_ROWS else f", at most {high}"
    return right, f"a whole number, at least {low}{most}"


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_lists_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_texts, value.values()))


def _is_metrics(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def _has(value: object, **fields: Callable[[Any], bool]) -> bool:
    """Whether it is an object with these fields."""
    return isinstance(value, dict) and all(right(value.get(name)) for name, right in fields.items())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and _has_whole_characters(value)


def _has_whole_characters(text: str) -> bool:
    """Whether a file takes it: JSON can hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_teacher(value: Any) -> bool:
    numbers = _has(value, label=_is_text) and _is_count(value.get("parameters", 0))
    return numbers and all(
        value.get(part) is None or _is_metrics(value[part]) for part in ("validation", "test")
    )


def _or_null(right: Callable[[Any], bool], wanted: str) -> Check:
    return (lambda value: value is None or right(value)), wanted


_METRICS = _or_null(_is_metrics, "an object of numbers")
_OBJECT: Check = (lambda value: isinstance(value, dict), "an object")
_TEXT: Check = (_is_text, "text")
_CARD: dict[str, Check] = {
    "label": _TEXT,
    "name": _TEXT,
    "config": _OBJECT,
    "class": _OBJECT,
    "dataset": _OBJECT,
    "dataset.name": _TEXT,
    "dataset.fingerprint": _or_null(_is_text, "text"),
    "facts": _OBJECT,
    "facts.users": _is_whole(0),
    "facts.items": _is_whole(1),
    "facts.window": _is_whole(1, LONGEST_WINDOW),
    "facts.second_items": _or_null(_is_count, "a whole number or null"),
    "fields": (_is_lists_of_texts, "an object of lists of texts"),
    "record": _OBJECT,
    "record.seed": _or_null(_is_count, "a whole number"),
    "record.best_epoch": _or_null(_is_count, "a whole number"),
    "record.epochs": _or_null(_is_count, "a whole number"),
    **dict.fromkeys(("record.validation", "record.test", "record.test_masked"), _METRICS),
    "record.method": _or_null(lambda value: _has(value, label=_is_text), "an object with a label"),
    "record.settings": _or_null(lambda value: isinstance(value, dict), "an object"),
    "record.split": _or_null(
        lambda value: _has(
            value, name=_is_text, train=_is_count, validation=_is_count, test=_is_count
        ),
        "an object with a name and numbers of instances",
    ),
    "record.data": _or_null(
        lambda value: _has(
            value,
            **dict.fromkeys(("users", "items", "interactions", "cold_targets"), _is_count),
            average_length=is_number,
        ),
        "an object of the data's sizes",
    ),
    "record.teachers": _or_null(
        lambda value: isinstance(value, dict) and all(map(_is_teacher, value.values())),
        "an object of objects, each with its label",
    ),
    "record.teacher_weights": _METRICS,
    "record.teacher_keys": _or_null(
        lambda value: isinstance(value, dict) and _is_texts([*value.values()]), "an object of texts"
    ),
    "record.remarks": _or_null(
        lambda value: (
            isinstance(value, list)
            and all(_has(each, name=_is_text, number=is_number, warning=_is_text) for each in value)
        ),
        "a list of objects, each with its name, number and warning",
    ),
    "record.license": _or_null(_is_text, "text"),
    "files": _OBJECT,
}


def require_card(path: Path, card: Mapping[str, object]) -> None:
    """Refuses a card in which something is missing or of another type.

    Raises:
        UserError: naming the field.
    """
    for name, (right, wanted) in _CARD.items():
        value: Any = card
        for part in name.split("."):
            value = value.get(part)
        _require(path, name, right(value), value, wanted)


def read_options(
    path: Path, place: str, values: Mapping[str, object], kind: type[Config]
) -> Config:
    """Options as a card holds them: unknown ones are passed over, missing ones have their defaults.

    Args:
        path: the path of the card.
        place: the field that holds them, for an error.
        values: option name → value, as read from the card.
        kind: the configuration class that declares the options.

    Raises:
        UserError: one is of another type, or outside its bounds, naming the card and the field.
    """
    known: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, default = values[field.name], field.default
        if isinstance(value, list):
            value = tuple(value)
        kinds = (str, type(None)) if default is None else (type(default),)
        # JSON doesn't tell 1 from 1.0.
        same = type(value) in kinds or (float in kinds and type(value) is int)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        if isinstance(value, tuple) and isinstance(default, tuple) and default:
            same = all(type(one) is type(default[0]) for one in value)
            wanted = f"a list of {type(default[0]).__name__}"
        _require(path, f"{place}.{field.name}", same, values[field.name], wanted)
        known[field.name] = value
    try:
        return kind(**known)
    except UserError as error:  # of the flag that such an option has
        raise UserError(f"{path}: {place}.{str(error).removeprefix('--')}") from None


def require_ids(path: Path, ids: Mapping[str, object], facts: CardFacts, *, users: bool) -> None:
    """Refuses lists of ids, titles or words that aren't texts, or of another length.

    Args:
        path: the path of the file.
        ids: the content of the file of ids.
        facts: the sizes.
        users: whether the student has vectors of its users, which their ids are the rows of.

    Raises:
        UserError: naming the list.
    """
    items: Any = ids.get("item_ids")
    _require_texts(path, "item_ids", items, facts["items"])
    _require(path, "item_ids", len(set(items)) == len(items), "one id twice", "each once")
    owners: Any = ids.get("user_ids")
    if users or owners is not None:
        _require_texts(path, "user_ids", owners, facts["users"])
        _require(path, "user_ids", len(set(owners)) == len(owners), "one id twice", "each once")
    if ids.get("titles") is not None:
        _require_texts(path, "titles", ids["titles"], facts["items"])
    fields: Any = ids.get("fields")
    _require(path, "fields", isinstance(fields, dict), fields, "an object")
    for name, words in fields.items():
        _require(path, f"fields.{name}", _is_texts(words), words, "a list of texts")


def require_views(path: Path, teachers: object) -> None:
    """Refuses what an artefact tells of its teachers where a field is missing or of another type.

    Raises:
        UserError: naming the list.
    """

    def right(each: Any) -> bool:
        if not _has(each, name=_is_text, label=_is_text):
            return False
        fidelity = each.get("fidelity")
        return fidelity is None or (is_number(fidelity) and math.isfinite(fidelity))

    fits = isinstance(teachers, list) and all(map(right, teachers))
    _require(path, "teachers", fits, teachers, "objects of a name, a label and a fidelity")


def require_none(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Refuses a table that this student has none of: it would be answered by.

    Raises:
        UserError: naming the table.
    """
    _require(path, name, name not in arrays, _form(arrays.get(name)), "none for this student")


def require_rows(path: Path, arrays: Mapping[str, np.ndarray], name: str, rows: int) -> None:
    """Refuses a table of another kind, or with another number of rows.

    Raises:
        UserError: naming the table.
    """
    table = arrays.get(name)
    right = table is not None and table.ndim == 2 and len(table) == rows
    _require(path, name, right, _form(table), f"{rows} rows")
    assert table is not None
    _require(path, name, table.dtype.kind == "f", str(table.dtype), "floats")
    _require(path, name, bool(np.isfinite(table).all()), "nan or infinity", "finite numbers")


def require_columns(path: Path, arrays: Mapping[str, np.ndarray], name: str, columns: int) -> None:
    """Refuses a table with another number of columns.

    Raises:
        UserError: naming the table.
    """
    table = arrays[name]
    _require(path, name, table.shape[1] == columns, _form(table), f"{columns} columns")


def require_places(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int | None, int | None],
    bounds: tuple[int, int] | np.ndarray,
) -> None:
    """Refuses an array of row numbers that point past their tables.

    Args:
        path: the path of the file.
        arrays: the file's arrays by their names.
        name: the name of the array that is checked.
        shape: rows and columns; None for any number.
        bounds: smallest number, and one past the largest; or such a pair for each row.

    Raises:
        UserError: naming the array.
    """
    found = arrays.get(name)
    right = (
        found is not None
        and found.ndim == 2
        and found.dtype.kind == "i"
        and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
    )
    _require(path, name, right, _form(found), "a table of row numbers")
    assert found is not None
    low, high = np.broadcast_to(np.asarray(bounds), (len(found), 2)).T[..., None]
    inside = bool(((found >= low) & (found < high)).all())
    _require(path, name, inside, "numbers past the last row", "rows that there are")


def _form(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype} of shape {array.shape}"


def _require_texts(path: Path, name: str, found: Any, count: int) -> None:
    _require(path, name, _is_texts(found), found, "a list of texts")
    _require(path, name, len(found) == count, f"{len(found)} of them", f"{count}")
    if not _has_whole_characters("".join(found)):
        half = next(text for text in found if not _has_whole_characters(text))
        _require(path, name, False, repr(half), "text without half a character")


def _require(path: Path, name: str, right: bool, found: object, wanted: str) -> None:
    if not right:
        told = repr(found) if not isinstance(found, str) else found
        raise UserError(f"{path}: {name}: found {shortened(told)}, expected {wanted}")


def require_same_ids(
    path: Path, field: str, found: Sequence[str] | None, expected: Sequence[str]
) -> None:
    """Rows that stand for other items, users or words would be read as these.

    Args:
        path: the file that has them.
        field: the name of the list in the file, such as its item ids.
        found: the file's ids; None where it has none.
        expected: the data set's.

    Raises:
        UserError: they differ.
    """
    if list(found or ()) != list(expected):
        raise UserError(
            f"{path}: {field}: found {len(found or ())} that differ from the data set's "
            f"{len(expected)}, expected the same in the same order"
        )
