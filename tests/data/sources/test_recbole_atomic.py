import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import Report, prepare
from prmkd_jax.data.splits import leave_one_out

HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
BENCHMARK = {
    "d.train.inter": HEADER + "0\t0 1\t2\n0\t0\t1\n1\t3\t2\n",
    "d.valid.inter": HEADER + "0\t0 1 2\t3\n1\t3 2\t1\n",
    "d.test.inter": HEADER + "0\t0 1 2 3\t0\n1\t3 2 1\t0\n",
    "d.user2index": "ann\t0\nbob\t1\n",
    "d.item2index": "a\t0\nb\t1\nc\t2\nd\t3\n",
    "d.text": 'item_id:token\ttext:token_seq\na\t5" pipe &amp; more\nb\tB\n',
}


def run(folder: Path, files: dict[str, str], **changes) -> Report:
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for name, text in files.items():
        (raw / name).write_text(text, encoding="utf-8")
    options = {"name": "d", "data_dir": str(folder / "data"), "raw_dir": str(raw), **changes}
    return prepare(PrepareConfig(source="recbole", **options))


def formats(*names: str) -> Path:
    folder = Path(os.environ.get("PRMKD_DATA_DIR") or "nowhere").joinpath("formats", *names)
    if not folder.is_dir():
        pytest.skip("PRMKD_DATA_DIR names no folder with formats/")
    return folder


def test_unisrecs_scientific_is_the_canonical_one_in_interactions_and_split(tmp_path):
    folder = formats("unisrec", "Scientific")
    report = prepare(
        PrepareConfig("recbole", name="S", raw_dir=str(folder), data_dir=str(tmp_path))
    )
    data_dir = Path(os.environ["PRMKD_DATA_DIR"])
    ours, theirs = (
        pl.read_parquet(path / "interactions.parquet")
        for path in (tmp_path / "S", data_dir / "Scientific")
    )
    assert ours.equals(theirs)
    assert "given split: it is leave-one-out, so nothing of it is written" in report.notes
    dataset = read_dataset(tmp_path, "S")
    split = leave_one_out(dataset.interactions)
    given = _targets(folder / "Scientific.test.inter"), _targets(folder / "Scientific.valid.inter")
    for part, targets in zip((split.test, split.validation), given, strict=True):
        found = [dataset.item_ids[item] for item in dataset.interactions.items[part]]
        assert found == targets


def _targets(path: Path) -> list[str]:
    """The items of a benchmark file's rows, read without the reader under test."""
    lines = path.with_name("Scientific.item2index").read_text().splitlines()
    names = {index: name for name, index in (line.split("\t") for line in lines)}
    return [names[line.split("\t")[2]] for line in path.read_text().splitlines()[1:]]


def test_the_real_item_file_of_recbole_is_read_with_its_quotes(tmp_path):
    file = formats("recbole", "Amazon_Beauty") / "Amazon_Beauty.item"
    inter = "user_id:token\titem_id:token\ttimestamp:float\nu\t9788072216\t1.3e9\n"
    (tmp_path / "Amazon_Beauty.item").symlink_to(file)
    (tmp_path / "Amazon_Beauty.inter").write_text(inter)
    prepare(
        PrepareConfig(
            "recbole",
            name="B",
            raw_dir=str(tmp_path),
            data_dir=str(tmp_path / "data"),
            keep_items="all",
        )
    )
    items = pl.read_parquet(tmp_path / "data/B/items.parquet")
    assert len(items) == 12_101
    (row,) = items.filter(pl.col("item_id") == "9788072216").to_dicts()
    assert row["categories"] == "Beauty,Fragrance,Women's,Eau de Parfum"
    assert row["price"] == 65.86
    (row,) = items.filter(pl.col("item_id") == "B0001ZYL3Q").to_dicts()
    assert row["title"] == "TheraNeem Cream - Original Organix South 2 oz Cream Vanilla"


def test_benchmark_files_become_histories_under_their_names(tmp_path):
    report = run(tmp_path, BENCHMARK)
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame.columns == ["user_id", "item_id", "position"]
    assert frame.rows() == [
        *(("ann", item, rank) for rank, item in enumerate("abcda")),
        *(("bob", item, rank) for rank, item in enumerate("dcba")),
    ]
    assert pl.read_parquet(tmp_path / "data/d/items.parquet").rows() == [
        ("a", '5" pipe & more'),
        ("b", "B"),
    ]
    assert report.sheet["items without a catalogue row"].number == 2


def test_lists_that_keep_the_last_items_only_are_joined(tmp_path):
    """Histories of five items are rebuilt from lists of at most two items."""
    files = {
        "d.train.inter": HEADER + "u\tb c\td\nu\ta b\tc\nu\ta\tb\n",
        "d.valid.inter": HEADER + "u\tc d\te\n",
        "d.test.inter": HEADER + "u\td e\ta\n",
    }
    run(tmp_path, files)
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame["item_id"].to_list() == list("abcdea")


