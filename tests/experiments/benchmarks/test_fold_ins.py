"""`measure`: users, or items, that are held out."""

import json

import numpy as np
import pytest

from experiments.benchmarks import held_out
from experiments.commands.measure import COMMAND
from experiments.stages import starts
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import read_exported
from prmkd_jax.students.student import flatten_params
from teachers_torch.items.inputs import Modality
from tests.experiments.calls import SMALL, make_call


def measured(folder, *flags):
    """Runs `measure fold_ins`; its result."""
    argv = [*SMALL, "--teachers=", "--held_out=0.2", f"--output_dir={folder / 'out'}"]
    argv += [f"--cache_dir={folder / 'cache'}", *flags]
    call, _ = make_call(COMMAND, argv, "fold_ins")
    held_out.run(call)
    return json.loads((folder / "out" / held_out.RESULT).read_text())


def test_users_are_measured_by_their_own_vectors_and_folded_in(tmp_path, monkeypatch):
    """Not all four ways rank alike, and the start that was asked for is taken."""
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    given = Modality(vectors, np.ones(30, bool))
    monkeypatch.setattr(starts, "text_inputs", lambda *_: given)
    flags = ["--student=lightgcn", "--item_init=text:9", "--max_epochs=1", "--learning_rate=1e-6"]
    rows = measured(tmp_path, *flags)["seeds"]["0"]
    assert len(rows) == 4
    assert {row["instances"] for row in rows.values()} == {8}
    assert len({row["MRR"] for row in rows.values()}) > 1
    for name in ("all", "others"):
        found = read_exported(tmp_path / "out" / "students" / f"{name}-seed0")
        table = flatten_params(found.params)["item_embedding.table"]
        assert table.std() == pytest.approx(9, rel=0.01)


def test_a_student_without_users_is_refused_before_it_is_trained(tmp_path):
    """No output folder is made, and no training is lost."""
    with pytest.raises(UserError, match="--student: found sasrec, which knows no users"):
        measured(tmp_path, "--student=sasrec")
    assert not (tmp_path / "out").exists()


def test_held_out_users_need_targets(tmp_path, monkeypatch):
    """The error comes before any training, and no output folder is made."""
    monkeypatch.setattr(held_out.Measuring, "held", lambda _, count: np.zeros(count, bool))
    with pytest.raises(UserError, match="with which none of 40 test targets is of a user who"):
        measured(tmp_path, "--student=lightgcn")
    assert not (tmp_path / "out").exists()


def test_a_text_teacher_is_refused_where_none_teaches(tmp_path):
    """The flag would change nothing but the result's identity."""
    with pytest.raises(UserError, match="--text_teacher: found it for fold_ins"):
        measured(tmp_path, "--student=lightgcn", "--text_teacher")
    assert not (tmp_path / "out").exists()
