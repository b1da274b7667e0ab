"""The command that prepares data, as a user runs it."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from experiments.cli.arguments import CONFIGS
from experiments.cli.flags import config_of, parse
from experiments.commands.prepare import COMMAND
from experiments.stages.prepare import SENTENCE
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare
from teachers_torch.items.text import SENTENCE_FIELDS
from tests.commands import run_commands
from tests.data.sources.raw_files import write_amazon, write_unisrec

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


@pytest.mark.parametrize(
    ("header", "cells", "flag"),
    [
        (
            "item_id,title,image_path",
            "ring,a.jpg",
            "--flagfile=own.cfg --teachers=unisrec-text,unisrec,unim2rec",
        ),
        ("item_id,title", "ring", "--flagfile=own.cfg"),
        ("item_id,description", "a ring", "--teachers=neighbours"),
    ],
)
def test_the_next_command_names_teachers_that_the_data_have_inputs_for(
    tmp_path, header, cells, flag
):
    """Settings to begin with, in a line for a shell, whatever blanks a folder's name has."""
    tmp_path = tmp_path / "my data"
    tmp_path.mkdir()
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,2018-10-01\nu,b,2018-10-02\nu,a,2018-10-03\n")
    items.write_text(f"{header}\na,{cells}\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    done = run(f"--interactions={log}", f"--items={items}", "--name=shop", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    expected = f"next: python -m experiments train --dataset=shop {flag} '--data_dir={tmp_path}'"
    assert done.stdout.splitlines()[-1] == expected
    assert SENTENCE == SENTENCE_FIELDS


def test_a_mistake_is_one_line_and_status_2(tmp_path):
    done = run("--interactions=nowhere.csv", "--name=shop", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --interactions: found no file 'nowhere.csv', expected a file, folder or glob\n"
    )
    assert not [*tmp_path.iterdir()]


def test_flags_that_nothing_reads_are_warned_of(tmp_path):
    """Each warning says why, such as that --source=table doesn't read --raw_dir."""
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,2018-10-01\nu,b,2018-10-02\n")
    done = run(
        f"--interactions={log}",
        "--name=shop",
        f"--data_dir={tmp_path}",
        "--raw_dir=somewhere",
        "--category=Games",
        "--title_column=name",
        "--image_encoder=some/encoder",
        "--image_hosts=a",
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "has no effect" in line]
    assert told == [
        "warning: --category has no effect: --source=table is not Amazon's",
        "warning: --image_encoder has no effect: no --encode_images",
        "warning: --image_hosts has no effect: no --download_images",
        "warning: --raw_dir has no effect: --source=table reads --interactions",
        "warning: --title_column has no effect: there are no --items",
    ]


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


def cored(rows: set[tuple], users: int, items: int) -> set[tuple]:
    """Rows that stay when rare users and items leave, one after another."""
    while True:
        for place, least in ((0, users), (1, items)):
            counts = Counter(row[place] for row in rows)
            rare = next((name for name in counts if counts[name] < least), None)
            if rare is not None:
                rows = {row for row in rows if row[place] != rare}
                break
        else:
            return rows


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "unisrec" not in path.stem], ids=lambda path: path.stem
)
def test_a_recipe_prepares_raw_files_as_they_are_published(path, tmp_path):
    def parsed() -> PrepareConfig:
        flags = [f"--flagfile={path.name}", f"--raw_dir={tmp_path / 'raw'}"]
        configs = parse([*flags, f"--data_dir={tmp_path}"], COMMAND.groups).configs
        return config_of(configs, PrepareConfig)

    config = parsed()
    raw = write_amazon(tmp_path / "raw", config.generation, config.reviews, config.category)
    report = prepare(config)
    kept = [tuple(row) for row in raw]
    if config.need_title:
        kept = [row for row in kept if not str(row[1]).startswith("99")]
    if config.deduplicate:
        kept = list(set(kept))
    if config.user_core:
        # No row twice by now, so a set of rows counts as the rows do.
        kept = list(cored(set(kept), config.user_core, config.item_core))
        assert 0 < len(kept) < len(raw) - 20
    frame = pl.read_parquet(tmp_path / config.name / "interactions.parquet")
    written = zip(
        frame["user_id"], frame["item_id"], frame["rating"], frame["timestamp"], strict=True
    )
    assert sorted((*row[:3], row[3] // 86_400_000) for row in written) == sorted(kept)
    assert report.sheet["items without a catalogue row"].number == (
        "9999999999" in set(frame["item_id"])
    )
    items = pl.read_parquet(tmp_path / config.name / "items.parquet")
    assert items["title"].to_list()[0] == f"Thing & {items['item_id'][0]}"
    assert items["price"].to_list()[0] == 5.5
    categories = {"2014": "Shop,Women's", "2018": "Shop,Odds"}
    assert set(items["categories"]) == {categories[config.generation]}


def test_the_recipe_of_unisrecs_scientific_prepares_a_benchmark_folder(tmp_path):
    write_unisrec(tmp_path / "raw")
    flags = ["--flagfile=prepare-scientific-unisrec.cfg", f"--raw_dir={tmp_path / 'raw'}"]
    configs = parse([*flags, f"--data_dir={tmp_path}"], COMMAND.groups).configs
    report = prepare(config_of(configs, PrepareConfig))
    assert "given split: it is leave-one-out, so nothing of it is written" in report.notes
    frame = pl.read_parquet(tmp_path / "Scientific/interactions.parquet")
    histories = frame.group_by("user_id", maintain_order=True).agg("item_id").rows()
    assert histories == [("A0", ["B0", "B1", "B2", "B3", "B4"]), ("A1", ["B4", "B2", "B0"])]
    items = pl.read_parquet(tmp_path / "Scientific/items.parquet")
    assert items["title"].to_list() == [f'5" pipe {number}' for number in range(5)]


def test_a_second_call_says_that_there_is_nothing_to_do(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "".join(f"u,{i},2018-10-0{i}\n" for i in "123"))
    words = ["prepare", f"--interactions={log}", "--name=shop", f"--data_dir={tmp_path}"]
    first, second, third = run_commands([words, words, [*words, "--min_history=2"]])
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr == second.stderr
    folder = tmp_path / "shop"
    said = " ".join(second.stdout.split())
    assert f"nothing to do: {folder} was made of these files with these flags" in said
    assert third.returncode == 2
    assert third.stderr == (
        f"error: --name=shop: found {folder} already, made with --min_history=0 and not 2, "
        "expected a new name or --overwrite\n"
    )
