import dataclasses
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import MACHINE
from prmkd_jax.data.sources import canonical_files
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare
from tests.data.sources.make_raw import make
from tests.data.sources.test_download import Server

ROOT = Path(__file__).parents[3]
HEADER = "user_id,item_id,timestamp,rating\n"


def write(folder: Path, parts: list[list[tuple]]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, rows in enumerate(parts):
        lines = [",".join(map(str, row)) for row in rows]
        path = folder / f"part-{number}.csv"
        path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
        paths.append(str(path))
    return paths


def config(folder: Path, **changes) -> PrepareConfig:
    return PrepareConfig(**{"name": "d", "data_dir": str(folder / "data"), **changes})


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# So few of each that equal times, and equal rows but for the rating, are common.
LOG = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(0, 2), st.integers(10**9, 10**9 + 1), st.integers(1, 3)
    ),
    min_size=6,
    max_size=40,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=LOG, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_part_files_and_of_their_rows_changes_nothing(tmp_path, rows, shuffle):
    made = []
    for _ in range(2):
        shuffle.shuffle(rows)
        cut = shuffle.randint(1, len(rows) - 1)
        paths = write(tmp_path / "raw", [rows[:cut], rows[cut:]])
        shuffle.shuffle(paths)
        options = {"interactions": tuple(paths), "overwrite": True}
        prepare(config(tmp_path, deduplicate=("exact", "consecutive"), **options))
        made.append((tmp_path / "data/d/interactions.parquet").read_bytes())
    assert made[0] == made[1]


def test_rows_that_differ_in_the_rating_alone_have_an_order_too(tmp_path):
    rows = [("a", "x", 10**9, 5), ("a", "x", 10**9, 1), ("a", "y", 10**9 + 1, 3)]
    made = []
    for parts in ([rows[:1], rows[1:]], [rows[1:], rows[:1]]):
        paths = tuple(write(tmp_path / "raw", parts))
        options = {"interactions": paths, "deduplicate": ("consecutive",), "overwrite": True}
        prepare(config(tmp_path, **options))
        made.append(pl.read_parquet(tmp_path / "data/d/interactions.parquet")["rating"].to_list())
    assert made == [[1.0, 3.0], [1.0, 3.0]]


def test_one_file_keeps_its_order_at_equal_times_and_can_be_told_not_to(tmp_path):
    rows = [("b", "z", 10**9, 1), ("b", "y", 10**9, 1), ("a", "x", 10**9, 1)]
    (path,) = write(tmp_path / "raw", [rows])

    def items(**changes) -> list[tuple]:
        prepare(config(tmp_path, interactions=(path,), overwrite=True, **changes))
        frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
        return frame.select("user_id", "item_id").rows()

    assert items() == [("b", "z"), ("b", "y"), ("a", "x")]
    assert items(ties="item") == [("a", "x"), ("b", "y"), ("b", "z")]
    paths = write(tmp_path / "raw", [rows, rows])
    with pytest.raises(UserError, match="--ties=file: found several files, whose rows have no"):
        prepare(config(tmp_path, interactions=tuple(paths), ties="file", overwrite=True))


