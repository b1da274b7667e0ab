"""A student and a teacher that exist only here, each one class, in every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prmkd_jax.students.config import OWN_GROUP as OWN_STUDENTS
from teachers_torch.given.plugin import OWN_GROUP as OWN_TEACHERS
from tests.packages import ROOT, install_groups

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


def run(folder: Path, *words: str, status: int = 0) -> str:
    """What a command prints where the package is installed: stdout, or stderr if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def small(folder: Path, *words: str, output: str, status: int = 0) -> str:
    """A command at the tests' sizes, whose results lie in `output`."""
    places = (f"--cache_dir={folder / 'cache'}", f"--output_dir={folder / output}")
    names = [word for word in words if not word.startswith("--")]
    return run(folder, *names, *SMALL, *places, *words[len(names) :], status=status)


def flat(text: str) -> str:
    """What a command prints, without the line breaks of its tables."""
    return " ".join(text.split())


RECOMMEND = """
import sys
from prmkd_jax.serve.recommender import Recommender
recommender = Recommender.load(sys.argv[1])
answer, = recommender.recommend([[recommender.exported.item_ids[3]]], 2)
assert len(answer.items) == 2, answer
assert not {"torch", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""


def test_train_reports_and_exports_it(folder):
    """Both names are in the table under their labels; the export recommends without torch."""
    shown = flat(small(folder, "train", output="train"))
    for words in ("Last item", "Popularity"):
        assert words in shown
    exported = {path.name for path in (folder / "train" / "students").iterdir()}
    assert exported == {"last-item-base-seed0", "last-item-prmkd-seed0"}
    export = folder / "train" / "students" / "last-item-prmkd-seed0"
    card = json.loads((export / "student.json").read_text())
    assert card["class"]["class"] == "my_package.own:Last"
    done = subprocess.run(
        [sys.executable, "-c", RECOMMEND, str(export)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_study_of_students_lists_it(folder):
    """A row each for it alone and for it distilled."""
    words = ("study", "students", "--variants=last-base,last-prmkd")
    shown = flat(small(folder, *words, output="students"))
    assert "Last item" in shown
    assert "PRM-KD (Last item)" in shown


def test_an_ablation_takes_the_teacher_away(folder):
    """A row without it, under its label."""
    words = ("study", "ablation", "--variants=prmkd,only_popular,base")
    assert "only Popularity" in flat(small(folder, *words, output="ablation"))


def test_search_tries_its_settings(folder):
    """A row a trial."""
    shown = small(folder, "search", "--grid=distill_weight=1,5", output="search")
    assert "distill_weight=1" in shown
    assert "distill_weight=5" in shown


def test_bench_times_its_step(folder):
    """With the teacher's scores made on either side, and live."""
    shown = small(folder, "bench", "--repeats=5", output="bench")
    for name in ("plain step", "distilled (jax) step", "distilled (torch) step", "live"):
        assert name in shown


def test_a_teacher_that_cannot_be_pre_trained_is_refused_in_one_line(folder):
    """The flag, the value and the teachers that can."""
    words = ("pretrain", "--domains=synthetic-garden")
    told = small(folder, *words, output="pretrain", status=2)
    assert "popular" in told
    assert len(told.splitlines()) == 1


def test_help_names_it(folder):
    """Next to the built-in ones."""
    shown = flat(run(folder, "train", "--help"))
    assert "lightgcn, last" in shown
    assert "recent-popularity, popular" in shown
