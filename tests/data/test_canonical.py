import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import microseconds, read_dataset
from prmkd_jax.data.dataset import TEXT_FIELDS, table_statistics
from prmkd_jax.data.splits import leave_one_out

USERS = ["u", "v", "u", "v", "w", "u"]
ITEMS = ["c", "a", "b", "c", "a", "a"]
POSITIONS = [2, 0, 0, 4, 0, 1]
FEATURES = np.array([[1, 2], [3, 4]], dtype=np.float16)


def interactions(**changes) -> pa.Table:
    """Histories u: b a c, v: a c, w: a; a column is replaced, or dropped by None."""
    columns = {
        "user_id": pa.array(USERS),
        "item_id": pa.array(ITEMS),
        "position": pa.array(POSITIONS, pa.int32()),
    }
    columns |= changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def items(**changes) -> pa.Table:
    """a and b with texts, z that nobody bought; c has no row."""
    columns = {
        "item_id": pa.array(["z", "b", "a"]),
        "title": pa.array(["Zed", None, "Aah"]),
        "brand": pa.array(["", "B & Co", None]),
    }
    columns |= changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def write(folder: Path, first: pa.Table | None, second: pa.Table | None, **arrays) -> Path:
    """Writes data set `toy` and returns the folder of the data sets."""
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    for name, table in (("interactions", first), ("items", second)):
        if table is not None:
            pq.write_table(table, folder / "toy" / f"{name}.parquet")
    for name, array in arrays.items():
        np.save(folder / "toy" / f"{name}.npy", array)
    return folder


def refusal(data_dir: Path, name: str = "toy") -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(data_dir, name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def histories(dataset) -> dict[str, list[str]]:
    """Every user's items by their own ids, as the files spell them."""
    bounds = dataset.interactions.indptr.tolist()
    ids = [dataset.item_ids[item] for item in dataset.interactions.items]
    return {
        user: ids[start:stop]
        for user, start, stop in zip(dataset.user_ids, bounds, bounds[1:], strict=False)
    }


def test_by_hand(tmp_path):
    """Six rows out of order are sorted, numbered by first appearance and joined to the texts."""
    dataset = read_dataset(write(tmp_path, interactions(), items()), "toy")
    assert dataset.name == "toy"
    assert dataset.user_ids == ("u", "v", "w")
    assert dataset.item_ids == ("b", "a", "c"), "by first appearance in the histories"
    assert dataset.interactions.indptr.tolist() == [0, 3, 5, 6]
    assert dataset.interactions.items.tolist() == [0, 1, 2, 1, 2, 1]
    assert dataset.interactions.indptr.dtype == np.int64
    assert dataset.interactions.items.dtype == np.int32
    assert dataset.catalogue.texts == {
        "title": ("", "Aah", ""),
        "brand": ("B & Co", "", ""),
        "categories": ("", "", ""),
        "description": ("", "", ""),
    }
    assert tuple(dataset.catalogue.texts) == TEXT_FIELDS
    assert dataset.catalogue.image_features is None
    assert dataset.catalogue.image_rows is None
    assert dataset.catalogue.image_text_features is None


def test_timestamps_sort_and_ties_keep_the_order_of_the_file(tmp_path):
    """What was bought in the same second stays in the order of the file."""
    times = pa.array([7, -1, 7, 5, 0, 7], pa.int64())
    data = interactions(position=None, timestamp=times)
    assert histories(read_dataset(write(tmp_path, data, items()), "toy")) == {
        "u": ["c", "b", "a"],
        "v": ["a", "c"],
        "w": ["a"],
    }


def test_many_ties_stay_in_order(tmp_path):
    """3,000 rows are enough to show an unstable sort, which short inputs can't."""
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 5, 3000), rng.integers(0, 4, 3000)
    data = pa.table(
        {"user_id": users.astype(str), "item_id": np.arange(3000).astype(str), "timestamp": times}
    )
    catalogue = items(item_id=pa.array(["0", "1", "z"]))
    dataset = read_dataset(write(tmp_path, data, catalogue), "toy")
    expected = {
        str(user): [str(row) for time in range(4) for row in range(3000)
                    if users[row] == user and times[row] == time]
        for user in range(5)
    }  # fmt: skip
    assert histories(dataset) == expected


