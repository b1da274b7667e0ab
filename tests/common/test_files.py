import errno
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from prmkd_jax.common import files
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import (
    append_json_line,
    recover_folder,
    remove_leftovers,
    write_json,
    writing,
    writing_folder,
    writing_into,
)
from prmkd_jax.common.places import require_place


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old")

    def fail():
        with writing(path) as partial:
            partial.write_text("half of the n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def no_room():
    """Files may not grow beyond some bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _numpy(path, save=np.save):
    with path.open("wb") as stream:
        save(stream, np.zeros(2000))


WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(9000)),
    "NumPy's, which names no number": _numpy,
    "an archive": lambda path: _numpy(path, np.savez),
    "safetensors, which raises an error of its own": lambda path: save_file(
        {"a": np.zeros(2000)}, path
    ),
    "Parquet": lambda path: pq.write_table(pa.table({"a": np.arange(9000)}), path),
}


def _write(how, path, inside):
    if how == "file":
        with writing(path) as partial:
            inside(partial)
        return
    whole = writing_folder(path) if how == "folder" else writing_into(path, last="file")
    with whole as partial:
        inside(partial / "file")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("how", ["file", "folder", "into"])
def test_an_error_of_the_system_names_what_was_written(how, writer, tmp_path, no_room):
    """The line gives the path instead of "2000 requested and 609 written"."""
    with pytest.raises(OSError, match="File too large") as told:
        _write(how, tmp_path / "new", WRITERS[writer])
    assert told.value.errno == errno.EFBIG
    assert str(told.value.filename).startswith(str(tmp_path / "new"))
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_a_line_that_finds_no_room_names_its_file(tmp_path, no_room):
    with pytest.raises(OSError, match="File too large") as told:
        append_json_line(tmp_path / "log.jsonl", "x" * 9000)
    assert told.value.filename == str(tmp_path / "log.jsonl")


def test_a_folder_is_replaced_by_the_complete_new_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("")
    with writing_folder(folder) as partial:
        (partial / "new").write_text("weights")
        assert (folder / "old").exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("killed", [None, "before", "between", "after"])
def test_of_a_replaced_folder_only_what_is_named_goes(tmp_path, ended, killed):
    """Files that somebody else put there stay, whenever the process is killed."""
    folder, old = tmp_path / "shop", tmp_path / f".shop.old-{ended}-{files.MACHINE}"
    (folder / "images").mkdir(parents=True)
    for name in ("table", "report", "thesis.txt", "images/a.png"):
        (folder / name).write_text("old")
    if killed is None:
        with writing_folder(folder, ["table", "report"]) as partial:
            (partial / "table").write_text("new")
    else:
        folder.rename(old)
        if killed != "before":
            folder.mkdir()
            (folder / "table").write_text("new")
        if killed == "after":
            (old / "thesis.txt").rename(folder / "thesis.txt")
        recover_folder(folder, ["table", "report"])
    expected = {"table": "new", "thesis.txt": "old", "images/a.png": "old"}
    if killed == "before":
        expected |= {"table": "old", "report": "old"}
    found = (path for path in folder.rglob("*") if path.is_file())
    assert {str(path.relative_to(folder)): path.read_text() for path in found} == expected
    assert list(tmp_path.iterdir()) == [folder]


def test_what_finds_its_name_taken_stays_where_it_is(tmp_path, ended):
    old = tmp_path / f".shop.old-{ended}-{files.MACHINE}"
    for folder, text in ((old, "years"), (tmp_path / "shop", "days")):
        folder.mkdir()
        (folder / "thesis.txt").write_text(text)
    recover_folder(tmp_path / "shop", ["table"])
    assert (old / "thesis.txt").read_text() == "years"
    assert (tmp_path / "shop/thesis.txt").read_text() == "days"


def test_an_error_while_filling_a_folder_keeps_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("")
    with pytest.raises(KeyError), writing_folder(folder):
        raise KeyError
    assert (folder / "old").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def name_of_partial(path, pid):
    """What `writing(path)` in another process of this machine calls its temporary file."""
    with writing(path) as partial:
        partial.write_text("")
    path.unlink()
    return partial.name.replace(f"-{os.getpid()}-", f"-{pid}-")


def test_only_temporary_files_of_ended_processes_are_removed(tmp_path, ended):
    path = tmp_path / "x"
    mine, parent, dead = (
        tmp_path / name_of_partial(path, pid) for pid in (os.getpid(), os.getppid(), ended)
    )
    elsewhere = tmp_path / f"x.partial-{ended}-prmkd00000000"
    old = tmp_path / f"y.partial-{ended}-prmkd00000000"
    # The number of this process, given before it was there.
    before = tmp_path / f"z{mine.name[1:]}"
    other = tmp_path / "thesis.partial-draft"
    for each in (mine, parent, dead, elsewhere, old, before, other):
        each.write_text("")
    os.utime(before, (1e9, 1e9))
    os.utime(old, (1e9, 1e9))
    (tmp_path / dead.name.replace("x", "w")).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, parent, elsewhere, other])


def test_files_that_are_only_called_like_temporary_ones_stay(tmp_path, ended):
    """They may be anybody's: a draft of 2019, the 1st part of a day; folders too."""
    theirs = [tmp_path / f"thesis.partial-{end}" for end in (2019, ended, "1-20240101")]
    theirs += [tmp_path / f".shop.old-{end}" for end in (2019, ended, "1-20240101")]
    for each in theirs:
        each.mkdir()
        (each / "table").write_text("mine")
        os.utime(each, (1e9, 1e9))
    remove_leftovers(tmp_path)
    recover_folder(tmp_path / "shop", ["table"])
    with writing_folder(tmp_path / "shop"):
        pass
    assert all((each / "table").read_text() == "mine" for each in theirs)


@pytest.mark.parametrize("how", ["file", "folder", "into"])
def test_who_writes_next_removes_what_a_killed_process_left(tmp_path, ended, how):
    dead = tmp_path / name_of_partial(tmp_path / "elsewhere" / "a", ended)
    dead.mkdir()
    if how == "file":
        write_json(tmp_path / "a", 1)
    elif how == "folder":
        with writing_folder(tmp_path / "a"):
            pass
    else:
        with writing_into(tmp_path, last="a") as partial:
            (partial / "a").write_text("")
    assert [path.name for path in tmp_path.iterdir() if path.name != "elsewhere"] == ["a"]


def test_a_line_that_a_crash_cut_spoils_no_other(tmp_path):
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"epoch": 1})
    with path.open("a") as stream:
        stream.write('{"epo')
    append_json_line(path, {"epoch": 2})
    assert path.read_text().splitlines() == ['{"epoch": 1}', '{"epo', '{"epoch": 2}']


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_lines_are_appended(tmp_path):
    for value in (1, 2):
        append_json_line(tmp_path / "log.jsonl", {"value": value})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [1, 2]


def test_a_place_is_checked_without_being_made(tmp_path):
    """A bad output path is refused before hours of work, and a good one isn't created yet."""
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"^--out: found .*, which is no folder, expected one"):
            require_place(place, "--out")
    require_place(tmp_path / "new" / "below", "--out")
    require_place(tmp_path, "--out")
    assert not (tmp_path / "new").exists()
