import datetime
import decimal
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import category_names
from prmkd_jax.data.sources.cells import ids
from prmkd_jax.data.sources.clean import categories, item_frame, price, text
from prmkd_jax.data.sources.place import Place

PLACE = Place("items.csv", first=4, column="item")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series(["007", "7", "7.0", " x "]), ["007", "7", "7.0", " x "]),
        (pl.Series(["", "  ", None]), [None, None, None]),
        (pl.Series([7, None], dtype=pl.Int8), ["7", None]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), ["18446744073709551615"]),
        (pl.Series([1.0, None, float("nan")]), ["1", None, None]),
        (pl.Series(["a", "b"]).cast(pl.Categorical), ["a", "b"]),
        (pl.Series(["a"]).cast(pl.Enum(["b", "a"])), ["a"]),
        (pl.Series([b"a"]), ["a"]),
        (pl.Series(["12"]).cast(pl.Decimal(20, 2)), ["12"]),
        (pl.Series([2**24 - 1, None], dtype=pl.Float32), ["16777215", None]),
        (pl.Series([2**11 - 1, None], dtype=pl.Float16), ["2047", None]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, pl.Series) else "",
)
def test_ids_are_text_as_they_are_written(column, expected):
    assert ids(column, PLACE).to_list() == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series([1.0, 1.5]), "items.csv, row 5, item: found 1.5, expected text or a whole"),
        (pl.Series([2.0**60]), "row 4, item: found 1.15.*, expected text or a whole number"),
        (pl.Series([True]), "items.csv, item: found type Boolean, expected text or whole numbers"),
        (pl.Series([b"\xff"]), "items.csv, item: found bytes that are not UTF-8"),
        (pl.Series([bytes(15) + b"\x05"]), "items.csv, item: found bytes that are no text"),
        (pl.Series([2**11], dtype=pl.Float16), "found 2048.0, expected .* type Float16 isn't"),
        (pl.Series([2**24], dtype=pl.Float32), "found 16777216.0, expected .* type Float32 isn't"),
        (pl.Series(["7.50"]).cast(pl.Decimal(20, 2)), "row 4, item: found 7.50, expected text"),
        (pl.Series([[1]]), r"found type List\(Int64\), expected text or whole numbers"),
        (pl.Series([{"a": 1}]), "found type Struct"),
        (pl.Series([datetime.timedelta(1)]), "found type Duration"),
        (pl.Series([datetime.date(2018, 10, 1)]), "found type Date, expected text or whole"),
    ],
)
def test_what_cannot_be_an_id_is_refused(column, message):
    with pytest.raises(UserError, match=message):
        ids(column, PLACE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Tom &amp;amp; Jerry&#39;s", "Tom & Jerry's"),
        ("<p>One<br/>two</p>\n\n<script>var x = '<b>';</script> three", "One two three"),
        ("5 < 6 and 7 > 6", "5 < 6 and 7 > 6"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("a\x00b\u200b c", "a b c"),
        ("half \ud83d", "half ?"),
        (f"no &#{'9' * 5000}; nor &amp;#{'0' * 5000}, but &#0065;", "no \ufffd nor \ufffd, but A"),
        (["One.", None, "Two."], "One. Two."),
        (["", "&nbsp;"], None),
        (float("nan"), None),
        (12.0, "12"),
        ({"en": "Red <b>shoe</b>", "size": 7, "old": None}, "Red shoe 7"),
        (b"caf\xc3\xa9", "café"),
        (datetime.date(2018, 10, 1), "2018-10-01"),
        (decimal.Decimal("7.50"), "7.50"),
        (decimal.Decimal("7.00"), "7"),
    ],
)
def test_texts_lose_entities_tags_and_control_characters(value, expected):
    assert text(value) == expected


@pytest.mark.parametrize("begin", ["<script>", "<STYLE ", "<!--"])
def test_what_never_ends_is_looked_for_once(begin):
    """A description of a megabyte took an hour."""
    assert text(begin * 100_000 + " <!-- no --> end") is not None


def test_the_first_that_begins_decides_what_is_hidden():
    assert text("<!-- <script> --> a </script> <style>b<!--</style> c <script") == "a c <script"


@given(st.text())
def test_any_text_is_cleaned_to_text_on_one_line_that_parquet_holds(value):
    cleaned = text(value)
    if cleaned is not None:
        assert cleaned == cleaned.strip()
        assert len(cleaned.splitlines()) == 1
        cleaned.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([["Beauty", "Skin Care"], ["Beauty", "Gifts"]], "Beauty,Skin Care,Gifts"),
        ("['Beauty', \"Women's\"]", "Beauty,Women's"),
        ('["Beauty", "Skin \\u00e9"]', "Beauty,Skin é"),
        ("'Beauty', 'Gifts'", "Beauty,Gifts"),
        ("[['a'], ['b', None]]", "a,b"),
        (r"['3\d', 'x']", r"3\d,x"),
        ("Beauty, Skin Care", "Beauty, Skin Care"),
        ("[not a list", "[not a list"),
        ("['Beauty' 'Skin Care']", "Beauty,Skin Care"),
        ("[\"Women's\"\n 'Gifts']", "Women's,Gifts"),
        ("array(['a', 'b'], dtype=object)", "a,b"),
        ("[array(['a', 'b'], dtype=object), array(['c'])]", "a,b,c"),
        ([{"id": 3, "name": "Tools"}, {"name": "Saws"}], "3 Tools,Saws"),
        ("__import__('os').abort()", "__import__('os').abort()"),
        ("[__import__('os').abort()]", "[__import__('os').abort()]"),
        ("[" * 5000, "[" * 5000),
        ("[" * 900 + "]" * 900, "[" * 900 + "]" * 900),
        ("[0x" + "f" * 4000 + "]", "[0x" + "f" * 4000 + "]"),
        ([], None),
        (["Odds &amp; ends", "Tapes,Glues"], "Odds & ends,Tapes, Glues"),
        (["10,000 Maniacs"], "10, 000 Maniacs,"),
        (None, None),
    ],
    ids=str,
)
def test_categories_of_any_form_are_names_apart_by_commas(value, expected):
    assert categories(value) == expected


@pytest.mark.parametrize(
    "names",
    [["Tapes, Glues"], ["Tapes"], ["Tapes, Glues", "Saws"], ["Tapes", "Saws, Files, Rasps"]],
)
def test_names_of_categories_are_read_as_they_were_written(names):
    """A name with a comma stays one name."""
    assert category_names(categories(names)) == names


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("$1,299.00", 1299.0),
        ("1.299,50 €", 1299.5),
        ("$5.00 - $7.50", 5.0),
        (12, 12.0),
        (decimal.Decimal("5.50"), 5.5),
        (True, None),
        ("", None),
        (math.inf, None),
        (-3, None),
        (10**400, None),
        (-(10**400), None),
        (decimal.Decimal("1e400"), None),
        (".a-section { width: 100px } " * 3, None),
    ],
)
def test_prices_are_numbers_where_they_are_prices(value, expected):
    assert price(value) == expected


def test_rows_without_an_id_are_no_items():
    frame = item_frame([{"title": "x"}, {"item_id": 7, "title": "y"}, {"item_id": " "}], PLACE)
    assert frame["item_id"].to_list() == ["7"]
    with pytest.raises(UserError, match=r"items.csv, row 5, .*: found \[1\], expected text"):
        item_frame([{"item_id": "a"}, {"item_id": [1]}], PLACE)
