import json
import os
from pathlib import Path

import polars as pl
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import Report, prepare

LCREC = {
    "d.inter.json": {"0": [0, 1, 2], "1": [2, 0]},
    "d.item.json": {
        "0": {"title": "A &amp; B", "description": "", "brand": "X", "categories": "Shop,Iron"},
        "1": {"title": "C"},
        "9": {"title": "never bought"},
    },
}
RECFORMER = {
    "train.json": {"0": [0, 1], "1": [1]},
    "val.json": {"0": [2], "1": [2]},
    "test.json": {"0": [3], "1": [0]},
    "umap.json": {"ann": 0, "bob": 1},
    "smap.json": {"a": 0, "b": 1, "c": 2, "d": 3},
    "meta_data.json": {
        "a": {"title": "A", "brand": "X", "category": "Shop Iron"},
        "b": {"title": "B", "brand": "", "category": ["Shop", "Iron"]},
    },
}


def run(folder: Path, source: str, files: dict[str, object]) -> Report:
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (raw / name).write_text(text, encoding="utf-8")
    return prepare(PrepareConfig(source, "d", data_dir=str(folder / "data"), raw_dir=str(raw)))


def interactions(folder: Path) -> list[tuple]:
    return pl.read_parquet(folder / "data/d/interactions.parquet").rows()


def test_lcrec_becomes_histories_and_texts(tmp_path):
    report = run(tmp_path, "lcrec", LCREC)
    assert interactions(tmp_path) == [
        ("0", "0", 0), ("0", "1", 1), ("0", "2", 2), ("1", "2", 0), ("1", "0", 1),
    ]  # fmt: skip
    items = pl.read_parquet(tmp_path / "data/d/items.parquet")
    assert items.rows() == [("0", "A & B", "X", "Shop,Iron"), ("1", "C", None, None)]
    assert report.sheet["catalogue rows never interacted with"].example == "'9'"


def test_lcrecs_ids_become_names_where_the_index_files_are_there(tmp_path):
    names = {"d.user2id": "ann\t0\nbob\t1\n", "d.item2id": "a\t0\nb\t1\nc\t2\nz\t9\n"}
    run(tmp_path, "lcrec", {**LCREC, **names})
    assert interactions(tmp_path)[0] == ("ann", "a", 0)


def test_the_real_lcrec_files_have_the_published_counts(tmp_path):
    folder = Path(os.environ.get("PRMKD_DATA_DIR") or "nowhere") / "formats/lcrec/Scientific"
    if not folder.is_dir():
        pytest.skip("PRMKD_DATA_DIR names no folder with formats/")
    prepare(PrepareConfig("lcrec", "L", data_dir=str(tmp_path), raw_dir=str(folder)))
    dataset = read_dataset(tmp_path, "L")
    given = json.loads((folder / "Scientific.inter.json").read_text())
    assert dataset.num_users == 8_317
    assert dataset.num_items == 4_344
    histories = dataset.interactions
    for number in (0, 4_000, 8_316):
        row = histories.items[histories.indptr[number] : histories.indptr[number + 1]]
        assert [int(dataset.item_ids[item]) for item in row] == given[dataset.user_ids[number]]


def test_recformers_three_parts_are_one_history(tmp_path):
    report = run(tmp_path, "recformer", RECFORMER)
    assert interactions(tmp_path) == [
        *(("ann", item, rank) for rank, item in enumerate("abcd")),
        *(("bob", item, rank) for rank, item in enumerate("bca")),
    ]
    assert "given split: it is leave-one-out, so nothing of it is written" in report.notes
    items = pl.read_parquet(tmp_path / "data/d/items.parquet")
    assert items.rows() == [("a", "A", "X", "Shop Iron"), ("b", "B", None, "Shop,Iron")]


def test_leave_one_out_holds_nothing_out_of_two_items(tmp_path):
    short = {"train.json": {"0": [0, 1], "1": [1, 2]}, "val.json": {"0": [2]}}
    report = run(tmp_path, "recformer", {**RECFORMER, **short, "test.json": {"0": [3]}})
    assert "given split: it is leave-one-out, so nothing of it is written" in report.notes
    held_out = {"train.json": {"0": [0], "1": [1]}, "val.json": {"0": [2]}, "test.json": {"1": [2]}}
    (tmp_path / "two").mkdir()
    report = run(tmp_path / "two", "recformer", {**RECFORMER, **held_out})
    assert "given split: kept in the column split" in report.notes


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("source", "files", "message"),
    [
        ("lcrec", {"d.inter.json": "{"}, "d.inter.json, line 1: found no JSON"),
        ("lcrec", {"d.inter.json": [1]}, "d.inter.json: found list, expected a JSON object"),
        ("lcrec", {"d.inter.json": {"0": 5}}, "field '0': found 5, expected a list of items"),
        (
            "lcrec",
            {"d.inter.json": {"0": [[1]]}},
            "field '0': found \\[1\\], expected an item's id",
        ),
        ("lcrec", {"d.item.json": {"0": "A"}}, "d.item.json, field '0': found 'A', expected an"),
        ("lcrec", {"e.inter.json": {}}, "found d.inter.json, e.inter.json, expected one file"),
        ("lcrec", {"d.item2id": "a\t0\na\t1\nc\t2\n"}, "item2id, line 2: found 'a.*1', expected a"),
        ("lcrec", {"d.user2id": "ann\t0\nann\t1\n"}, "user2id, line 2: found 'ann.*1', expected"),
        ("lcrec", {"d.item2id": " \t0\nb\t1\nc\t2\n"}, "item2id, line 1: found ' .*0', expected"),
        ("lcrec", {"d.inter.json": {"": [0, 1, 2]}}, "found user_id '', expected"),
        ("recformer", {"smap.json": {"": 0, "b": 1, "c": 2, "d": 3}}, "found item_id '', expected"),
        ("lcrec", {"d.inter.json": "[" * 100_000}, "found JSON nested too deep|no JSON"),
        (
            "lcrec",
            {"d.item.json": {"0": {"title": nested(900)}}},
            "d.item.json, field '0': found lists nested more than 64 deep, expected at most that",
        ),
        ("recformer", {"meta_data.json": {"a": nested(900)}}, "meta_data.json, field 'a': found l"),
        ("recformer", {"smap.json": {"a": 0}}, "found index '1', expected one of .*smap.json"),
        ("recformer", {"umap.json": {"ann": 0, "bob": 0}}, "umap.json, field 'bob': found '0'"),
        ("recformer", {"meta_data.json": {"a": []}}, "meta_data.json, field 'a': found"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, source, files, message):
    good = LCREC if source == "lcrec" else RECFORMER
    with pytest.raises(UserError, match=message):
        run(tmp_path, source, {**good, **files})
    assert not [*(tmp_path / "data").glob("*")]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (r'{"0": ["\ud83d"]}', r"field '0': found '\\ud83d', which has half a character"),
        (r'{"a\udc00": ["0"]}', r"a field: found 'a\\udc00', which has half a character"),
        (f'{{"0": [{"1" * 5000}]}}', r"found no JSON \(Exceeds the limit"),
    ],
)
def test_ids_that_no_file_can_hold_are_refused(tmp_path, lists, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, "lcrec", {**LCREC, "d.inter.json": lists})
