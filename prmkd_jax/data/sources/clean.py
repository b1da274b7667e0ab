"""Cells as people have them, made into ids, texts, categories and prices."""

import ast
import datetime
import decimal
import html
import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import RepeatedField
from prmkd_jax.data.sources.place import Place, short

# What JSON, a Python literal or a nested parquet column holds.
Scalar: TypeAlias = (
    str | int | float | bool | bytes | decimal.Decimal | datetime.date | datetime.time
    | datetime.timedelta | None
)  # fmt: skip
Value: TypeAlias = "Scalar | list[Value] | tuple[Value, ...] | dict[str, Value]"
Row: TypeAlias = Mapping[str, Value]

ITEM_COLUMNS = {
    "item_id": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "categories": pl.String,
    "description": pl.String,
    "price": pl.Float64,
    "image_path": pl.String,
    "image_url": pl.String,
}
# A literal longer than this is no list of categories, and is kept as text.
_LITERAL_CHARS = 20_000
# No line of metadata that is a Python literal comes near.
_PYTHON_CHARS = 1 << 20
_PRICE_CHARS = 40
# Far more than anybody's categories, far less than functions that call themselves can follow.
_DEEPEST = 64
# Python writes out no longer number.
_LONGEST = 4300  # digits
_TOO_LONG = 10**_LONGEST
# What a page doesn't show: what begins it, and what ends each kind, of which "" are comments.
_HIDDEN = re.compile(r"<(script|style)\b|<!--", re.IGNORECASE)
_ENDS = {
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
    "": re.compile("-->"),
}
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,2000}>")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f\u200b\ufeff]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_HALF = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"\d[\d,. ]*")
# The number of a character that doesn't exist; Python reads none of thousands of digits.
_NO_CHARACTER = re.compile(r"&#[0-9]{100,};?")
# A key of JSON with a backslash, or a text before a colon that ends in the same way.
_ESCAPED_KEY = re.compile(r'\\.[^"\\]*"\s*:', re.DOTALL)
# Lists as NumPy prints them, which pandas' csv has: ['a' 'b'], array(['a', 'b'], dtype=object).
_ARRAY = re.compile(r"\barray\((\[[^()]*\])(?:,\s*dtype=\w+)?\)")
_NO_COMMA = re.compile(r"(?<=['\"])\s+(?=['\"])")


def text(value: Value) -> str | None:
    """A text without HTML entities, tags and line breaks; None where nothing is left.

    Of a list and of an object the texts of its values.

    >>> text("Nuts &amp; <b>bolts</b>")
    'Nuts & bolts'
    >>> text(["One.", "Two."])
    'One. Two.'
    """
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        value = " ".join(filter(None, map(text, value)))
    if value is None or isinstance(value, bool) or value != value:
        return None
    told = value if isinstance(value, str) else _written(value)
    if told.isascii() and told.isprintable() and not ("&" in told or "<" in told or "  " in told):
        return told.strip() or None
    if "&" in told:
        # Some shops escape twice.
        told = _unescaped(_unescaped(told))
    if "<" in told:
        told = _TAG.sub(" ", _without_hidden(told))
    if not told.isascii():
        # Half a character, as "\ud83d" in JSON, has no UTF-8.
        told = told.encode("utf-8", "replace").decode()
    return _BLANK.sub(" ", told).strip() or None


def as_written(value: Value) -> str | None:
    """A file's name or an address; None where there is none.

    Signs that a text would lose belong to it: only control characters and blanks around go.

    >>> as_written(" https://a/?id=1&region=us ")
    'https://a/?id=1&region=us'
    """
    if not isinstance(value, str | int | float | bytes) or isinstance(value, bool):
        return None
    if value != value:
        return None
    told = value if isinstance(value, str) else _written(value)
    whole = told.encode("utf-8", "replace").decode()
    return _CONTROL.sub(" ", whole).strip() or None


def categories(value: Value) -> str | None:
    """Names of categories, apart by commas without a space; each once, in their order.

    One name with a comma in it has another one at its end, which tells it from two names. A nested
    list is read through; text that looks like a list in Python, JSON or NumPy is one, unless
    nobody could read it (see `fault`).

    >>> categories([["Beauty", "Skin Care"], ["Beauty", "Tapes,Adhesives"]])
    'Beauty,Skin Care,Tapes, Adhesives'
    >>> categories("['Beauty', \\"Women's\\"]")
    "Beauty,Women's"
    >>> categories("Beauty, Skin Care")
    'Beauty, Skin Care'
    >>> categories(["Tapes, Adhesives"])
    'Tapes, Adhesives,'
    """
    if isinstance(value, str):
        parsed = literal(value)
        if not isinstance(parsed, list | tuple):
            return text(value)
        value = parsed
    if not isinstance(value, list | tuple):
        return text(value)
    names = dict.fromkeys(re.sub(r",(?=\S)", ", ", name) for name in _names(value))
    joined = ",".join(names)
    return (joined + "," if len(names) == 1 and "," in joined else joined) or None