def test_position_goes_before_timestamp(tmp_path):
    """Positions decide, even where the timestamps give another order."""
    data = interactions(timestamp=pa.array([0, 1, 2, 0, 0, 3], pa.int64()))
    dataset = read_dataset(write(tmp_path, data, items()), "toy")
    assert histories(dataset)["u"] == ["b", "a", "c"]
    assert histories(dataset)["v"] == ["a", "c"]


def test_row_order_within_users_and_file_layout_do_not_matter(tmp_path):
    """Other row groups, string types or further columns give the same fingerprint."""
    plain = read_dataset(write(tmp_path / "a", interactions(), items()), "toy")
    order = [5, 2, 0, 1, 3, 4]
    shuffled = interactions(
        user_id=pa.array(USERS).dictionary_encode(),
        item_id=pa.array(ITEMS, pa.large_string()),
        position=pa.array(POSITIONS, pa.int64()),
        rating=pa.array([1.0] * 6),
    ).take(order)
    folder = write(tmp_path / "b", None, items(price=pa.array([1, 2, 3])))
    pq.write_table(shuffled, folder / "toy" / "interactions.parquet", row_group_size=2)
    assert read_dataset(folder, "toy").fingerprint == plain.fingerprint


def test_images(tmp_path):
    """Each item has its own `image_feature_row`, and a missing one is −1, not row 0."""
    catalogue = items(image_feature_row=pa.array([0, None, 1], pa.int64()))
    folder = write(
        tmp_path, interactions(), catalogue, image_features=FEATURES, clip_text_features=-FEATURES
    )
    dataset = read_dataset(folder, "toy")
    assert dataset.catalogue.image_rows is not None
    assert dataset.catalogue.image_rows.tolist() == [-1, 1, -1]
    assert dataset.catalogue.image_rows.dtype == np.int32
    np.testing.assert_array_equal(dataset.catalogue.image_features, FEATURES)
    np.testing.assert_array_equal(dataset.catalogue.image_text_features, -FEATURES)


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        (interactions(user_id=None), ["no column user_id"]),
        (interactions(item_id=None), ["no column item_id"]),
        (interactions(position=None), ["position or timestamp"]),
        (interactions().slice(0, 0), ["0 rows"]),
        (
            interactions(user_id=pa.array(["u", "v", None, "", "w", "u"])),
            ["row 2, user_id: found null", "an id"],
        ),
        (
            interactions(item_id=pa.array(["c", "", "b", None, "a", "a"])),
            ["row 1, item_id: found ''", "an id"],
        ),
        (interactions(user_id=pa.array(range(6))), ["column user_id", "int64", "string"]),
        (interactions(position=pa.array([0.5] * 6)), ["column position", "double", "int64"]),
        (
            interactions(position=pa.array([2, 0, 0, None, 0, 1], pa.int32())),
            ["row 3, position: found null"],
        ),
        (
            interactions(position=pa.array([2, 0, 0, 4, 0, 2], pa.int32())),
            ["row 5, position: found 2,", "'u'"],
        ),
        (
            interactions(position=pa.array([2**64 - 1] * 6, pa.uint64())),
            ["18446744073709551615"],
        ),
        (
            interactions(position=None, timestamp=pa.array(["2020"] * 6)),
            ["column timestamp", "string", "int64"],
        ),
    ],
)
def test_bad_interactions_are_told_by_row_and_column(tmp_path, table, parts):
    """A faulty row is an error and is never passed over in silence."""
    message = refusal(write(tmp_path, table, items()))
    assert message.startswith(str(tmp_path / "toy" / "interactions.parquet"))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        (items(title=None), ["no column title"]),
        (items(item_id=None), ["no column item_id"]),
        (items(item_id=pa.array(["z", None, "a"])), ["row 1, item_id: found null"]),
        (items(item_id=pa.array(["z", "a", ""])), ["row 2, item_id: found ''"]),
        (items(item_id=pa.array(["a", "b", "a"])), ["row 2, item_id: found 'a'", "row 0"]),
        (items(title=pa.array([["x"], [], None])), ["column title", "list<", "string"]),
        (
            items(image_feature_row=pa.array([0.0, None, 1.0])),
            ["column image_feature_row", "double"],
        ),
        (
            items(image_feature_row=pa.array([0, None, 2])),
            ["row 2, image_feature_row: found 2, expected 0 … 1"],
        ),
        (items(image_feature_row=pa.array([0, -1, 5])), ["row 1, image_feature_row: found -1"]),
        (items(), ["no column image_feature_row"]),
    ],
)
def test_bad_catalogue_is_told_by_row_and_column(tmp_path, table, parts):
    """A wrong catalogue row can't give an item another item's text or image."""
    message = refusal(write(tmp_path, interactions(), table, image_features=FEATURES))
    assert message.startswith(str(tmp_path / "toy" / "items.parquet"))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("file", "array", "parts"),
    [
        ("image_features", FEATURES.astype(np.float32), ["float32 (2, 2)", "float16 [rows, d]"]),
        ("image_features", FEATURES[0], ["float16 (2,)"]),
        (
            "image_features",
            np.array([[1, 2], [3, np.nan]], np.float16),
            ["row 1, column 1: found nan"],
        ),
        (
            "image_features",
            np.array([[1, 2], [np.inf, 3]], np.float16),
            ["row 1, column 0: found inf"],
        ),
        ("clip_text_features", FEATURES[:1], ["shape (1, 2)", "(2, 2)"]),
        (
            "clip_text_features",
            np.array([[-np.inf, 2], [3, 4]], np.float16),
            ["row 0", "found -inf"],
        ),
    ],
)
def test_bad_features_are_told_by_row_and_column(tmp_path, file, array, parts):
    """A single nan, which would spread to every score of its item, is found."""
    catalogue = items(image_feature_row=pa.array([0, None, 1]))
    folder = write(
        tmp_path, interactions(), catalogue, **({"image_features": FEATURES} | {file: array})
    )
    message = refusal(folder)
    assert message.startswith(str(tmp_path / "toy" / f"{file}.npy"))
    assert all(part in message for part in parts), message


