"""A run's folder: who may write there, and what is removed."""

import json
import os
import re

import pytest

from experiments.stages.run_folder import begin, examine, finish
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json

FILES = ("results.json", "students/a/weights", "checkpoints/a/")


def identity(dropout: float = 0.5, data: str = "d0"):
    return {"settings": {"dropout": dropout}, "data": data}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run, with two files that are somebody's."""
    folder = examine(tmp_path / "out", identity(), FILES, overwrite=False)
    begin(folder)
    (folder.path / "checkpoints" / "a" / "epoch_3").mkdir(parents=True)
    (folder.path / "students" / "a").mkdir(parents=True)
    for name in ("results.json", "students/a/weights", "checkpoints/a/epoch_3/array"):
        (folder.path / name).write_text("ours")
    (folder.path / "checkpoints" / "thesis.tex").write_text("mine")
    (folder.path / "checkpoints" / "a" / "notes.txt").write_text("mine")
    finish(folder)
    return folder.path


def test_looking_changes_nothing(tmp_path):
    """Examining a folder that isn't there doesn't make it."""
    assert examine(tmp_path / "out", identity(), FILES, overwrite=True).found == "nothing"
    assert not (tmp_path / "out").exists()


def test_the_same_run_goes_on_and_is_known_when_it_is_finished(finished):
    """It counts as stopped while a file is missing, and going on keeps what was written."""
    for overwrite in (False, True):
        assert examine(finished, identity(), FILES, overwrite=overwrite).found == "finished"
    more = examine(finished, identity(), (*FILES, "recbole.pth"), overwrite=False)
    assert more.found == "stopped"
    (finished / "results.json").unlink()
    again = examine(finished, identity(), FILES, overwrite=False)
    assert again.found == "stopped"
    begin(again)
    assert (finished / "students" / "a" / "weights").read_text() == "ours"
    assert (finished / "checkpoints" / "a" / "epoch_3" / "array").is_file()
    assert examine(finished, identity(), FILES, overwrite=False).found == "stopped"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (identity(dropout=0.1), "--dropout: found 0.1, expected 0.5 as in"),
        (identity(data="d1"), "the data: found 'd1', expected 'd0' as in"),
    ],
)
def test_another_run_is_refused_by_the_first_difference(finished, other, message):
    """The message names what differs and --overwrite, and no file changes."""
    before = contents(finished)
    with pytest.raises(UserError) as error:
        examine(finished, other, FILES, overwrite=False)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("or replace that run with --overwrite)")
    assert contents(finished) == before


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(finished):
    """Files that the old run's list doesn't name stay, even among its checkpoints."""
    folder = examine(finished, identity(data="d1"), ("results.json",), overwrite=True)
    assert folder.found == "another"
    begin(folder)
    left = contents(finished)
    manifest = json.loads(left.pop("run.json"))
    assert left == {"checkpoints/thesis.tex": b"mine", "checkpoints/a/notes.txt": b"mine"}
    assert manifest.pop("digest")
    assert manifest == {
        "identity": identity(data="d1"),
        "files": ["results.json"],
        "finished": False,
    }
    assert not (finished / "students").exists()


@pytest.mark.parametrize(
    "read",
    ["students/a", "students/a/weights", "results.json", "checkpoints/a", "checkpoints/a/epoch_3"],
)
@pytest.mark.parametrize("link", [False, True])
def test_what_is_read_is_never_removed(finished, read, link):
    """Such a path is refused, through a link too, even with --overwrite."""
    before = contents(finished)
    name = str(finished / read)
    if link:
        (finished.parent / "link").symlink_to(finished)
        name = str(finished.parent / "link" / read)
    other = identity(data="d1")
    with pytest.raises(UserError) as error:
        examine(finished, other, FILES, overwrite=True, reads=["all-MiniLM-L6-v2", name])
    assert re.fullmatch(
        rf"--output_dir: found {finished}/\S+, which --overwrite would remove and this command "
        rf"reads \({re.escape(name)}\), expected another --output_dir",
        str(error.value),
    )
    assert contents(finished) == before


