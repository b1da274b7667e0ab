"""The frame of all commands: where compiled programs are kept."""

from pathlib import Path

from experiments.cli.command import compiled_programs
from experiments.cli.options import LoadConfig
from experiments.cli.settings import RunConfig


def test_what_trains_keeps_its_programs_in_the_cache_that_it_makes(tmp_path, monkeypatch):
    """The programs are in the named folder, so the next process finds them."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig(cache_dir="mine")
    assert compiled_programs({RunConfig: config}) == Path("mine/jax")


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