def test_features_of_another_type_are_not_copied(tmp_path):
    """A file without a byte of data may have terabytes of empty texts."""
    folder = write(tmp_path, interactions(), items(image_feature_row=pa.array([0, None, 1])))
    header = b"{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000, 4)}\n"
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    (folder / "toy" / "image_features.npy").write_bytes(content)
    assert "image_features.npy: found no readable .npy array (type |S0, of" in refusal(folder)


def test_features_and_rows_need_each_other(tmp_path):
    """Half of the images' data never reads as a data set without images."""
    catalogue = items(image_feature_row=pa.array([0, None, 1]))
    message = refusal(write(tmp_path / "a", interactions(), catalogue))
    assert "image_feature_row" in message
    assert "image_features.npy" in message
    message = refusal(write(tmp_path / "b", interactions(), items(), clip_text_features=FEATURES))
    assert "clip_text_features.npy" in message
    empty = items(image_feature_row=pa.array([None] * 3, pa.int64()))
    dataset = read_dataset(write(tmp_path / "c", interactions(), empty), "toy")
    assert dataset.catalogue.image_features is None


def test_columns_without_a_value_are_columns_that_are_missing(tmp_path):
    """pandas writes a column of None alone with the type null."""
    catalogue = items(title=pa.nulls(3), brand=pa.nulls(3), image_feature_row=pa.nulls(3))
    texts = read_dataset(write(tmp_path, interactions(), catalogue), "toy").catalogue.texts
    assert set(texts["title"]) == set(texts["brand"]) == {""}
    message = refusal(write(tmp_path, interactions(user_id=pa.nulls(len(POSITIONS))), items()))
    assert message.endswith("row 0, user_id: found null, expected an id")


def test_a_catalogue_of_other_items_is_refused(tmp_path):
    """Ids of another release are an error, so no teacher reads only empty texts."""
    message = refusal(write(tmp_path, interactions(), items(item_id=pa.array(["x", "y", "z"]))))
    assert "items.parquet: found no item of interactions.parquet, such as '" in message