def test_what_is_read_next_to_a_run_stays_and_stops_nothing(finished, monkeypatch):
    """A folder above the run's, or a file that no run has listed, may be read."""
    monkeypatch.chdir(finished.parent)
    kept = [str(finished.parent), str(finished / "checkpoints" / "a" / ".." / "thesis.tex")]
    again = examine(finished, identity(data="d1"), FILES, overwrite=True, reads=[*kept, "weights"])
    assert again.found == "another"
    # The same run goes on, whatever it reads: nothing is removed then.
    reads = [str(finished / "students" / "a")]
    assert examine(finished, identity(), FILES, overwrite=True, reads=reads).found == "finished"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("results.json", "file"), ("checkpoints/a/thesis.tex", "folder"), ("run.json/x", "folder")],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_nobodys_run_in_the_way_are_refused(tmp_path, name, kind, overwrite):
    """They are neither replaced nor removed, even with --overwrite."""
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(UserError, match=f"found (a {kind} that no run|no list of a run's files)"):
        examine(tmp_path, identity(), FILES, overwrite=overwrite)
    assert place.read_text() == "mine"


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    """The message names the path and says that a folder is expected."""
    (tmp_path / "students").write_text("mine")
    with pytest.raises(UserError, match="students: found a file, expected a folder"):
        examine(tmp_path, identity(), FILES, overwrite=True)
    with pytest.raises(UserError, match="students: found a file, expected a folder"):
        examine(tmp_path / "students", identity(), FILES, overwrite=True)


@pytest.mark.parametrize(
    "name", ["../precious", "/precious", "a/../../precious", "", "a\0b", "a\ud800"]
)
def test_a_manifest_that_lists_what_lies_outside_is_refused(tmp_path, name):
    """An absolute path, `..`, nothing, and what no file is called: refused, even to overwrite."""
    manifest = {"identity": {}, "files": [name], "finished": True}
    write_sealed_json(tmp_path / "run.json", manifest)
    with pytest.raises(UserError, match=r"run\.json: found no list of a run's files"):
        examine(tmp_path, identity(), FILES, overwrite=True)


@pytest.mark.parametrize("listed", ["d/thesis.txt", "d/e/thesis.txt", "d/"])
def test_a_link_to_another_place_is_never_followed(tmp_path, listed):
    """Neither what a manifest lists nor what is to be written may lie behind one."""
    (tmp_path / "mine" / "e").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "mine" / "e" / "thesis.txt").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(tmp_path / "mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{listed.rstrip('/')}: found it in .*, by a link"):
        examine(out, identity(), [listed], overwrite=False)
    assert contents(tmp_path) == before
    manifest = {"identity": {}, "files": ["results.json", listed], "finished": True}
    write_sealed_json(out / "run.json", manifest)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{listed.rstrip('/')}: found it in .*, by a link"):
        examine(out, identity(), FILES, overwrite=True)
    assert contents(tmp_path) == before


def test_links_inside_the_folder_and_to_it_are_followed(finished):
    """The output folder may lie elsewhere, on a larger disk say."""
    (finished.parent / "link").symlink_to(finished)
    folder = examine(finished.parent / "link", identity(data="d1"), FILES, overwrite=True)
    begin(folder)
    assert not (finished / "students").exists()


def _list_also(folder, name):
    manifest = json.loads((folder / "run.json").read_text())
    manifest.pop("digest")
    write_sealed_json(folder / "run.json", {**manifest, "files": [name, *manifest["files"]]})


def test_a_listed_name_that_the_system_refuses_is_refused_before_anything_goes(finished):
    _list_also(finished, "x" * 300)
    before = contents(finished)
    with pytest.raises(UserError, match="File name too long"):
        examine(finished, identity(data="d1"), FILES, overwrite=True)
    assert contents(finished) == before


def test_a_listed_name_below_a_file_stops_no_removal(finished):
    """There can't be such a file."""
    _list_also(finished, "students/a/weights/x")
    begin(examine(finished, identity(data="d1"), FILES, overwrite=True))
    assert not (finished / "students").exists()


def test_a_stopped_run_writes_through_no_link(finished):
    """A log that is a link would grow somebody's file."""
    (finished / "results.json").unlink()
    (finished / "results.json").symlink_to(finished.parent / "missing")
    with pytest.raises(UserError, match=r"results\.json: found a link, expected a file"):
        examine(finished, identity(), FILES, overwrite=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 1, "files": [], "finished": 1}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    """The message names run.json, even with --overwrite."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: found no list of a run's files"):
        examine(tmp_path, identity(), FILES, overwrite=True)


def test_a_pipe_in_the_lists_place_is_refused_at_once(tmp_path):
    """Reading run.json doesn't wait for whoever writes into the pipe."""
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run\.json: found no list of a run's files"):
        examine(tmp_path, identity(), FILES, overwrite=True)