def test_one_thread_and_two_write_the_same_bytes(tmp_path):
    make(tmp_path / "raw", reviews=30_000, items=500)
    made = []
    for threads in ("1", "2"):
        command = [
            sys.executable, "-m", "experiments", "prepare", "--source=amazon", "--name=d",
            f"--raw_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path / threads}",
            "--deduplicate=exact", "--user_core=5", "--item_core=5", "--need_title",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "POLARS_MAX_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "--deduplicate=exact: removed " in done.stdout
        made.append(bytes_of(tmp_path / threads / "d"))
    assert made[0] == made[1]
    assert sorted(made[0]) == ["interactions.parquet", "items.parquet", "prepared.json"]


def test_small_batches_change_nothing(tmp_path, monkeypatch):
    make(tmp_path / "raw", reviews=2_000, items=100)
    options = {"source": "amazon", "raw_dir": str(tmp_path / "raw"), "ties": "item"}
    prepare(config(tmp_path, name="large", **options))
    monkeypatch.setattr("prmkd_jax.data.sources.files.blocks.__defaults__", (997,))
    monkeypatch.setattr(canonical_files, "_ROWS", 100)
    prepare(config(tmp_path, name="small", **options))
    large, small = (tmp_path / "data" / name for name in ("large", "small"))
    for file in ("interactions.parquet", "items.parquet"):
        assert pl.read_parquet(large / file).equals(pl.read_parquet(small / file))


@pytest.mark.parametrize("name", ["flags", "sources", "sheet", "steps", "notes"])
@pytest.mark.parametrize(
    "value",
    [None, 3, "x", [3], [[]], [{}], [{"file": "x"}], [{"name": "a", "number": "x"}]],
)
def test_another_prepared_json_is_refused_in_one_line(tmp_path, name, value):
    """Repeating the command gives no traceback, whatever the file holds."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    report = tmp_path / "data/d/prepared.json"
    sound = json.loads(report.read_text())
    report.write_text(json.dumps({**sound, name: value}))
    with pytest.raises(UserError, match=r"/d already|d/prepared\.json: damaged") as told:
        prepare(config(tmp_path, interactions=(path,)))
    assert len(str(told.value).splitlines()) == 1


def test_a_nested_prepared_json_is_refused(tmp_path):
    """Deep nesting ends in the usual line, not in a RecursionError."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    (tmp_path / "data/d/prepared.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"--name=d: found .*/d already, expected a new name or"):
        prepare(config(tmp_path, interactions=(path,)))


def test_a_data_set_is_replaced_only_when_asked(tmp_path):
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    before = bytes_of(tmp_path / "data/d")
    write(tmp_path / "raw", [[("a", "y", 10**9, 1)]])
    with pytest.raises(UserError, match=r"--name=d: found .*/d already, made of other files \(.*"):
        prepare(config(tmp_path, interactions=(path,)))
    (tmp_path / "data/d/prepared.json").unlink()
    with pytest.raises(UserError, match=r"--name=d: found .*/d already, expected a new name or"):
        prepare(config(tmp_path, interactions=(path,)))
    after = bytes_of(tmp_path / "data/d")
    assert before == {**before, **after}
    prepare(config(tmp_path, interactions=(path,), overwrite=True))
    assert bytes_of(tmp_path / "data/d") != before
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["d"]


def test_a_finished_data_set_is_recognised(tmp_path):
    rows = [("nan", "x", 10**9, 1), ("nan", "y", 10**9 + 1, 1)]
    paths = tuple(write(tmp_path / "raw", [rows, rows]))
    made = prepare(config(tmp_path, interactions=paths, min_history=2))
    assert not made.found
    before = bytes_of(tmp_path / "data/d")
    found = prepare(config(tmp_path, interactions=paths, min_history=2))
    assert found == dataclasses.replace(made, found=True)
    assert found.lines()[-1].startswith("nothing to do: ")
    for path in paths:
        os.utime(path, (0, 0))  # the same content, copied
    assert prepare(config(tmp_path, interactions=paths, min_history=2)).found
    with pytest.raises(UserError, match="--strict: found"):
        prepare(config(tmp_path, interactions=paths, min_history=2, strict=True))
    os.unlink(paths[1])  # who needs the room
    assert prepare(config(tmp_path, interactions=paths, min_history=2)).found
    assert bytes_of(tmp_path / "data/d") == before


