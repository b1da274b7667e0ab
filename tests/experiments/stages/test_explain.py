"""Which teachers `export --explain` tells of."""

import json

import numpy as np
import pytest
from flax import nnx

from bridge.teacher_vectors import write_lists, write_vectors
from experiments.commands.export import COMMAND
from experiments.stages import artifact
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.serve.exported import export_student
from prmkd_jax.students.student import create_student
from teachers_torch.config import CARD
from teachers_torch.ranked_lists import RankedLists, SparseRows
from tests.experiments.calls import make_call
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, student_config

SIZES = {"synthetic_users": 20, "synthetic_items": 20}
WORLD = DataConfig(synthetic_users=20, synthetic_items=20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with a teacher of vectors, one of lists, and one that is asked for its scores."""
    folder = tmp_path_factory.mktemp("cache")
    dataset = synthetic_dataset(WORLD)
    rng, count = np.random.default_rng(0), len(dataset.interactions.items)
    teachers = Cache(folder).room("teachers")
    told = {name: {"key": "k", "teacher": name, "data": dataset.fingerprint} for name in "vl"}
    vectors = {"instances": rng.normal(size=(count, 4)), "items": rng.normal(size=(20, 4))}
    write_vectors(teachers / "v-k", name="v", scale=1.0, identity=told["v"], **vectors)
    rows = SparseRows(np.arange(count + 1), np.zeros(count, np.int32), np.ones(count, np.float32))
    write_lists(teachers / "l-k", RankedLists("l", rows, np.zeros(count, np.float32)), told["l"])
    (teachers / "live-k").mkdir()
    (teachers / "live-k" / CARD).write_text("{}")
    return folder


def explained(folder, cache, *names):
    """What the command prints for a student of these teachers."""
    dataset = synthetic_dataset(WORLD)
    config, known = student_config(), facts(dataset, MAX_SEQ_LEN)
    record = {
        "settings": {"dataset": "synthetic", **SIZES},
        "teacher_keys": dict.fromkeys(names, "k"),
        "teachers": {name: {"label": name.upper(), "parameters": 1} for name in names},
    }
    params = random_params(nnx.to_pure_dict(create_student(config, known, 0)[1]), seed=0)
    export_student(folder / "student", params, config, known, dataset, record=record)
    argv = [f"--model={folder / 'student'}", f"--output_dir={folder / 'out'}"]
    argv += ["--explain", "--formats=vectors", f"--cache_dir={cache}"]
    call, stream = make_call(COMMAND, argv)
    artifact.run(call)
    return stream.getvalue()


def test_teachers_that_give_scores_are_left_out_and_named(cache, tmp_path):
    """A line names each of them, and the explanation lists only teachers with vectors."""
    said = explained(tmp_path, cache, "v", "l", "live")
    assert "V: of its own first ten places" in said
    for label in ("L", "LIVE"):
        assert f"{label}: not in the explanation, since it gives scores and no vectors" in said
    told = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [teacher["name"] for teacher in told["teachers"]] == ["v"]


def test_a_student_of_scores_alone_or_of_a_lost_teacher_is_refused(cache, tmp_path):
    """The line names the teacher, and nothing is written."""
    with pytest.raises(UserError, match="--explain: found l, live, which give scores alone"):
        explained(tmp_path / "a", cache, "l", "live")
    with pytest.raises(UserError, match="--cache_dir: found no teacher lost at"):
        explained(tmp_path / "b", cache, "v", "lost")
    assert not [folder for folder in tmp_path.glob("*/out") if folder.exists()]


def test_a_card_without_a_fingerprint_is_told_in_a_line(tmp_path, cache):
    """Without it nobody can say whether the teachers read the student's data."""
    explained(tmp_path, cache, "v")
    path = tmp_path / "student" / "student.json"
    card = json.loads(path.read_text())
    del card["digest"], card["dataset"]["fingerprint"]
    path.write_text(json.dumps({**card, "digest": content_digest(card)}))
    argv = [f"--model={tmp_path / 'student'}", f"--output_dir={tmp_path / 'other'}", "--explain"]
    call, _ = make_call(COMMAND, [*argv, "--formats=vectors", f"--cache_dir={cache}"])
    with pytest.raises(UserError, match="expected the one that its card lacks"):
        artifact.run(call)
