import json
import os
import subprocess
import sys

import pytest

from prmkd_jax.common.files import (
    append_json_line,
    content_digest,
    file_digest,
    remove_leftovers,
    write_json,
    writing,
    writing_folder,
)


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


def test_a_folder_is_replaced_by_the_complete_new_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("")
    with writing_folder(folder) as partial:
        (partial / "new").write_text("weights")
        assert (folder / "old").exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_error_while_filling_a_folder_keeps_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("")
    with pytest.raises(KeyError), writing_folder(folder):
        raise KeyError
    assert (folder / "old").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_only_temporary_files_of_ended_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, dead = (tmp_path / f"x.partial-{pid}" for pid in (os.getpid(), ended.pid))
    other = tmp_path / "thesis.partial-draft"
    for path in (mine, dead, other):
        path.write_text("")
    (tmp_path / f"y.partial-{ended.pid}").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_lines_are_appended(tmp_path):
    for value in (1, 2):
        append_json_line(tmp_path / "log.jsonl", {"value": value})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [1, 2]


def test_digests_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == expected
    assert content_digest([1]) != content_digest(["1"])
