import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.dataset import Catalogue, Dataset, Interactions
from prmkd_jax.data.sheet import Described, Sheet, data_sheet, describe
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import make_task

# Four users: 0 1 2 3, 0 1 0, 2 2, 4.
INTERACTIONS = Interactions(
    indptr=np.array([0, 4, 7, 9, 10], np.int64),
    items=np.array([0, 1, 2, 3, 0, 1, 0, 2, 2, 4], np.int32),
)
ITEMS = ("007", "b", "nan", "3.0", "e")
TEXTS = {"title": ("one two three", "", None, "x", "y"), "brand": ("a", "b", "c", "d", "e")}


def sheet(**changes) -> Sheet:
    given = {
        "interactions": INTERACTIONS,
        "user_ids": ("u", "<NA>", "None", "w"),
        "item_ids": ITEMS,
        "texts": TEXTS,
        "split": leave_one_out(INTERACTIONS),
        **changes,
    }
    return data_sheet(Described(**given), text_limit=3)


@pytest.mark.parametrize(
    ("name", "number", "of", "example"),
    [
        ("users", 4, None, ""),
        ("items", 5, None, ""),
        ("interactions", 10, None, ""),
        ("average length", 2.5, None, ""),
        ("sparsity", 0.5, None, ""),
        ("items with title", 3, 5, ""),
        ("items with brand", 5, 5, ""),
        ("items with categories", 0, 5, ""),
        ("items with more than 3 words", 1, 5, "'007'"),
        ("user ids that stand for nothing", 2, None, "'<NA>'"),
        ("item ids that stand for nothing", 1, None, "'nan'"),
        ("item ids that end in .0", 1, None, "'3.0'"),
        ("item ids with blanks around", 0, None, ""),
        ("items with a text that stands for nothing", 0, 5, ""),
        ("repeated items of a user", 2, 10, ""),
        # Only the first user has an item to train on after its first.
        ("users without a target in train", 2, 4, ""),
        ("users without a target in validation", 2, 4, ""),
        ("users without a target in test", 2, 4, ""),
        ("validation targets never trained on", 0, 2, ""),
        ("test targets never trained on", 1, 2, "'3.0'"),
    ],
)
def test_every_figure_is_what_was_counted_by_hand(name, number, of, example):
    line = sheet()[name]
    assert (line.number, line.of, line.example) == (number, of, example)


def test_likely_mistakes_are_warnings():
    names = [line.name for line in sheet().warnings]
    assert names == [
        "user ids that stand for nothing",
        "item ids that stand for nothing",
        "item ids that end in .0",
        "test targets never trained on",
    ]


def test_long_numbers_that_a_spreadsheet_has_rounded_are_a_warning():
    """Many products are one then, and nobody sees it."""
    made = sheet(item_ids=("007", "4.00638E+12", "1,5e+10", "E+5", "5E+x"))
    line = made["item ids with a power of ten"]
    assert (line.number, line.example) == (2, "'1,5e+10'")
    assert line.warning
    assert "user ids with a power of ten" not in [line.name for line in made.lines]


def test_lost_leading_zeros_are_recognised():
    line = sheet(has_row=np.array([False, True, True, True, True]), other_rows={"7", "b", "z"})[
        "items without a catalogue row"
    ]
    assert str(line) == (
        "items without a catalogue row: 1 of 5 (such as '007'): "
        "'007' here is '7' there: were leading zeros lost?"
    )


def test_leading_zeros_lost_in_the_catalogue_are_recognised_too():
    has_row = np.array([True, False, True, True, True])
    line = sheet(has_row=has_row, other_rows={"00b"})["items without a catalogue row"]
    assert line.warning == "'b' here is '00b' there: were leading zeros lost?"