def test_a_new_part_that_is_wrong_is_no_part_that_is_gone(tmp_path):
    """A new part that is wrong is an error; a part that was deleted changes nothing."""
    write(tmp_path / "raw", [[("a", "x", 10**9, 1), ("a", "y", 10**9, 1)]])
    folder = str(tmp_path / "raw")
    prepare(config(tmp_path, interactions=(folder,)))
    before = bytes_of(tmp_path / "data/d")
    new = tmp_path / "raw" / "part-1.csv"
    new.write_text("user,item_id,timestamp\nb,x,1000000000\n")
    with pytest.raises(UserError, match=r"part-1\.csv: found columns .*, expected 'user_id'"):
        prepare(config(tmp_path, interactions=(folder,)))
    new.write_text(HEADER + "b,x\n")
    with pytest.raises(UserError, match=r"made of other files \(.*/part-1\.csv is new\)"):
        prepare(config(tmp_path, interactions=(folder,)))
    assert bytes_of(tmp_path / "data/d") == before
    new.unlink()
    assert prepare(config(tmp_path, interactions=(folder,))).found
    for path in (tmp_path / "raw").iterdir():
        path.unlink()
    assert prepare(config(tmp_path, interactions=(folder,))).found


@pytest.mark.parametrize("source", ["recbole", "lcrec", "recformer", "amazon"])
def test_sources_that_are_gone_change_nothing_and_wrong_ones_are_told(tmp_path, source):
    """In every format raw files may be deleted, but wrong ones don't pass for deleted ones."""
    files = {
        "recbole": {"g.inter": "user_id:token\titem_id:token\ttimestamp:float\na\tx\t1e9\n"},
        "lcrec": {"g.inter.json": '{"a": ["x", "y"]}'},
        "recformer": {
            **{"train.json": '{"0": [0]}', "val.json": "{}", "test.json": "{}"},
            **{"umap.json": '{"a": 0}', "smap.json": '{"x": 0}', "meta_data.json": '{"x": {}}'},
        },
        "amazon": {
            "R.json": '{"reviewerID": "a", "asin": "x", "unixReviewTime": 1538352000, "overall": 5}'
        },
    }[source]
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, text in files.items():
        (raw / name).write_text(text)
    asked = config(tmp_path, source=source, raw_dir=str(raw))
    prepare(asked)
    first = raw / next(iter(files))
    wrong = raw / f"other.{first.name}" if source != "recformer" else first
    wrong.write_text("{")
    with pytest.raises(UserError):
        prepare(asked)
    wrong.unlink()
    assert prepare(asked).found
    for path in raw.iterdir():
        path.unlink()
    assert prepare(asked).found
    raw.rmdir()
    assert prepare(asked).found


def spoil_rows(folder: Path) -> None:
    frame = pl.read_parquet(folder / "data/d/interactions.parquet")
    frame.reverse().write_parquet(folder / "data/d/interactions.parquet")


@pytest.mark.parametrize(
    ("change", "flags", "differs"),
    [
        (None, {"min_history": 1}, "made with --min_history=2 and not 1, expected a new name or"),
        (None, {"events": ("buy", "cart")}, "made with --events= and not buy,cart"),
        (None, {"min_rating": 1.0}, "made with --min_rating=none and not 1.0"),
        (
            lambda folder: write(folder / "raw", [[("a", "x", 10**9, 2), ("a", "y", 10**9, 1)]]),
            {},
            r"made of other files \(.*/part-0.csv has changed\)",
        ),
        (
            lambda folder: write(folder / "raw", [[("abc", "x", 10**9, 2)]]),
            {},
            r"made of other files \(.*/part-0.csv has \d+ bytes now, \d+ before\)",
        ),
        (
            lambda folder: write(folder / "raw", [[("a", "x", 10**9, 1)]] * 2),
            {},
            r"made of other files \(.*/part-1.csv is new\)",
        ),
        (spoil_rows, {}, "whose interactions.parquet is no longer as it was written"),
    ],
)
def test_what_differs_from_a_finished_data_set_is_said(tmp_path, change, flags, differs):
    write(tmp_path / "raw", [[("a", "x", 10**9, 1), ("a", "y", 10**9, 1)]])
    folder = str(tmp_path / "raw")
    prepare(config(tmp_path, interactions=(folder,), min_history=2))
    if change is not None:
        change(tmp_path)
    before = bytes_of(tmp_path / "data/d")
    with pytest.raises(UserError, match=f"--name=d: found .*/d already, {differs}"):
        prepare(config(tmp_path, interactions=(folder,), **{"min_history": 2, **flags}))
    assert bytes_of(tmp_path / "data/d") == before