def test_a_given_split_that_is_not_leave_one_out_is_kept(tmp_path):
    files = {
        "d.train.inter": HEADER + "u\ta\tb\n",
        "d.valid.inter": HEADER + "u\ta b\tc\n",
        "d.test.inter": HEADER + "u\ta b c\td\nu\ta b c d\te\n",
    }
    report = run(tmp_path, files)
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame["split"].to_list() == ["train", "train", "validation", "test", "test"]
    assert "given split: kept in the column split" in report.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d.item2index": "a\t0\n"}, "found index '1', expected one of .*item2index"),
        ({"d.item2index": "a\t0\nb\t0\n"}, "item2index, line 2: found 'b\\\\t0', expected"),
        ({"d.user2index": "ann\t0\nann\t1\n"}, "user2index, line 2: found 'ann.*1', expected a n"),
        ({"d.test.inter": "item_id:float\t" + HEADER}, "header: found 'item_id:float' and"),
        ({"d.valid.inter": HEADER + "0\t2 1\t3\n"}, "user '0' that do not continue"),
        ({"d.test.inter": HEADER + "0\t0\t\n"}, "d.test.inter, row 0, .*: found an empty cell"),
        ({"d.test.inter": "user_id\titem_id\n"}, "header: found 'user_id', expected name:type"),
        ({"d.text": "id\ttext\n"}, "d.text, header: found"),
        ({"d.text": "item_id:token\ttext:token_seq\nalone\n"}, "d.text, line 2: found 'alone'"),
        ({"e.inter": HEADER}, "--raw_dir=.*: found .*, expected one NAME.inter"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, {**BENCHMARK, **changes})
    assert not (tmp_path / "data/d").exists()


def test_atomic_files_with_a_row_an_interaction(tmp_path):
    files = {
        "ml.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t10\t4\t881250949\n1\t11\t2\t881250940\n2\t10\t5\t881250950\n",
        "ml.item": "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        "10\tToy Story\tAnimation Children's\n11\tGoldenEye\tAction Thriller\n",
    }
    run(tmp_path, files, title_column="movie_title", categories_column="class")
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame.rows() == [
        ("1", "11", 881250940000, 2.0),
        ("1", "10", 881250949000, 4.0),
        ("2", "10", 881250950000, 5.0),
    ]
    items = pl.read_parquet(tmp_path / "data/d/items.parquet")
    assert items.rows() == [
        ("10", "Toy Story", "Animation Children's"),
        ("11", "GoldenEye", "Action,Thriller"),
    ]


def test_three_files_with_a_row_an_interaction_are_a_given_split(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    times = np.arange(6) + 1_538_352_000
    files = {
        "d.train.inter": header + f"u\ta\t{times[0]}\nv\ta\t{times[1]}\n",
        "d.valid.inter": header + f"u\tb\t{times[2]}\nv\tc\t{times[3]}\n",
        "d.test.inter": header + f"u\tc\t{times[4]}\nu\td\t{times[5]}\n",
    }
    run(tmp_path, files)
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame.select("user_id", "item_id", "split").rows() == [
        ("u", "a", "train"),
        ("u", "b", "validation"),
        ("u", "c", "test"),
        ("u", "d", "test"),
        ("v", "a", "train"),
        ("v", "c", "validation"),
    ]


TIMED = "user_id:token\titem_id:token\ttimestamp:float\n"


def test_at_equal_times_a_given_split_keeps_its_order(tmp_path):
    """Amazon's times are days, yet training items stay before validation and test items."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for part, item in (("train", "z"), ("valid", "m"), ("test", "a")):
        rows = "".join(f"{user}\t{item}{user}\t881250949\n" for user in "uv")
        rows += "u\tzz\t881250900\n" if part == "train" else ""
        (raw / f"x.{part}.inter").write_text(TIMED + rows)
    config = PrepareConfig(
        source="recbole", name="x", raw_dir=str(raw), data_dir=str(tmp_path / "data")
    )
    report = prepare(config)
    assert not [line for line in report.sheet.warnings if "--split=given" in line.name]
    frame = pl.read_parquet(tmp_path / "data/x/interactions.parquet")
    assert frame["item_id"].to_list() == ["zz", "zu", "mu", "au", "zv", "mv", "av"]


def test_a_name_may_have_dots(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "ml-1.0.inter").write_text(TIMED + "u\t7\t881250949\n")
    (raw / "ml-1.0.item").write_text("item_id:token\ttitle:token_seq\n7\tToy Story\n")
    prepare(
        PrepareConfig(source="recbole", name="x", raw_dir=str(raw), data_dir=str(tmp_path / "data"))
    )
    assert pl.read_parquet(tmp_path / "data/x/items.parquet")["title"].to_list() == ["Toy Story"]