def test_ties_and_repeated_rows_are_counted():
    times = np.array([1, 1, 2, 3, 1, 1, 1, 5, 5, 5])
    made = sheet(times=times)
    assert made["interactions at the same time as another"].number == 7
    assert made["interactions at the same time as another"].warning
    # User 1 has item 0 twice at time 1, user 2 item 2 twice at time 5.
    assert made["repeated rows"].number == 2
    apart = sheet(times=np.arange(10))
    assert apart["interactions at the same time as another"].number == 0
    assert not apart["repeated rows"].warning


def test_a_data_set_in_memory_is_described_the_same():
    texts = {field: tuple(text or "" for text in TEXTS[field]) for field in TEXTS}
    catalogue = Catalogue(texts, image_paths=("", "a.jpg", "", "", ""))
    users = ("u", "<NA>", "None", "w")
    dataset = Dataset("d", INTERACTIONS, catalogue, users, ITEMS)
    made = describe(dataset, leave_one_out(INTERACTIONS), text_limit=3)
    assert made["items with image"].number == 1
    assert [line for line in made.lines if line.name != "items with image"] == list(sheet().lines)


def test_a_run_knows_the_rows_of_the_catalogue_too(tmp_path):
    """The sheet warns of ids that lost their leading zeros in one of two files."""
    folder = tmp_path / "toy"
    folder.mkdir()
    rows = {"user_id": ["u"] * 4, "item_id": ["7", "a", "b", "c"], "position": [0, 1, 2, 3]}
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    names = ["007", "a", "b", "c"]
    pq.write_table(pa.table({"item_id": names, "title": names}), folder / "items.parquet")
    for candidates in ("interactions", "catalogue"):
        made = make_task(read_dataset(tmp_path, "toy", candidates=candidates)).sheet
        assert made["items without a catalogue row"].warning == (
            "'7' here is '007' there: were leading zeros lost?"
        )
        assert made["catalogue rows never interacted with"].number == 1


def test_strict_refuses_the_first_warning_and_nothing_without_one():
    with pytest.raises(UserError, match=r"^--strict: found 4 warnings, expected none: user ids"):
        sheet().require_clean()
    Sheet(tuple(line for line in sheet().lines if not line.warning)).require_clean()


def test_remarks_repeat_neither_warnings_nor_table_2():
    made = sheet()
    assert len(made.remarks) == len(made.lines) - len(made.warnings) - 5
    assert made.remarks[0] == "items with title: 3 of 5"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ("0007", "'7' here is '0007' there: were leading zeros lost?"),
        (" 7 ", "'7' here is ' 7 ' there: are they one item, written differently?"),
        ("7.0", "'7' here is '7.0' there: are they one item, written differently?"),
        ("8", "their texts are empty"),
    ],
)
def test_an_id_that_is_written_otherwise_in_the_catalogue_is_pointed_out(row, hint):
    found = sheet(
        item_ids=("a", "7", "c", "d", "e"),
        has_row=np.array([True, False, True, True, True]),
        other_rows={row},
    )["items without a catalogue row"]
    assert (found.number, found.example, found.warning) == (1, "'7'", hint)


def test_texts_and_ids_that_hide_a_missing_value_or_a_blank_are_warnings():
    texts = {**TEXTS, "brand": ("a", "NaN", "None", "N", "nano")}
    found = sheet(texts=texts, item_ids=("007", "007 ", "a\nb", "d", "e"))
    line = found["items with a text that stands for nothing"]
    assert (line.number, line.example) == (2, "brand 'NaN' of '007 '")
    assert line.warning
    line = found["item ids with blanks around"]
    assert (line.number, line.example) == (2, "'007 '")
    assert line.warning


def test_times_that_stand_for_nothing_are_a_warning():
    times = np.full(10, 1_538_352_000_000_000)
    times[[0, 9]] = 0, 253_370_764_800_000_000  # 1970 and 9999
    line = sheet(times=times)["times before 1973 or after 2099"]
    assert (line.number, line.of, line.example) == (2, 10, "1970-01-01")
    assert line.warning
    assert not sheet(times=np.full(10, times[1]))["times before 1973 or after 2099"].warning


def test_a_sheet_is_read_back():
    assert Sheet.from_list(sheet().as_list()) == sheet()
