"""A student and a teacher that exist only here, each one class, in every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prmkd_jax.students.config import OWN_GROUP as OWN_STUDENTS
from teachers_torch.given.plugin import OWN_GROUP as OWN_TEACHERS
from tests.commands import ROOT, Done, run_commands
from tests.packages import install_groups

CODE = """
import numpy as np
from flax import nnx
from prmkd_jax.students.about import About
from prmkd_jax.students.layers import Embedding, dot

class Last(nnx.Module):
    about = About(
        label="Last item", result_name="last-item", reads=frozenset(), scoring_facts=frozenset()
    )
    def __init__(self, config, facts, *, rngs):
        self.read = Embedding(facts.num_items, config.hidden_size, rngs=rngs)
        self.rank = Embedding(facts.num_items, config.hidden_size, rngs=rngs)
    def queries(self, rows, rngs=None):
        vectors = self.read(rows.item_seq)
        return vectors.reshape(-1, vectors.shape[-1])
    def items(self):
        return self.rank.table[...]
    def score(self, queries, items):
        return dot(queries, items)

class Popular:
    label = "Popularity"
    def __init__(self, dataset):
        counts = np.bincount(dataset.interactions.items, minlength=dataset.num_items)
        self.table = np.log1p(counts)[:, None]
    def encode_instances(self, ids):
        return np.ones((len(ids), 1))
    def encode_items(self):
        return self.table
"""
SMALL = (
    "--flagfile=demo.cfg",
    "--student=last",
    "--teachers=popular",
    "--seeds=0",
    "--synthetic_users=150",
    "--synthetic_items=100",
    "--hidden_size=8",
    "--max_epochs=2",
    "--batch_size=128",
    "--max_seq_len=20",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    groups = {
        OWN_STUDENTS: {"last": "my_package.own:Last"},
        OWN_TEACHERS: {"popular": "my_package.own:Popular"},
    }
    install_groups(folder, CODE, groups)
    return folder


COMMANDS = {
    "train": ("train",),
    "students": ("study", "students", "--variants=last-base,last-prmkd"),
    "ablation": ("study", "ablation", "--variants=prmkd,only_popular,base"),
    "search": ("search", "--grid=distill_weight=1,5"),
    "bench": ("bench", "--repeats=5"),
    "pretrain": ("pretrain", "--domains=synthetic-garden"),
}
"""Name of the output folder → words of the command."""


@pytest.fixture(scope="module")
def done(folder) -> dict[str, Done]:
    """All commands at the tests' sizes, and `train --help`, where the package is installed."""
    lines = []
    for output, words in COMMANDS.items():
        places = (f"--cache_dir={folder / 'cache'}", f"--output_dir={folder / output}")
        names = [word for word in words if not word.startswith("--")]
        lines.append([*names, *SMALL, *places, *words[len(names) :]])
    found = run_commands([*lines, ["train", "--help"]], {"PYTHONPATH": str(folder)})
    return dict(zip([*COMMANDS, "help"], found, strict=True))


def shown(done: Done) -> str:
    """What a command that went well printed, without the line breaks of its tables."""
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


RECOMMEND = """
import sys
from prmkd_jax.serve.recommender import Recommender
recommender = Recommender.load(sys.argv[1])
answer, = recommender.recommend([[recommender.exported.item_ids[3]]], 2)
assert len(answer.items) == 2, answer
assert not {"torch", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""


def test_train_reports_and_exports_it(folder, done):
    """Both names are in the table under their labels; the export recommends without torch."""
    text = shown(done["train"])
    for words in ("Last item", "Popularity"):
        assert words in text
    exported = {path.name for path in (folder / "train" / "students").iterdir()}
    assert exported == {"last-item-base-seed0", "last-item-prmkd-seed0"}
    export = folder / "train" / "students" / "last-item-prmkd-seed0"
    card = json.loads((export / "student.json").read_text())
    assert card["class"]["class"] == "my_package.own:Last"
    served = subprocess.run(
        [sys.executable, "-c", RECOMMEND, str(export)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert served.returncode == 0, served.stderr


def test_the_study_of_students_lists_it(done):
    """It has a row alone and a row distilled."""
    text = shown(done["students"])
    assert "Last item" in text
    assert "PRM-KD (Last item)" in text


def test_an_ablation_takes_the_teacher_away(done):
    """The row without it is there under its label."""
    assert "only Popularity" in shown(done["ablation"])


def test_search_tries_its_settings(done):
    """Each value has its row."""
    text = shown(done["search"])
    assert "distill_weight=1" in text
    assert "distill_weight=5" in text


def test_bench_times_its_step(done):
    """The distilled step is timed with the teacher's scores by jax, by torch and live."""
    text = shown(done["bench"])
    for name in ("plain step", "distilled (jax) step", "distilled (torch) step", "live"):
        assert name in text


def test_a_teacher_that_cannot_be_pre_trained_is_refused_in_one_line(done):
    """The line names the teacher, and the status is 2."""
    assert done["pretrain"].returncode == 2
    assert "popular" in done["pretrain"].stderr
    assert len(done["pretrain"].stderr.splitlines()) == 1


def test_help_names_it(done):
    """Its student and its teacher are listed after the built-in ones."""
    text = shown(done["help"])
    assert "lightgcn, last" in text
    assert "recent-popularity, popular" in text
