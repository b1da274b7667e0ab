"""The frame of all commands: where compiled programs are kept."""

from pathlib import Path

import pytest

from experiments.cli.command import compiled_programs
from experiments.cli.options import LoadConfig
from experiments.cli.settings import RunConfig
from tests.commands import run_commands


def test_what_trains_keeps_its_programs_in_the_cache_that_it_makes(tmp_path, monkeypatch):
    """The programs are in the named folder, so the next process finds them."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig(cache_dir="mine")
    assert compiled_programs({RunConfig: config}) == Path("mine/jax")


@pytest.mark.parametrize(
    ("variable", "value"), [("JAX_PLATFORMS", "nowhere"), ("JAX_ENABLE_X64", "maybe")]
)
def test_variables_that_jax_cannot_take_are_told_in_a_line(tmp_path, variable, value):
    """A script of another machine often sets them; what needs no JAX doesn't ask."""
    lines = [["recommend", f"--model={tmp_path}", "--history=a"], ["flags"]]
    recommend, flags = run_commands(lines, {variable: value})
    assert recommend.returncode == 2
    assert recommend.stderr.startswith("error: $")
    assert f"${variable}='{value}'" in recommend.stderr
    assert "expected values that it takes on this machine" in recommend.stderr
    assert recommend.stderr.count("\n") == 1
    assert flags.returncode == 0


@pytest.mark.parametrize(("flag", "words"), [("cache_dir", []), ("data_dir", ["--dataset=Shop"])])
def test_a_variables_value_is_told_by_its_name(tmp_path, flag, words):
    """Nobody gave the flag that it stands for; who gives it is told of the flag."""
    (tmp_path / "file").touch()
    variable, place = f"PRMKD_{flag.upper()}", str(tmp_path / "file")
    train = ["train", "--teachers=", f"--output_dir={tmp_path / 'out'}", *words]
    lines = [train, [*train, f"--{flag}={place}"]]
    found, given = run_commands(lines, {variable: place})
    told = f"found the file {place}, expected a folder\n"
    assert found.stderr == f"error: ${variable} (--{flag}): {told}"
    assert given.stderr == f"error: --{flag}: {told}"


def test_other_commands_use_a_cache_that_is_there(tmp_path, monkeypatch):
    """No command makes ./cache where it is started, but a folder that is there is used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRMKD_CACHE_DIR", raising=False)
    configs = {LoadConfig: LoadConfig()}
    assert compiled_programs(configs) is None
    Path("cache").mkdir()
    assert compiled_programs(configs) == Path("cache/jax")
    monkeypatch.setenv("PRMKD_CACHE_DIR", str(tmp_path / "shared"))
    assert compiled_programs(configs) is None
    (tmp_path / "shared").mkdir()
    assert compiled_programs(configs) == tmp_path / "shared/jax"
