"""JAX's cache of compiled programs, after a full disk or a kill."""

import os
import zlib

import pytest

from bridge.program_cache import remove_damaged

WHOLE = zlib.compress(b"a program" * 1000)


@pytest.mark.parametrize("cut", [b"", WHOLE[:4], WHOLE[:-1], WHOLE[:-4] + b"0000", b"no program"])
def test_cut_entries_are_removed_and_whole_ones_stay(tmp_path, cut):
    """JAX would warn of it and compile anew for ever: it never writes over an entry."""
    (tmp_path / "cut-cache").write_bytes(cut)
    (tmp_path / "whole-cache").write_bytes(WHOLE)
    (tmp_path / "zstd-cache").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    (tmp_path / "other").write_bytes(cut)
    remove_damaged(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [".seen", "other", "whole-cache", "zstd-cache"]


def test_only_what_is_new_is_read_again(tmp_path, monkeypatch):
    """A large cache costs its reading once."""
    old, new = tmp_path / "old-cache", tmp_path / "new-cache"
    old.write_bytes(WHOLE)
    os.utime(old, (1e9, 1e9))
    remove_damaged(tmp_path)
    new.write_bytes(WHOLE[:-1])
    read = []
    monkeypatch.setattr(
        "bridge.program_cache._is_whole", lambda packed: read.append(packed) or False
    )
    remove_damaged(tmp_path)
    assert read == [WHOLE[:-1]]
    assert old.exists()
    assert not new.exists()


def test_a_cache_that_is_not_there_is_none(tmp_path):
    remove_damaged(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