DEAD = f"{2**22 + 1}-{MACHINE}"  # no process has this number


def test_what_a_killed_call_left_is_tidied_up(tmp_path):
    """Traces of a kill while writing, and between the renames of --overwrite, are removed."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    data = tmp_path / "data"
    before = bytes_of(data / "d")
    (data / f".d.partial-{DEAD}").mkdir()
    (data / f".d.partial-{DEAD}/items.staged.parquet").write_bytes(b"half")
    (data / "d").rename(data / f".d.old-{DEAD}")
    assert prepare(config(tmp_path, interactions=(path,))).found
    assert [entry.name for entry in data.iterdir()] == ["d"]
    assert bytes_of(data / "d") == before
    # After the second rename: the new one stands, the images are still in the old one.
    (data / f".d.old-{DEAD}/images").mkdir(parents=True)
    (data / f".d.old-{DEAD}/images/a.jpg").write_bytes(b"image")
    assert prepare(config(tmp_path, interactions=(path,))).found
    assert bytes_of(data / "d") == before
    assert (data / "d/images/a.jpg").read_bytes() == b"image"
    # What another call is writing at this moment is left alone.
    (data / f".d.partial-{os.getppid()}-{MACHINE}").mkdir()
    prepare(config(tmp_path, interactions=(path,), overwrite=True))
    assert (data / f".d.partial-{os.getppid()}-{MACHINE}").is_dir()


def test_of_two_calls_for_one_data_set_the_second_is_refused(tmp_path):
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    told = []

    def second(line):
        with pytest.raises(UserError) as refused:
            prepare(config(tmp_path, interactions=(path,)))
        told.append(str(refused.value))
        prepare(config(tmp_path, interactions=(path,), name="other"))

    prepare(config(tmp_path, interactions=(path,)), say=second)
    assert set(told) == {
        f"{tmp_path / 'data/d'}: found another command that writes there, expected none: wait for "
        "it, or take another name"
    }
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == ["d", "other"]


@pytest.mark.parametrize("when", ["filtering", "writing"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, when):
    """Its record would be that of the file as it is now, and the rows those of before."""
    rows = [(u, i, 10**9 + u + i, 1) for u in range(4) for i in range(5)]
    paths = write(tmp_path / "raw", [rows])

    def say(line: str) -> None:
        if line == when:
            with open(paths[0], "a") as stream:
                stream.write("9,9,1000000000,1\n")

    told = r"part-0\.csv: found it changed while it was read, expected it to stay"
    with pytest.raises(UserError, match=told):
        prepare(config(tmp_path, interactions=tuple(paths)), say=say)
    assert not (tmp_path / "data" / "d").exists()
    assert len(prepare(config(tmp_path, interactions=tuple(paths))).sheet.as_list()) > 0


def test_what_prepare_did_not_write_stays_in_the_folder(tmp_path):
    """Notes, raw files and arrays survive --overwrite; only prepare's own files are replaced."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    folder = tmp_path / "data/d"
    mine = {"thesis.txt": b"years", "orders.csv": b"raw", "vectors.npy": b"array"}
    for name, content in mine.items():
        (folder / name).write_bytes(content)
    (folder / "images").mkdir()
    (folder / "images/a.jpg").write_bytes(b"image")
    (folder / "images.json").write_text("{}")
    write(tmp_path / "raw", [[("a", "y", 10**9, 1)]])
    said = []
    prepare(config(tmp_path, interactions=(path,), overwrite=True), say=said.append)
    after = bytes_of(folder)
    assert {name: after.pop(name) for name in mine} == mine
    names = {"interactions.parquet", "items.parquet", "prepared.json", "images.json"}
    assert set(after) == names
    assert pl.read_parquet(folder / "items.parquet")["item_id"].to_list() == ["y"]
    assert (folder / "images/a.jpg").read_bytes() == b"image"
    assert f"{folder / 'images'} stays; --download_images names its images" in said[0]
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["d"]