@pytest.mark.parametrize("file", ["interactions.parquet", "items.parquet", "image_features.npy"])
@pytest.mark.parametrize("content", [b"", b"user_id,item_id\nu,a\n", b"PAR1"])
def test_file_of_another_format_is_refused(tmp_path, file, content):
    """A csv under the wrong name or a broken download ends in one line, without a traceback."""
    folder = write(tmp_path, interactions(), items())
    (folder / "toy" / file).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / 'toy' / file}: found no readable ")


@pytest.mark.parametrize("file", ["interactions.parquet", "items.parquet"])
def test_a_column_whose_name_is_no_utf8_is_told(tmp_path, file):
    """Such a name ends in the usual line, although its error isn't one of Arrow's."""
    folder = write(tmp_path, interactions(further=["x"] * 6), items(further=["x"] * 3))
    path = folder / "toy" / file
    path.write_bytes(path.read_bytes().replace(b"further", b"\xff" * 7))
    assert f"{path}: found no readable parquet file" in refusal(tmp_path)


def test_missing_data_says_how_to_get_it(tmp_path):
    """No data set, half of one and a misspelt name each get a hint of their own."""
    nowhere = refusal(tmp_path / "none", "Scientific")
    assert nowhere.startswith("--dataset=Scientific: found no file ")
    assert "PRMKD_DATA_DIR" in nowhere
    assert "--dataset=synthetic" in nowhere
    assert "none)" in nowhere
    folder = write(tmp_path, interactions(), None)
    assert str(folder / "toy" / "items.parquet") in refusal(folder)
    with pytest.raises(UserError, match=r"^--second_domain=Scientific: found no") as other:
        read_dataset(folder, "Scientific", "--second_domain")
    assert "synthetic" not in str(other.value), "a second domain of that name there is none"
    misspelt = refusal(folder, "Toy")
    assert "Toy/interactions.parquet" in misspelt
    assert misspelt.endswith(f"(data sets in {folder}: toy)")


@pytest.mark.skipif(
    not os.environ.get("PRMKD_DATA_DIR"), reason="PRMKD_DATA_DIR names no folder with real data"
)
@pytest.mark.parametrize(
    ("name", "users", "num_items", "interactions", "images"),
    [
        ("Scientific", 8442, 4385, 59427, 1585),
        ("Games", 50546, 16859, 452989, 0),
        ("Beauty", 22363, 12101, 198502, 0),
    ],
)
def test_real_data(name, users, num_items, interactions, images):
    """Users, items, interactions and images have the published counts."""
    dataset = read_dataset(Path(os.environ["PRMKD_DATA_DIR"]), name)
    table = table_statistics(dataset.interactions, dataset.num_items)
    assert (table["users"], table["items"], table["interactions"]) == (
        users,
        num_items,
        interactions,
    )
    rows = dataset.catalogue.image_rows
    assert (0 if rows is None else int((rows >= 0).sum())) == images
    assert np.bincount(dataset.interactions.items).min() >= 1
    assert len(leave_one_out(dataset.interactions).test) == users


def test_image_files_stand_in_the_data_sets_folder(tmp_path):
    """Relative paths start at the data set, not at the working directory, and fit their items."""
    elsewhere = str(tmp_path / "elsewhere.png")
    column = pa.array(["z.png", None, "images/a.jpg"])
    dataset = read_dataset(write(tmp_path, interactions(), items(image_path=column)), "toy")
    assert dataset.item_ids == ("b", "a", "c")
    wanted = ("", str(tmp_path / "toy" / "images" / "a.jpg"), "")
    assert dataset.catalogue.image_paths == wanted
    column = pa.array(["", elsewhere, ""])
    dataset = read_dataset(write(tmp_path, interactions(), items(image_path=column)), "toy")
    assert dataset.catalogue.image_paths == (elsewhere, "", "")


