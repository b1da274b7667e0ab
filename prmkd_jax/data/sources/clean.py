"""Cells as people have them, made into ids, texts, categories and prices."""

import decimal
import html
import re
from collections.abc import Iterable, Iterator

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.sources.values import Row, Value, fault, python_literal

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
_PRICE_CHARS = 40
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
# Thousands may be set apart by narrow and by unbroken blanks and by apostrophes.
_NUMBER = re.compile(r"\.?\d[\d,. \u00a0\u202f\u2009'\u2019]*")
_APART = re.compile(r"[ \u00a0\u202f\u2009'\u2019]")
# The number of a character that doesn't exist; Python reads none of thousands of digits.
_NO_CHARACTER = re.compile(r"&#[0-9]{100,};?")
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


def price(value: Value) -> float | None:
    """A price; of a range, the lower one; None where it is none.

    >>> price("$1,299.00"), price("$5.00 - $7.50"), price("12,99 €"), price("from 3"), price("n/a")
    (1299.0, 5.0, 12.99, 3.0, None)
    >>> price("1\u202f299,00 €"), price("CHF 1'299.50"), price(".99")
    (1299.0, 1299.5, 0.99)
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
    digits = _APART.sub("", match.group()).rstrip(".,")
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
