"""RecBole's own SASRec: trained there, updated here, served there again.

    python -m tests.recbole.round_trip --recbole_python=recbole/bin/python --folder=round-trip

RecBole has an environment of its own (`requirements.txt` next to this file). Yesterday's data lack
a tenth of the items, and each user's last interaction; RecBole trains on them. `update` takes its
file to today's data and writes RecBole's keys again. A model of RecBole's over today's data then
recommends what the `Recommender` here does. Ends with status 1 where it doesn't.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.subset import without_items
from prmkd_jax.data.synthetic import WorldConfig, make_domain
from prmkd_jax.serve.recommender import Recommender

HERE = Path(__file__).parent
SIZES = (
    "--student=sasrec",
    "--hidden_size=64",
    "--inner_size=256",
    "--num_layers=2",
    "--num_heads=2",
    "--max_seq_len=20",
    "--dropout=0.2",
)
# Two ways to the same float32 sums.
TOLERANCE = 1e-4


def main(argv: Sequence[str]) -> int:
    """Runs all stages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recbole_python", required=True, help="Python of RecBole's environment")
    parser.add_argument("--folder", required=True, type=Path, help="new folder for everything")
    parser.add_argument("--teachers", default="", help="who teaches in the update")
    parser.add_argument("--epochs", default="4", help="of RecBole's training")
    options = parser.parse_args(argv)
    folder = options.folder.absolute()
    folder.mkdir(parents=True)
    today = make_domain(0, "home", WorldConfig(users=300, items=200)).dataset
    yesterday = _yesterday(today)
    for name, dataset in (("today", today), ("yesterday", yesterday)):
        _write_ours(folder / "ours" / name, dataset)
        _write_theirs(folder / "theirs" / name, name, dataset)

    trained, updated = folder / "SASRec.pth", folder / "update"
    _theirs(options, folder, "train", "yesterday", trained)
    command = [
        sys.executable, "-m", "experiments", "update", f"--from={trained}", "--dataset=today",
        f"--data_dir={folder / 'ours'}", f"--output_dir={updated}", *SIZES, "--export_recbole",
        f"--teachers={options.teachers}", "--noscratch", "--batch_size=256",
        "--learning_rate=2e-3", "--rows_from=words",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=HERE.parents[1])
    (student,) = (updated / "students" / "updated").iterdir()
    _theirs(options, folder, "serve", "today", student / "recbole.pth")
    _compare(
        folder / "train.json",
        Recommender.load(_of_recbole(trained, yesterday, folder)),
        "yesterday",
    )
    _compare(folder / "serve.json", Recommender.load(student), "today")
    print((updated / "update.md").read_text())
    return 0


def _yesterday(today: Dataset) -> Dataset:
    """Without a tenth of the items, and without each user's last interaction."""
    keep = np.ones(today.num_items, bool)
    keep[np.random.default_rng(0).permutation(today.num_items)[: today.num_items // 10]] = False
    older = without_items(today, keep)
    histories = older.interactions
    last = histories.indptr[1:] - 1
    stays = np.ones(len(histories.items), bool)
    stays[last[last >= histories.indptr[:-1]]] = False
    indptr = np.concatenate([[0], np.cumsum(stays)])[histories.indptr]
    shorter = dataclasses.replace(
        older, interactions=Interactions(indptr.astype(np.int64), histories.items[stays])
    )
    # An item that was only somebody's last one wasn't there yesterday.
    counts = np.bincount(shorter.interactions.items, minlength=shorter.num_items)
    return without_items(shorter, counts > 0)


def _write_ours(folder: Path, dataset: Dataset) -> None:
    """The canonical layout."""
    folder.mkdir(parents=True)
    users, items, positions = _columns(dataset)
    log = {"user_id": users, "item_id": items, "position": pa.array(positions, pa.int32())}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    texts = {"item_id": dataset.item_ids, **dataset.catalogue.texts}
    pq.write_table(pa.table({k: list(v) for k, v in texts.items()}), folder / "items.parquet")


def _write_theirs(folder: Path, name: str, dataset: Dataset) -> None:
    """RecBole's atomic file."""
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{u}\t{i}\t{t}" for u, i, t in zip(*_columns(dataset), strict=True)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")


def _columns(dataset: Dataset) -> tuple[list[str], list[str], list[int]]:
    histories = dataset.interactions
    users = [dataset.user_ids[user] for user in histories.users]
    items = [dataset.item_ids[item] for item in histories.items]
    positions = np.arange(len(items)) - histories.indptr[histories.users]
    return users, items, positions.tolist()


def _theirs(
    options: argparse.Namespace, folder: Path, stage: str, name: str, weights: Path
) -> None:
    """One stage in RecBole's environment; it works where its own logs may lie."""
    arguments = [stage, folder / "theirs", name, weights, folder / f"{stage}.json", options.epochs]
    python = Path(options.recbole_python).absolute()
    subprocess.run([python, HERE / "theirs.py", *map(str, arguments)], check=True, cwd=folder)


def _of_recbole(weights: Path, dataset: Dataset, folder: Path) -> Path:
    """RecBole's file as an export, without any training."""
    from bridge.student_weights import read_student_start
    from experiments.cli.flags import parse
    from experiments.cli.settings import GROUPS, settings_from
    from experiments.stages.students import student_facts
    from prmkd_jax.data.task import make_task
    from prmkd_jax.serve.exported import export_student

    settings = settings_from(parse([*SIZES], GROUPS).configs)
    facts = student_facts(make_task(dataset), settings)
    start = read_student_start(weights, settings.student, facts, dataset)
    export_student(folder / "as-trained", start.params, settings.student, facts, dataset)
    return folder / "as-trained"


def _compare(path: Path, recommender: Recommender, name: str) -> None:
    """What RecBole recommends against what is recommended here, item by item.

    Raises:
        SystemExit: they differ.
    """
    answers = json.loads(path.read_text())
    found = recommender.recommend(
        [answer["history"] for answer in answers], len(answers[0]["items"]), filter_seen=False
    )
    largest = 0.0
    for theirs, ours in zip(answers, found, strict=True):
        scores = {one.item: one.score for one in ours.items}
        if [*scores] != theirs["items"]:
            raise SystemExit(f"{name}: RecBole has {theirs['items']}, here {[*scores]}")
        largest = max(largest, np.abs(np.array([*scores.values()]) - theirs["scores"]).max())
    if largest > TOLERANCE:
        raise SystemExit(f"{name}: scores differ by {largest:.2g}")
    print(f"{name}: the same items for {len(found)} histories, scores within {largest:.1e}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