@pytest.mark.parametrize("link", [False, True])
def test_a_raw_file_in_the_data_set_is_never_replaced(tmp_path, link):
    """--overwrite refuses to read a file that lies in the folder it would replace."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    folder = tmp_path / "data/d"
    orders = Path(path).rename(folder / "orders.csv")
    if link:
        (tmp_path / "link").symlink_to(folder)
        orders = tmp_path / "link/orders.csv"
    for raw in (orders, orders.with_name("interactions.parquet")):
        before = bytes_of(folder)
        with pytest.raises(UserError) as refused:
            prepare(config(tmp_path, interactions=(str(raw),), overwrite=True))
        assert str(refused.value) == (
            f"--name=d: found {raw}, which is read, in {folder}, which --overwrite would replace, "
            "expected it elsewhere"
        )
        assert bytes_of(folder) == before


@pytest.mark.parametrize(
    ("files", "encode", "message"),
    [
        (
            ("image_features.npy", "encoded.json"),
            False,
            "image_features.npy: found it, which --overwrite would remove, expected "
            "--encode_images to make it again (or move it)",
        ),
        (
            ("image_features.npy",),
            True,
            "image_features.npy: found it without encoded.json, so --encode_images has not written "
            "it, expected none with --overwrite (move it)",
        ),
        (
            ("image_features.npy", "encoded.json", "clip_text_features.npy"),
            True,
            "clip_text_features.npy: found it, which would match no longer, expected none with "
            "--overwrite (move it)",
        ),
    ],
)
def test_vectors_of_images_are_not_lost_without_a_word(tmp_path, files, encode, message):
    """--overwrite refuses to delete vectors that the command wouldn't make again."""
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    folder = tmp_path / "data/d"
    for name in files:
        (folder / name).write_bytes(b"hours")
    before = bytes_of(folder)
    again = config(tmp_path, interactions=(path,), overwrite=True, encode_images=encode)
    with pytest.raises(UserError) as refused:
        prepare(again)
    assert str(refused.value) == f"{folder}/{message}"
    assert bytes_of(folder) == before


def test_what_is_no_data_set_is_never_replaced(tmp_path):
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    (tmp_path / "data/d").mkdir(parents=True)
    (tmp_path / "data/d/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"--name=d: found .*/d, which is no data set, expected"):
        prepare(config(tmp_path, interactions=(path,), overwrite=True))
    assert (tmp_path / "data/d/thesis.txt").read_text() == "years of work"


def test_a_path_may_hold_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPORTS", str(tmp_path))
    write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, data_dir="$EXPORTS/data", interactions=("$EXPORTS/raw/*.csv",)))
    assert (tmp_path / "data/d/interactions.parquet").is_file()


