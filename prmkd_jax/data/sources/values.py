"""What a line of JSON or of Python says: its value, keys that are there twice, and its faults."""

import ast
import datetime
import decimal
import functools
import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from prmkd_jax.common.reading import RepeatedField

# What JSON, a Python literal or a nested parquet column holds.
Scalar: TypeAlias = (
    str | int | float | bool | bytes | decimal.Decimal | datetime.date | datetime.time
    | datetime.timedelta | None
)  # fmt: skip
Value: TypeAlias = "Scalar | list[Value] | tuple[Value, ...] | dict[str, Value]"
Row: TypeAlias = Mapping[str, Value]

# No line of metadata that is a Python literal comes near.
_PYTHON_CHARS = 1 << 20
# Far more than anybody's categories, far less than functions that call themselves can follow.
_DEEPEST = 64
# Python writes out no longer number.
_LONGEST = 4300  # digits
_TOO_LONG = 10**_LONGEST
# Letters of keys of which none needs a backslash.
_PLAIN = re.compile(r"[ !#-.0-\[\]-~]*")


def python_literal(told: str, once: Collection[str] = ()) -> Value:
    """What JSON or, where it is none, a Python literal says; None where it is neither.

    Args:
        told: the text.
        once: keys that an object may have once; objects in it may have any.

    Raises:
        RepeatedField: it has one of them twice.

    >>> python_literal("{'a': 1, 'b': {'a': 2, 'a': 3}}", once=["a"])
    {'a': 1, 'b': {'a': 3}}
    """
    try:
        value = json.loads(told)
    except (ValueError, RecursionError):
        if len(told) > _PYTHON_CHARS:
            return None
    else:
        if may_repeat(told, once):
            _require_once(_json_keys(told), once)
        return value
    try:
        with warnings.catch_warnings():
            # An unknown escape in somebody's text is no concern of the user.
            warnings.simplefilter("ignore")
            tree = ast.parse(told.lstrip(" \t"), mode="eval").body
            value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    if isinstance(tree, ast.Dict):
        _require_once([key.value for key in tree.keys if isinstance(key, ast.Constant)], once)
    return value


def may_repeat(told: str, once: Collection[str]) -> bool:
    """Whether one of these keys may be in a line of JSON twice; False where it can't be.

    A text of its own may be the same as a key, and a key may be written with escapes.
    """
    if any(told.count(f'"{name}"') > 1 for name in once):
        return True
    return bool(once) and re.search(key_escape(tuple(once)), told) is not None


@functools.lru_cache(maxsize=64)
def key_escape(names: tuple[str, ...]) -> str:
    r"""A pattern of what ends each key that is one of the names, but written with escapes.

    It is also in other keys, and in a text before a colon.

    >>> bool(re.search(key_escape(("user",)), r'{"us\u0065r": 1}'))
    True
    """
    plain = all(map(_PLAIN.fullmatch, names))
    return (r"\\u00[2-7][0-9a-fA-F]" if plain else r"\\[\s\S]") + r'[^"\\]*"\s*:'


def _json_keys(told: str) -> list[str]:
    """The keys of an object of JSON, as often as they are there; none of what it holds."""
    keys: list[str] = []

    def kept(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys[:] = [name for name, _ in pairs]  # the outermost object is the last one that ends
        return dict(pairs)

    value = json.loads(told, object_pairs_hook=kept)
    return keys if isinstance(value, dict) else []


def _require_once(keys: Iterable[object], once: Collection[str]) -> None:
    for name, count in Counter(keys).items():
        if count > 1 and name in once:
            raise RepeatedField(str(name))


def fault(value: Value) -> str:
    """What of a value no other function here could read, and what would do; "" where nothing.

    They call themselves, so lists may be nested so deeply only; a set has no order, and would be
    another text in every run.

    >>> fault([["Beauty"], 10**5000])
    'a number of more than 4300 digits, expected at most that'
    """
    level = [value]
    for _ in range(_DEEPEST):
        inside: list[Value] = []
        for each in level:
            if isinstance(each, dict):
                inside += each.values()
            elif isinstance(each, list | tuple):
                inside += each
            elif isinstance(each, set):
                return "a set of Python, which has no order, expected a list"
            elif isinstance(each, int) and abs(each) >= _TOO_LONG:
                return f"a number of more than {_LONGEST} digits, expected at most that"
        if not inside:
            return ""
        level = inside
    return f"lists nested more than {_DEEPEST} deep, expected at most that"