def test_without_an_image_there_are_no_paths(tmp_path):
    """`image_paths` is None then, so no teacher of images starts on an empty list."""
    for column in (None, pa.array(["z.png", None, None])):
        dataset = read_dataset(write(tmp_path, interactions(), items(image_path=column)), "toy")
        assert dataset.catalogue.image_paths is None


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000, 1_000_000_000])
def test_timestamps_of_every_unit_become_microseconds(tmp_path, factor):
    seconds = [1_500_000_000, 1_500_000_100, 1_400_000_000]
    times = np.array(seconds, dtype=np.int64) * factor
    found = microseconds(tmp_path, times)
    assert found is not None
    assert found.tolist() == [second * 1_000_000 for second in seconds]


def test_numbers_that_only_order_are_no_clock(tmp_path):
    assert microseconds(tmp_path, np.array([0, 1, 2, 1_500_000_000])) is None
    # By their size seconds of 2033.
    assert microseconds(tmp_path, np.array([2018100110, 2018100209])) is None
    assert microseconds(tmp_path, np.array([2018100110, 2018100260])) is not None


@pytest.mark.parametrize(
    ("unit", "time"),
    [("s", 2**62), ("s", 2**44), ("ms", -(2**53)), ("us", -(2**63)), ("us", 2**63 - 1)],
)
def test_a_time_that_int64_does_not_hold_in_microseconds_is_told_by_row(tmp_path, unit, time):
    times = np.array([1_500_000_000, time])
    with pytest.raises(UserError, match=rf"row 1, timestamp: found {time}, expected a time in"):
        microseconds(tmp_path, times, unit)
    assert microseconds(tmp_path, np.array([2**42]), "s").tolist() == [2**42 * 10**6]


def test_a_unit_in_no_code_is_none(tmp_path):
    """Somebody's own metadata may be any bytes; the size of the times tells their unit then."""
    table = interactions(position=None, timestamp=pa.array([1_500_000_000 + n for n in range(6)]))
    field = pa.field("timestamp", pa.int64(), metadata={"unit": b"\xff"})
    table = table.set_column(2, field, table["timestamp"])
    dataset = read_dataset(write(tmp_path, table, items()), "toy")
    assert dataset.interactions.timestamps[0] == 1_500_000_000_000_000


@pytest.mark.parametrize("name", ["user_id", "item_id", "position"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, name):
    table = interactions()
    table = table.append_column(name, table[name])
    assert f"interactions.parquet: found 2 columns {name}, expected 1" in refusal(
        write(tmp_path, table, items())
    )


def test_timestamps_of_two_units_are_refused(tmp_path):
    times = np.array([1_500_000_000, 1_500_000_000_000])
    with pytest.raises(UserError, match="found 1500000000 and 1500000000000, which are of"):
        microseconds(tmp_path, times)


def test_the_whole_catalogue_as_candidates_adds_items_without_an_interaction(tmp_path):
    write(tmp_path, interactions(), items())
    narrow = read_dataset(tmp_path, "toy")
    wide = read_dataset(tmp_path, "toy", candidates="catalogue")
    assert wide.item_ids == (*narrow.item_ids, "z")
    assert wide.catalogue.texts["title"] == (*narrow.catalogue.texts["title"], "Zed")
    assert (wide.interactions.items == narrow.interactions.items).all()


def test_the_given_split_is_read_where_it_is_asked_for(tmp_path):
    """Each interaction keeps its part when the rows are sorted."""
    parts = pa.array(["test", "train", "train", "test", "train", "validation"])
    write(tmp_path, interactions(split=parts), items())
    assert read_dataset(tmp_path, "toy").interactions.parts is None
    given = read_dataset(tmp_path, "toy", given_split=True).interactions
    assert given.parts is not None
    assert given.parts.tolist() == [0, 1, 2, 0, 2, 0]


@pytest.mark.parametrize("found", ["valid", None])
def test_a_part_with_another_name_is_refused(tmp_path, found):
    parts = pa.array(["test", "train", found, "test", "train", "train"])
    write(tmp_path, interactions(split=parts), items())
    value = "null" if found is None else repr(found)
    with pytest.raises(UserError, match=f"row 2, split: found {value}, expected one of train, val"):
        read_dataset(tmp_path, "toy", given_split=True)
