import os

import pytest

from prmkd_jax.common import reading
from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import is_there, open_regular, read_json
from prmkd_jax.common.sealed import is_sealed, read_sealed


def test_digests_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == expected
    assert content_digest([1]) != content_digest(["1"])


@pytest.mark.parametrize("read", [open_regular, file_digest, read_json])
def test_what_is_no_regular_file_is_not_read(read, tmp_path):
    """A pipe would block for ever, and a device never ends."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"1" * 5000])
def test_what_is_no_json_is_a_value_error(content, tmp_path):
    """Nesting beyond Python's recursion limit, or no text at all, ends in the same error."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json")


def test_json_of_an_absurd_size_is_not_read(tmp_path, monkeypatch):
    """A file above the limit is refused by its size, and a small one is read."""
    monkeypatch.setattr(reading, "LARGEST_JSON", 2**20)
    (tmp_path / "a.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="it has more than 1 MB"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}


@pytest.mark.parametrize("name", ["a\0b", "\ud83d"])
def test_a_name_that_no_file_has_is_an_error_of_the_system(tmp_path, name):
    """The error is an OSError, as for a missing file, and not a ValueError."""
    for read in (open_regular, file_digest):
        with pytest.raises(OSError, match=r"such a name|No such file"):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", ["folder", "link", "loop", "pipe"])
def test_what_is_no_file_in_an_optional_ones_place_is_refused(tmp_path, kind):
    """A folder, a dangling link or a pipe never counts as "no file there"."""
    path = tmp_path / "item2index"
    assert not is_there(path)
    {
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(tmp_path / "gone"),
        "loop": lambda: path.symlink_to(path),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    with pytest.raises(UserError, match=rf"{path}: found .*, expected a file or nothing"):
        is_there(path)


def test_a_link_to_a_file_is_one(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert is_there(tmp_path / "a")
    assert is_there(tmp_path / "b")


@pytest.mark.parametrize("read", [is_sealed, read_sealed])
def test_a_pipe_is_no_sealed_file(tmp_path, read):
    """It is refused at once; the run doesn't wait for somebody to write into it."""
    os.mkfifo(tmp_path / "ranks-0.npy")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "ranks-0.npy")