@pytest.mark.parametrize(
    "step",
    [
        "data.sources.canonical_files.write_items",
        "data.sources.canonical_files.write_interactions",
        "common.files.flush",
    ],
)
def test_a_failure_leaves_the_old_data_set_and_nothing_else(tmp_path, monkeypatch, step):
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    before = bytes_of(tmp_path / "data/d")

    def fail(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(f"prmkd_jax.{step}", fail)
    write(tmp_path / "raw", [[("a", "y", 10**9, 1)]])
    with pytest.raises(OSError, match="no room"):
        prepare(config(tmp_path, interactions=(path,), overwrite=True))
    assert bytes_of(tmp_path / "data/d") == before
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["d"]


def test_the_old_data_set_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (path,) = write(tmp_path / "raw", [[("a", "x", 10**9, 1)]])
    prepare(config(tmp_path, interactions=(path,)))
    before = bytes_of(tmp_path / "data/d")
    rename = os.rename

    def fail(source, target):
        if ".partial-" in str(source):
            raise OSError("no permission")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no permission"):
        prepare(config(tmp_path, interactions=(path,), overwrite=True))
    assert bytes_of(tmp_path / "data/d") == before
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["d"]


def test_strict_makes_an_error_of_a_warning(tmp_path):
    rows = [("nan", "x", 10**9, 1), ("nan", "y", 10**9 + 1, 1)]
    (path,) = write(tmp_path / "raw", [rows])
    with pytest.raises(UserError, match=r"--strict: found \d+ warnings, expected none: "):
        prepare(config(tmp_path, interactions=(path,), strict=True))
    assert not [*(tmp_path / "data").iterdir()]
    report = prepare(config(tmp_path, interactions=(path,)))
    line = report.sheet["user ids that stand for nothing"]
    assert (line.number, line.example) == (1, "'nan'")
    kept = json.loads((tmp_path / "data/d/prepared.json").read_text())
    assert kept["sheet"] == report.sheet.as_list()
    assert kept["steps"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "--name: found nothing"),
        ({"interactions": ()}, "--interactions: found nothing"),
        ({"source": "lcrec"}, "--raw_dir: found nothing, expected the folder of --source=lcrec"),
        ({"source": "lcrec", "raw_dir": "nowhere"}, "--raw_dir: found no folder 'nowhere'"),
        ({"source": "amazon", "raw_dir": "x", "download": True}, "--category: found nothing"),
        ({"name": "../d"}, "--name: found '../d', expected a plain folder name"),
        ({"name": "synthetic"}, "--name: found 'synthetic', expected another name"),
        ({"name": "synthetic-garden"}, "--name: found 'synthetic-garden', expected another name"),
        ({"name": "synthetic-shop"}, "--name: found 'synthetic-shop', expected another name"),
        ({"name": ".d"}, "--name: found '.d', expected a plain folder name"),
        (
            {"date_from": "2018-10-01", "date_until": "2018-10-01"},
            "--date_until: found '2018-10-01', expected a later date than --date_from=2018-10-01",
        ),
        ({"name": "shop # mine"}, "--name: found 'shop # mine', expected a plain folder name"),
        ({"date_from": "1.10.2018"}, "--date_from: found '1.10.2018', expected a date such as"),
        ({"base_url": "http://example.org"}, "--base_url: found 'http://example.org', expected"),
        ({"deduplicate": ("all",)}, "--deduplicate: found"),
        ({"user_column": ""}, "--user_column: found nothing, expected the name of a column"),
    ],
)
def test_flags_that_say_nothing_sensible_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        prepare(config(tmp_path, **{"interactions": ("log.csv",), **changes}))


def test_a_category_is_fetched_and_prepared_in_one_call(tmp_path):
    """A broken connection is resumed, and what is there already isn't fetched again."""
    make(tmp_path / "site", reviews=1_000, items=50)
    server = Server()
    try:
        files = {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir()}
        plain = server.answer

        def answer(handler):
            server.content = files[handler.path.rpartition("/")[2]]
            plain(handler)

        server.answer = answer
        server.script = [b"x" * 500]
        options = {
            "source": "amazon",
            "category": "Big",
            "raw_dir": str(tmp_path / "raw"),
            "base_url": server.address,
        }
        prepare(config(tmp_path, download=True, **options))
        assert server.ranges == [None, "bytes=500-", None]
        assert bytes_of(tmp_path / "raw") == files
        # What is there is not fetched again.
        prepare(config(tmp_path, name="again", download=True, **options))
        assert len(server.ranges) == 3
    finally:
        server.close()
    assert bytes_of(tmp_path / "data/d") == bytes_of(tmp_path / "data/again")


def test_gzip_members_one_after_another_are_one_file(tmp_path):
    rows = [f"u,{item},{10**9 + item},5\n" for item in range(4)]
    random.Random(0).shuffle(rows)
    data = gzip.compress((HEADER + "".join(rows[:2])).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(data + gzip.compress("".join(rows[2:]).encode()))
    prepare(config(tmp_path, interactions=(str(path),)))
    frame = pl.read_parquet(tmp_path / "data/d/interactions.parquet")
    assert frame["item_id"].to_list() == list("0123")
