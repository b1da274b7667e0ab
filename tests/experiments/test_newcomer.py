"""From files as people have them to a distilled student that recommends, with two commands."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prmkd_jax.serve.recommender import Recommender
from tests.data.sources.make_raw import make

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = (
    "--teachers=unisrec-text", "--seeds=0", "--hidden_size=8", "--num_layers=1",
    "--inner_size=8", "--batch_size=64", "--max_seq_len=8", "--max_epochs=1",
    "--teacher_hidden_size=8", "--teacher_num_layers=1", "--teacher_inner_size=8",
    "--teacher_num_experts=2", "--teacher_batch_size=64", "--teacher_max_epochs=1",
)  # fmt: skip


def command(folder: Path, *words: str) -> str:
    """What a command says; it ends well."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *words, f"--data_dir={folder / 'data'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path, *flags: str) -> tuple[str, dict]:
    """What `train` says, and its results."""
    output = folder / "run"
    said = command(
        folder, "train", *TINY, f"--output_dir={output}", f"--cache_dir={folder / 'cache'}", *flags
    )
    return said, json.loads((output / "results.json").read_text())


def recommends(folder: Path, history: list[str]) -> list[str]:
    """Items that the distilled student, exported, recommends."""
    (place,) = (folder / "run/students").glob("sasrec-prmkd-*")
    [answer] = Recommender.load(place).recommend([history], k=3)
    return [item for item, _, _ in answer.items]


def test_two_raw_amazon_files_become_a_distilled_student(tmp_path):
    make(tmp_path / "raw", reviews=3_000, items=60)
    said = command(
        tmp_path, "prepare", "--source=amazon", "--name=Big", f"--raw_dir={tmp_path / 'raw'}",
        "--deduplicate=exact", "--user_core=5", "--item_core=5", "--need_title",
    )  # fmt: skip
    assert "items without a catalogue row: 0 of" in said
    said, results = train(tmp_path, "--dataset=Big")
    assert "items with title: " in said
    sheet = {line["name"]: line for line in results["data"]["sheet"]}
    assert sheet["items without a catalogue row"]["number"] == 0
    assert results["data"]["interactions"] == sheet["interactions"]["number"]
    assert len(recommends(tmp_path, ["B000000001", "B000000002"])) == 3


def warehouse(folder: Path) -> None:
    """The same shop's tables as a warehouse exports them: part files, other names, ISO times."""
    make(folder / "raw", reviews=3_000, items=60)
    parts = folder / "orders"
    parts.mkdir()
    with gzip.open(folder / "raw/Big.json.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    for part in range(2):
        with gzip.open(parts / f"part-{part}.csv.gz", "wt", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["ordered_at", "customer", "sku"])
            for number, row in enumerate(rows[part::2]):
                day = 1 + row["unixReviewTime"] // 86_400 % 28
                moment = f"2018-{1 + number % 12:02}-{day:02}T10:00:{number % 60:02}+01:00"
                table.writerow([moment, row["reviewerID"], row["asin"]])
    with (
        gzip.open(folder / "raw/meta_Big.json.gz", "rt") as stream,
        (folder / "products.csv").open("w", newline="") as out,
    ):
        table = csv.writer(out)
        table.writerow(["sku", "name", "maker"])
        for row in map(json.loads, stream):
            table.writerow([row["asin"], row["title"], row["brand"]])


def test_a_warehouse_export_becomes_a_student_under_a_temporal_split(tmp_path):
    warehouse(tmp_path)
    command(
        tmp_path, "prepare", "--name=Shop", f"--interactions={tmp_path / 'orders'}",
        f"--items={tmp_path / 'products.csv'}", "--user_column=customer", "--item_column=sku",
        "--timestamp_column=ordered_at", "--title_column=name", "--brand_column=maker",
        "--user_core=5", "--item_core=5",
    )  # fmt: skip
    _, results = train(
        tmp_path, "--dataset=Shop", "--split=temporal", "--split_at=0.8,2018-11-15",
        "--candidates=catalogue",
    )  # fmt: skip
    assert len(recommends(tmp_path, ["B000000001", "B000000002"])) == 3
    record = json.loads((tmp_path / "run/runs/prmkd/record.json").read_text())
    assert record["split"]["name"] == "temporal"
    assert record["split"]["cuts"] == ["0.8", "2018-11-15"]
    assert 0 < record["split"]["test"] < results["data"]["users"]


def test_the_synthetic_world_has_a_clock(tmp_path):
    _, results = train(tmp_path, "--synthetic_users=80", "--synthetic_items=50", "--split=temporal")
    assert [variant["name"] for variant in results["variants"]] == ["base", "prmkd"]