def literal(told: str) -> Value:
    """A list in text, as Python or JSON write it; None where the text is no list.

    No code runs, and the length is bounded.

    >>> literal("'Beauty', 'Skin Care'")
    ('Beauty', 'Skin Care')
    """
    told = told.strip()
    if len(told) > _LITERAL_CHARS:
        return None
    if "array(" in told:
        told = _ARRAY.sub(r"\1", told)
    if not told.startswith(("[", "(", "'", '"')):
        return None
    if told.startswith("["):
        # Python would put two texts without a comma together.
        told = _NO_COMMA.sub(", ", told)
    value = python_literal(told)
    return value if isinstance(value, list | tuple) and not fault(value) else None


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
    if "\\" in told and _ESCAPED_KEY.search(told):
        return bool(once)
    return any(told.count(f'"{name}"') > 1 for name in once)


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


def price(value: Value) -> float | None:
    """A price; of a range, the lower one; None where it is none.

    >>> price("$1,299.00"), price("$5.00 - $7.50"), price("12,99 €"), price("from 3"), price("n/a")
    (1299.0, 5.0, 12.99, 3.0, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | decimal.Decimal):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if 0 <= number < float("inf") else None
    if not isinstance(value, str) or len(value) > _PRICE_CHARS:
        return None
    match = _NUMBER.search(value)
    if match is None:
        return None
    digits = match.group().replace(" ", "").rstrip(".,")
    if re.search(r",\d{1,2}$", digits):
        digits = digits.replace(".", "").replace(",", ".")
    digits = digits.replace(",", "")
    return float(digits) if digits.count(".") <= 1 else None


def identifier(value: Value, where: str) -> str | None:
    """An id of JSON or a Python literal as text; None where there is none.

    Args:
        value: the cell.
        where: file, row and field, for errors.

    Raises:
        UserError: it is neither text nor a whole number, or has half a character.
    """
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        require_characters(str(value), where)
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    raise UserError(f"{where}: found {short(value)}, expected text or a whole number as an id")


def require_characters(told: str, where: str) -> None:
    """Refuses half a character, as "\\ud83d" alone in JSON, which no UTF-8 file can hold.

    Raises:
        UserError: there is one.
    """
    if not told.isascii() and _HALF.search(told):
        raise UserError(
            f"{where}: found {told[:60]!r}, which has half a character, expected whole ones"
        )


def item_frame(rows: Iterable[Row], place: Place) -> pl.DataFrame:
    """Cleans a batch of catalogue rows.

    Args:
        rows: mappings with some of the keys of `ITEM_COLUMNS`; other keys are passed over.
        place: the rows' file, for errors.

    Returns:
        A frame with all columns of `ITEM_COLUMNS`; rows without an id are left out.
    """
    rows = list(rows)
    identifiers = [
        identifier(row.get("item_id"), place.row(index)) for index, row in enumerate(rows)
    ]
    columns: dict[str, list[str | None] | list[float | None]] = {
        name: [text(row.get(name)) for row in rows] for name in ("title", "brand", "description")
    }
    columns["image_path"] = [as_written(row.get("image_path")) for row in rows]
    columns["image_url"] = [_address(row.get("image_url")) for row in rows]
    columns["categories"] = [categories(row.get("categories")) for row in rows]
    columns["price"] = [price(row.get("price")) for row in rows]
    columns["item_id"] = identifiers
    frame = pl.DataFrame({name: columns[name] for name in ITEM_COLUMNS}, schema=ITEM_COLUMNS)
    return frame.filter(pl.col("item_id").is_not_null())


def _unescaped(told: str) -> str:
    return html.unescape(_NO_CHARACTER.sub("\ufffd", told))


def _without_hidden(told: str) -> str:
    """A text without scripts, styles and comments, those that have an end.

    One expression would look for the end of each of ten thousand that have none.
    """
    kept, done = [], 0
    endless: set[str] = set()
    for begin in _HIDDEN.finditer(told):
        kind = (begin[1] or "").lower()
        if begin.start() < done or kind in endless:
            continue
        end = _ENDS[kind].search(told, begin.end())
        if end is None:
            endless.add(kind)
        else:
            kept.append(told[done : begin.start()])
            done = end.end()
    return " ".join([*kept, told[done:]])


def _address(value: Value) -> str | None:
    """An address; `&amp;` stands for `&` where it was copied out of a page."""
    told = as_written(value)
    return told and told.replace("&amp;", "&")


def _names(value: Value) -> Iterator[str]:
    """The texts in a nested list, in their order."""
    if isinstance(value, list | tuple):
        for element in value:
            yield from _names(element)
    else:
        name = text(value)
        if name:
            yield name


def _written(value: Value) -> str:
    """A value that is no text, as people write it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float | decimal.Decimal):
        return str(int(value)) if value % 1 == 0 else str(value)
    return str(value)
