"""The frame of all commands: where compiled programs are kept."""

from pathlib import Path

from experiments.cli.command import compiled_programs
from experiments.cli.options import LoadConfig
from experiments.cli.settings import RunConfig


def test_what_trains_keeps_its_programs_in_the_cache_that_it_makes(tmp_path, monkeypatch):
    """Programs compiled again in each process, or in a folder that nobody named."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig(cache_dir="mine")
    assert compiled_programs({RunConfig: config}) == Path("mine/jax")


def test_other_commands_use_a_cache_that_is_there(tmp_path, monkeypatch):
    """A server that makes ./cache wherever it is started, or compiles for minutes beside one."""
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
