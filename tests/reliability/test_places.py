"""No room, no permission, odd terminals: told in one line, or no matter."""

import errno
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.cli.command import execute
from experiments.cli.flags import flags_of, parse
from experiments.commands.table import COMMANDS
from experiments.stages.run_folder import begin, examine
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text
from prmkd_jax.serve.answers import require_output
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


def path_flags():
    """Every flag of every command that is a path: (command, flag, whether it takes several)."""
    found = {}
    for command in COMMANDS:
        for group in command.groups:
            for field, kind in flags_of(group.config):
                if field.metadata["path"]:
                    name = group.prefix + field.name.rstrip("_")
                    found.setdefault(name, (command, kind.many, group.config, field.name))
    return sorted((name, *rest) for name, rest in found.items())


@pytest.mark.parametrize(
    ("name", "command", "many", "config", "field"), path_flags(), ids=[x[0] for x in path_flags()]
)
def test_every_path_knows_home_and_variables_and_refuses_nul(
    monkeypatch, name, command, many, config, field
):
    """`~` and variables are expanded; an unset variable or a NUL is refused by the flag."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("PLACE", "/mnt/place")
    more = {"pretrain": ["--domains=a"], "bench": ["--plain=a", "--distilled=b"]}
    more = more.get(command.name, [])
    file = "x.html" if name == "page" else "x"
    for text, folder in (("~", "/home/somebody"), ("${PLACE}", "/mnt/place")):
        parsed = parse([*more, f"--{name}={text}/{file}"], command.groups)
        value, expected = getattr(parsed.configs[config], field), f"{folder}/{file}"
        assert value == ((expected,) if many else expected)
    for text, told in (("$NO_SUCH_PLACE/x", "is not set"), ("a\0b", "expected")):
        with pytest.raises(UserError, match=told) as error:
            parse([*more, f"--{name}={text}"], command.groups)
        assert str(error.value).startswith(f"--{name}: found")


# Words that may name a folder but are no paths of their own.
NO_PATHS = {
    "source", "name", "category", "timestamp_column", "image_column", "ties", "init", "log_to",
    "dataset", "text_pooling", "domains",
}  # fmt: skip


def test_a_flag_that_speaks_of_files_is_a_path():
    """Help that speaks of a file or folder belongs to a declared path, or to an exception."""
    known = {name for name, *_ in path_flags()} | NO_PATHS
    for command in COMMANDS:
        for group in command.groups:
            for field, kind in flags_of(group.config):
                words = set(re.findall(r"[a-z]+", field.metadata["help"].lower()))
                if kind.element is str and words & {"folder", "folders", "file", "files", "path"}:
                    assert group.prefix + field.name.rstrip("_") in known


def test_a_name_that_is_too_long_is_told_by_the_system(tmp_path):
    with pytest.raises(OSError, match="File name too long") as error:
        write_text(tmp_path / ("x" * 300), "text")
    assert error.value.errno == errno.ENAMETOOLONG
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_name_is_no_utf8_is_told_at_once(tmp_path, monkeypatch):
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff"))
    here.mkdir()
    monkeypatch.chdir(here)
    (train,) = (command for command in COMMANDS if command.name == "train")
    with pytest.raises(UserError, match=r"the current folder: found '.*x\\udcff', expected a name"):
        execute(train, ["--seeds=0"], "train")
    assert not list(here.iterdir())


@pytest.fixture
def nobody():
    """Without the rights of an administrator, which know no folder without permission."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def open_to_all(tmp_path: Path) -> None:
    """Lets every user pass to a test's folder, which pytest makes for one user alone."""
    above = os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(above):
            break
        folder.chmod(0o755)


def test_a_folder_without_permission_is_told_before_anything_is_written(tmp_path, request):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    open_to_all(tmp_path)
    request.getfixturevalue("nobody")
    with pytest.raises(UserError, match="without permission to write, expected it"):
        examine(closed, {}, ["results.json"], overwrite=False)
    with pytest.raises(OSError, match="Permission denied") as error:
        write_text(closed / "page.html", "text")
    assert str(closed / "page.html") in str(error.value)


def test_a_cache_that_is_only_read_serves_what_is_complete(tmp_path, request):
    """A complete entry of a shared cache is read without writing; a missing one is an error."""
    cache = Cache(tmp_path / "cache")
    path = cache.entry("texts", "key.npy", lambda path: path.write_text("content") and None)
    open_to_all(tmp_path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    path.parent.chmod(0o555)
    request.getfixturevalue("nobody")
    assert cache.has("texts", "key.npy")
    assert cache.entry("texts", "key.npy", lambda path: pytest.fail("made again")) == path
    with pytest.raises(OSError, match="Permission denied"):
        cache.entry("texts", "other.npy", lambda path: None)


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_a_link_where_answers_are_to_go_is_not_replaced(tmp_path, kind):
    """Without --overwrite the link stays, with or without a file behind it."""
    if kind == "file":
        (tmp_path / "target.jsonl").write_text("mine")
    link = tmp_path / "answers.jsonl"
    link.symlink_to(tmp_path / "target.jsonl")
    with pytest.raises(UserError, match="expected no such file, or --overwrite"):
        require_output(link, overwrite=False)
    assert link.is_symlink()


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = examine(tmp_path / "link", {"settings": {}}, ["results.json"], overwrite=False)
    begin(folder)
    assert (tmp_path / "real" / "run.json").is_file()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match="nowhere: found a file, expected a folder or nothing"):
        examine(tmp_path / "nowhere", {"settings": {}}, ["results.json"], overwrite=False)


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
    """A character that the encoding lacks is escaped, and the status is 0."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C"}
    done = python(SAY, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert said.endswith("UniM\\xb2Rec\n" if encoding == "ascii" else "UniM²Rec\n")


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_outputs_end_no_run_and_no_file_takes_their_place(tmp_path, closed):
    """What compiled code writes to a closed output doesn't reach the results."""
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
