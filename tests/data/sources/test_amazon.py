import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import Report, prepare

OLD = [
    {"reviewerID": "U", "asin": "0001", "overall": 5.0, "unixReviewTime": 1538352000},
    {"reviewerID": "U", "asin": "B2", "overall": 2.0, "unixReviewTime": 1538265600},
]
NEW = [
    {"user_id": "U", "parent_asin": "0001", "rating": 5.0, "timestamp": 1538352000123},
    {"user_id": "U", "parent_asin": "B2", "rating": 2.0, "timestamp": 1538265600000},
]
META_2014 = [
    "{'asin': '0001', 'title': \"Nuts &amp; bolts\", 'price': 5.99, 'brand': 'X', "
    "'categories': [['Shop', 'Iron'], ['Shop', 'Gifts']], 'imUrl': 'http://a/b.jpg', "
    "'description': 'Strong.'}",
]
META_2018 = [
    json.dumps(
        {
            "asin": "0001",
            "title": "Nuts &amp; bolts",
            "price": "$5.99",
            "brand": "X",
            "category": ["Shop", "Iron", "Gifts"],
            "description": ["Strong.", "<br>"],
            "imageURLHighRes": ["http://a/b.jpg"],
        }
    )
]
META_2023 = [
    json.dumps(
        {
            "parent_asin": "0001",
            "title": "Nuts &amp; bolts",
            "price": "5.99",
            "store": "X",
            "categories": ["Shop", "Iron", "Gifts"],
            "description": ["Strong."],
            "images": [{"thumb": "http://a/t.jpg", "large": "http://a/b.jpg", "hi_res": None}],
        }
    )
]


def write(path: Path, lines: list) -> None:
    path.parent.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(gzip.compress(("\n".join(texts) + "\n").encode()))


RATINGS = (
    "A3KCRMPNZ0X8U,B000123456,5.0,1365811200\nA00414041RD0BXM6WK0GX,B000123457,4.0,1365811201\n"
)


@pytest.mark.parametrize(
    ("rows", "generation", "message"),
    [
        (RATINGS, "2018", "found the user 'B000123456' .* \\(it is that of --generation=2014"),
        ("B000123456,A3KCRMPNZ0X8U,5,1365811200\n", "2014", "it is that of --generation=2018"),
        ("user_id,parent_asin,rating,timestamp\n" + RATINGS, "2018", "of --generation=2023"),
    ],
)
def test_ratings_of_another_generation_are_refused(tmp_path, rows, generation, message):
    """Users would be items in silence: nothing but the order of the columns differs."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/Beauty.csv").write_text(rows)
    with pytest.raises(UserError, match=message):
        run(tmp_path, generation)


def run(folder: Path, generation: str, **changes) -> Report:
    options = {"name": "d", "data_dir": str(folder / "data"), "raw_dir": str(folder / "raw")}
    return prepare(PrepareConfig("amazon", generation=generation, **{**options, **changes}))


@pytest.mark.parametrize(
    ("generation", "reviews", "metadata", "names"),
    [
        ("2014", OLD, META_2014, ("reviews_Shop.json.gz", "meta_Shop.json.gz")),
        ("2014", [str(row) for row in OLD], META_2014, ("reviews_Shop.json", "meta_Shop.json")),
        ("2018", OLD, META_2018, ("Shop.json.gz", "meta_Shop.json.gz")),
        ("2023", NEW, META_2023, ("Shop.jsonl.gz", "meta_Shop.jsonl.gz")),
    ],
)
def test_every_generation_gives_the_same_data_set(tmp_path, generation, reviews, metadata, names):
    write(tmp_path / "raw" / names[0], reviews)
    write(tmp_path / "raw" / names[1], metadata)
    run(tmp_path, generation, category="Shop")
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    later = 1538352000123 if generation == "2023" else 1538352000000
    assert frame.rows() == [("U", "B2", 1538265600000, 2.0), ("U", "0001", later, 5.0)]
    (row,) = pl.read_parquet(tmp_path / "data/d/items.parquet").to_dicts()
    assert row == {
        "item_id": "0001",
        "title": "Nuts & bolts",
        "brand": "X",
        "categories": "Shop,Iron,Gifts",
        "description": "Strong.",
        "price": 5.99,
        "image_url": "http://a/b.jpg",
    }


@pytest.mark.parametrize(
    ("generation", "name", "lines"),
    [
        ("2014", "ratings_Shop.csv", ["U,0001,5.0,1538352000", "U,B2,2.0,1538265600"]),
        ("2018", "Shop.csv", ["0001,U,5.0,1538352000", "B2,U,2.0,1538265600"]),
        (
            "2023",
            "Shop.csv.gz",
            [
                "user_id,parent_asin,rating,timestamp",
                "U,0001,5,1538352000000",
                "U,B2,2,1538265600000",
            ],
        ),
    ],
)
def test_ratings_without_texts_have_their_own_columns(tmp_path, generation, name, lines):
    write(tmp_path / "raw" / name, lines)
    if not name.endswith(".gz"):
        path = tmp_path / "raw" / name
        path.write_bytes(gzip.decompress(path.read_bytes()))
    run(tmp_path, generation, reviews="ratings", category="Shop")
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert [row[:2] for row in frame.rows()] == [("U", "B2"), ("U", "0001")]


def test_the_only_files_of_a_folder_need_no_category(tmp_path):
    write(tmp_path / "raw" / "Shop_5.json.gz", OLD)
    write(tmp_path / "raw" / "meta_Shop.json.gz", META_2018)
    report = run(tmp_path, "2018")
    assert report.notes[:2] == ("reviews: Shop_5.json.gz", "metadata: meta_Shop.json.gz")
    write(tmp_path / "raw" / "Other.json.gz", OLD)
    with pytest.raises(UserError, match=r"found Other.json.gz, Shop_5.json.gz, meta_Shop.json.gz"):
        run(tmp_path, "2018", name="e")


def test_another_generations_fields_are_refused_by_name(tmp_path):
    write(tmp_path / "raw" / "Shop.jsonl.gz", NEW)
    write(tmp_path / "raw" / "meta_Shop.jsonl.gz", META_2023)
    with pytest.raises(UserError, match=r"expected reviewerID.*those of --generation=2023"):
        run(tmp_path, "2018")


def test_a_missing_file_and_a_broken_line_are_refused(tmp_path):
    write(tmp_path / "raw" / "Shop.json.gz", [*OLD, '{"reviewerID": "V", "asin"'])
    with pytest.raises(
        UserError, match=r"found no Other.json.gz, expected it for --category=Other"
    ):
        run(tmp_path, "2018", category="Other")
    with pytest.raises(
        UserError, match=r"Shop.json.gz, line 3: found '.*', expected a JSON object"
    ):
        run(tmp_path, "2018", category="Shop")


def test_an_item_that_stands_twice_keeps_its_fullest_row(tmp_path):
    write(tmp_path / "raw" / "Shop.json.gz", OLD)
    poor = json.dumps({"asin": "0001", "title": "Another"})
    for order in ([poor, *META_2018], [*META_2018, poor]):
        write(tmp_path / "raw" / "meta_Shop.json.gz", order)
        report = run(tmp_path, "2018", overwrite=True)
        (row,) = pl.read_parquet(tmp_path / "data/d/items.parquet").to_dicts()
        assert row["title"] == "Nuts & bolts"
        assert report.sheet["catalogue rows of an item that has another"].number == 1
