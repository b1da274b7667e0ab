import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prmkd_jax.common.cache import Cache, held, locked
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed

ROOT = Path(__file__).parents[2]

SLOW_MAKER = """
import sys, time
from pathlib import Path
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.sealed import read_sealed

def make(path):
    with open(sys.argv[1] + "/made", "a") as log:
        log.write("once\\n")
    time.sleep(0.5)
    path.write_text("content")

print(read_sealed(Cache(Path(sys.argv[1])).entry("texts", "key.npy", make)).decode())
"""


def test_processes_that_share_an_entry_make_it_once(tmp_path):
    command = [sys.executable, "-c", SLOW_MAKER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert said == ["content\n"] * 3
    assert (tmp_path / "made").read_text() == "once\n"


def test_an_entry_whose_making_failed_is_made_again(tmp_path):
    cache = Cache(tmp_path)

    def fail(path):
        path.write_text("half")
        raise KeyError

    with pytest.raises(KeyError):
        cache.entry("texts", "key.npy", fail)
    path = cache.entry("texts", "key.npy", lambda path: path.write_text("complete") and None)
    assert read_sealed(path) == b"complete"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("hold", [lambda folder: locked(folder / "x"), lambda f: held(f, "x")])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, code, hold):
    """One line asks for another folder, so that two commands never write the same file."""

    def fail(descriptor, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError) as error, hold(tmp_path):
        pass
    assert str(error.value) == (
        f"{tmp_path}: found a file system without locks ({os.strerror(code)}), expected one with "
        "them, so that no two commands write the same file: take another folder"
    )


HOLDER = """
import sys, time
from pathlib import Path
from prmkd_jax.common.cache import held, locked

with held(Path(sys.argv[1]), "x"), locked(Path(sys.argv[1]) / "entry"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_folder_is_refused_until_its_process_is_killed(tmp_path):
    """A second command is refused meanwhile, and no stale lock is left after the kill."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="found another command that writes there, expected"),
            held(tmp_path, "x"),
        ):
            pass
        waiting = []
        holder.kill()
        holder.wait()
    with held(tmp_path, "x"), locked(tmp_path / "entry", lambda: waiting.append(1)):
        assert not waiting


def test_a_room_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found 'attic', expected one of texts, images"):
        Cache(tmp_path).room("attic")


def test_a_damaged_entry_is_made_again_with_a_warning(tmp_path, caplog):
    """Content that was changed on disk is never used."""
    cache = Cache(tmp_path)
    path = cache.entry("texts", "key.npy", lambda path: path.write_text("content") and None)
    path.write_bytes(path.read_bytes().replace(b"cont", b"kont"))
    assert not cache.has("texts", "key.npy")
    again = cache.entry("texts", "key.npy", lambda path: path.write_text("content") and None)
    assert read_sealed(again) == b"content"
    assert caplog.messages == [f"{path}: found it damaged; it is made again"]
