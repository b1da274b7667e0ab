"""The command that prepares data, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from experiments.cli.arguments import CONFIGS
from experiments.cli.flags import config_of, parse
from experiments.commands.prepare import COMMAND
from prmkd_jax.data.sources.config import PrepareConfig

ROOT = Path(__file__).parents[3]
RECIPES = sorted(CONFIGS.glob("prepare-*.cfg"))


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments", "prepare", *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_warehouse_export_becomes_a_data_set_with_its_sheet(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("client,sku,bought\n" + "".join(f"nan,0{i},2018-10-0{i}\n" for i in range(1, 6)))
    done = run(
        f"--interactions={log}",
        "--name=shop",
        f"--data_dir={tmp_path}",
        "--user_column=client",
        "--item_column=sku",
        "--timestamp_column=bought",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "times: dates or timestamps such as 2018-10-01, without a zone taken as UTC" in done.stdout
    )
    assert "interactions: 5" in done.stdout
    assert "warning: user ids that stand for nothing: 1 (such as 'nan')" in done.stdout
    frame = pl.read_parquet(tmp_path / "shop/interactions.parquet")
    assert frame["item_id"].to_list() == ["01", "02", "03", "04", "05"]


def test_a_mistake_is_one_line_and_status_2(tmp_path):
    done = run("--interactions=nowhere.csv", "--name=shop", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --interactions: found no file 'nowhere.csv', expected a file, folder or glob\n"
    )
    assert not [*tmp_path.iterdir()]


def test_help_needs_no_polars():
    code = (
        "import sys; from experiments.__main__ import main\n"
        "sys.argv = ['prmkd', 'prepare', '--help']\n"
        "main()\n"
        "print('polars' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "--deduplicate=" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_there_is_a_recipe_for_every_published_set():
    names = {path.stem.removeprefix("prepare-") for path in RECIPES}
    papers = {"scientific", "instruments", "arts", "toys", "games"}
    assert names == papers | {"scientific-unisrec", "beauty-5core", "sports-5core", "toys-5core"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_says_what_to_expect(path):
    config = config_of(parse([f"--flagfile={path.name}"], COMMAND.groups).configs, PrepareConfig)
    config.require()
    assert "# To expect: " in path.read_text()
