"""No room, no permission, odd terminals: told in one line, or no matter."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from prmkd_jax.common.files import write_text
from prmkd_jax.train.checkpoint import load_checkpoint, save_checkpoint
from teachers_torch.states import load_state, save_state

ROOT = Path(__file__).parents[2]


@pytest.fixture
def full_disk():
    """No file may grow beyond 50,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_teachers_state_that_finds_no_room_leaves_the_one_before(tmp_path, full_disk):
    save_state(tmp_path / "a.pt", {"w": torch.zeros(10)})
    with pytest.raises(OSError, match="File too large") as error:
        save_state(tmp_path / "a.pt", {"w": torch.zeros(100_000)})
    assert error.value.filename == str(tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    random = torch.get_rng_state()
    assert load_state(tmp_path / "a.pt")["w"].shape == (10,)
    torch.set_rng_state(random)


def test_a_students_state_that_finds_no_room_leaves_the_one_before(tmp_path, full_disk):
    noise = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    save_checkpoint(tmp_path, 1, {"w": jnp.ones(3)}, {})
    with pytest.raises(OSError, match="File too large") as error:
        save_checkpoint(tmp_path, 2, {"w": jnp.asarray(noise)}, {})
    assert error.value.errno == errno.EFBIG
    assert load_checkpoint(tmp_path, {"w": jnp.zeros(3)}) is not None
    save_checkpoint(tmp_path, 2, {"w": jnp.ones(3)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_1", "epoch_2"]


def test_a_file_that_finds_no_room_is_named(tmp_path, full_disk):
    write_text(tmp_path / "page.html", "old")
    with pytest.raises(OSError, match="File too large") as error:
        write_text(tmp_path / "page.html", "x" * 100_000)
    assert error.value.filename == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def python(code: str, **more) -> subprocess.CompletedProcess:
    program = f"from experiments.cli.command import run_command\n{code}\nrun_command(main)"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False,
        **{"capture_output": True, **more},
    )  # fmt: skip


SAY = """
def main(argv):
    from experiments.cli.console import Reporter
    Reporter().say("UniM²Rec \\u2013 Ж")
    print("UniM²Rec")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_another_encoding_ends_no_run(encoding):
    """A UnicodeEncodeError after all the work."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C"}
    done = python(SAY, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert said.endswith("UniM\\xb2Rec\n" if encoding == "ascii" else "UniM²Rec\n")


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_outputs_end_no_run_and_no_file_takes_their_place(tmp_path, closed):
    """What compiled code says written into the results."""
    code = f"""
import os
def main(argv):
    with open({str(tmp_path / "results")!r}, "w") as file:
        assert file.fileno() > 2
        os.write(1, b"said by compiled code")
        file.write("results")
{SAY.replace("def main", "def say")}
    open({str(tmp_path / "end")!r}, "w").close()
before = main
def main(argv):
    before(argv)
    say(argv)
"""
    code = re.sub("\n\n+", "\n", code)
    places = " ".join(f"{descriptor}>&-" for descriptor in closed)
    program = f"from experiments.cli.command import run_command\n{code}\nrun_command(main)"
    (tmp_path / "program.py").write_text(program)
    line = f"{sys.executable} {tmp_path / 'program.py'} {places}"
    done = subprocess.run(
        ["sh", "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "results").read_text() == "results"
    assert (tmp_path / "end").exists()
