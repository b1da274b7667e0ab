"""`measure cold_items`: students without some items, and what they are compared by."""

import dataclasses

import numpy as np
import pytest

from experiments.benchmarks import cold_items
from experiments.benchmarks.held_out import Measuring, measuring_of
from experiments.cli import command
from experiments.commands.measure import COMMAND
from experiments.stages.identity import first_difference
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.subset import without_items, without_users
from teachers_torch.items.inputs import Modality
from tests.experiments.calls import SMALL, make_call


def prepared(folder, *flags: str) -> Measuring:
    """What `measure cold_items` has to work with."""
    argv = [*SMALL, f"--output_dir={folder / 'out'}", f"--cache_dir={folder / 'cache'}", *flags]
    call, _ = make_call(COMMAND, argv, "cold_items")
    return measuring_of(call)


@pytest.mark.parametrize("cuts", ["0.5,0.7", "0.4,0.6"])
def test_a_smaller_data_set_is_cut_at_the_same_moments(tmp_path, cuts):
    """No student reads what happened after the moment from which it is tested."""
    found = prepared(tmp_path, "--split=temporal", f"--split_at={cuts}", "--synthetic_users=200")
    whole = found.task.dataset.interactions
    assert whole.timestamps is not None
    ordered = np.sort(whole.timestamps)
    first, second = (ordered[round(float(cut) * len(ordered))] for cut in cuts.split(","))
    # Those whose interactions are the newest ones: a share of the others is an earlier moment.
    newest = whole.timestamps >= np.quantile(whole.timestamps, 0.8)
    late = np.bincount(whole.items, newest, found.task.dataset.num_items)
    users = np.bincount(whole.users, newest, whole.num_users)
    for smaller in (
        without_items(found.task.dataset, late < np.quantile(late, 0.8)),
        without_users(found.task.dataset, users < np.quantile(users, 0.8)),
    ):
        split, times = found.task_of(smaller).split, smaller.interactions.timestamps
        assert times is not None
        expected = np.flatnonzero(times < first)
        starts = smaller.interactions.indptr[:-1]
        assert split.train.tolist() == np.setdiff1d(expected, starts).tolist()
        assert ((times[split.validation] >= first) & (times[split.validation] < second)).all()
        assert (times[split.test] >= second).all()


def write_features(folder, found: Measuring) -> np.ndarray:
    """Vectors of all items in place of their texts', as `--text_features` takes them."""
    ids = found.task.dataset.item_ids
    rows = np.random.default_rng(0).normal(size=(len(ids), 768)).astype("<f4")
    rows.tofile(folder / "given.feat1CLS")
    numbering = "".join(f"{item}\t{row}\n" for row, item in enumerate(ids))
    (folder / "given.item2index").write_text(numbering)
    return rows


def test_given_vectors_of_texts_take_the_encoders_place(tmp_path):
    """The students' items have the given vectors, scaled to length 1."""
    rows = write_features(tmp_path, prepared(tmp_path))
    features = f"--text_features={tmp_path / 'given.feat1CLS'}"
    found = prepared(tmp_path, "--teachers=", "--text_teacher", features)
    warm, complete = cold_items.measure(found).students
    cold = found.held(len(rows))
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert warm.vectors is not None
    assert complete.vectors is not None
    np.testing.assert_allclose(complete.vectors[1], unit, rtol=1e-5)
    np.testing.assert_allclose(warm.vectors[1], unit[~cold], rtol=1e-5)


def test_a_data_set_needs_texts_or_their_vectors(tmp_path):
    """Texts may be missing where their vectors are given."""
    found = prepared(tmp_path)
    blank = {name: ("",) * len(text) for name, text in found.task.dataset.catalogue.texts.items()}
    catalogue = dataclasses.replace(found.task.dataset.catalogue, texts=blank)
    dataset = dataclasses.replace(found.task.dataset, catalogue=catalogue)
    bare = dataclasses.replace(found, task=dataclasses.replace(found.task, dataset=dataset))
    with pytest.raises(UserError, match="found no texts, expected some"):
        cold_items.measure(bare)
    write_features(tmp_path, found)
    given = prepared(tmp_path, "--teachers=", f"--text_features={tmp_path / 'given.feat1CLS'}")
    cold_items.measure(dataclasses.replace(given, task=bare.task))


@pytest.mark.parametrize(("out", "whose"), [(False, "an item that is held"), (True, "another")])
def test_targets_need_to_be_held_out_and_others_not(tmp_path, monkeypatch, out, whose):
    """One line says whether held-out or other items have no test target."""
    monkeypatch.setattr(Measuring, "held", lambda _, count: np.full(count, out))
    wanted = f"--held_out: found 0.1, with which none of 40 test targets is of {whose}"
    with pytest.raises(UserError, match=wanted):
        cold_items.measure(prepared(tmp_path, *TAUGHT))


def identity(measuring: Measuring) -> dict[str, object]:
    """What decides whether a finished measurement is shown again."""
    return measuring.identity(cold_items.measure(measuring))


@pytest.fixture
def constant(monkeypatch):
    """Texts' vectors that no encoder makes."""
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    given = Modality(vectors, np.ones(30, bool))
    monkeypatch.setattr(cold_items, "text_inputs", lambda *_: given)
    return vectors


TAUGHT = ("--teachers=", "--text_teacher")


@pytest.mark.usefixtures("constant")
@pytest.mark.parametrize(
    "flag",
    ["--consistency_quantile=0.7", "--distill_weight=3", "--teacher_scores=torch", "--seeds=4"],
)
def test_a_text_teachers_students_depend_on_the_distillation(tmp_path, flag):
    """The finished measurement of another setting is never shown as the answer."""
    one, other = (identity(prepared(tmp_path, *TAUGHT, *more)) for more in ([], [flag]))
    difference = first_difference(one, other)
    assert difference is not None
    assert difference.startswith(flag.split("=")[0])
    # Without a teacher nothing reads it.
    plain = [identity(prepared(tmp_path, "--teachers=", *more)) for more in ([], [flag])]
    assert (plain[0] == plain[1]) is (flag != "--seeds=4")


@pytest.mark.usefixtures("constant")
@pytest.mark.parametrize("flags", [("--teachers=",), TAUGHT])
def test_a_measurement_depends_on_what_reads_the_texts(tmp_path, flags):
    """Rows made with one encoder or pooling are never shown for another."""
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    found = []
    for content in ("one", "other", "one"):
        (encoder / "weights").write_text(content)
        found.append(identity(prepared(tmp_path, *flags, f"--text_encoder={encoder}")))
    found.append(identity(prepared(tmp_path, *flags, "--text_pooling=cls")))
    assert found[0] == found[2]
    assert found[0] != found[1]
    assert found[3] not in found[:3]


def test_a_text_teachers_students_depend_on_its_vectors(tmp_path, constant):
    """Students of other vectors aren't reused, even if their encoder has the same name."""
    one = identity(prepared(tmp_path, *TAUGHT))
    assert identity(prepared(tmp_path, *TAUGHT)) == one
    constant[3] *= -1
    assert identity(prepared(tmp_path, *TAUGHT)) != one


@pytest.mark.parametrize(
    ("topic", "flags", "unread"),
    [
        ("cold_items", ["--teachers=", "--text_encoder=e", "--text_pooling=cls"], []),
        ("fold_ins", ["--teachers=", "--text_encoder=e"], ["text_encoder"]),
        ("cold_items", ["--teachers=", "--distill_weight=2"], ["distill_weight"]),
        ("cold_items", [*TAUGHT, "--distill_weight=2", "--teacher_scores=torch"], []),
        ("cold_items", [*TAUGHT, "--consistency_quantile=0.8"], ["consistency_quantile"]),
        ("fold_ins", [*TAUGHT, "--distill_weight=2"], ["distill_weight"]),
        ("cold_items", ["--teachers=unisrec", "--init=unisrec=p"], []),
        ("cold_items", ["--teachers=unisrec", "--init=unisrec=p,student=s"], ["init"]),
        ("cold_items", ["--text_teacher", "--teachers=unisrec", "--init=unisrec=p"], ["init"]),
        ("fold_ins", ["--teachers=", "--log_to=wandb"], ["log_to"]),
    ],
)
def test_flags_are_told_to_have_no_effect_where_they_have_none(topic, flags, unread):
    """A flag that changes a number gets no warning, and every other flag gets one."""
    call, stream = make_call(COMMAND, [*SMALL, *flags], topic)
    command.check(call)
    found = [line.split()[1] for line in stream.getvalue().splitlines() if "no effect" in line]
    assert found == [f"--{name}" for name in unread]


def test_a_text_teacher_is_refused_what_other_teachers_are():
    """Teachers that have read the targets are refused here as well."""
    flags = [*SMALL, *TAUGHT, "--teacher_history=whole", "--student=bert4rec"]
    call, _ = make_call(COMMAND, flags, "cold_items")
    with pytest.raises(UserError, match="--teacher_history: found 'whole', expected 'prefix'"):
        command.check(call)


@pytest.mark.usefixtures("constant")
def test_what_a_measurement_ignores_changes_nothing(tmp_path):
    """A start that no student begins from isn't even looked for."""
    ignored = ["--init=student=/nowhere", "--export_recbole", "--log_to=wandb"]
    one, other = (prepared(tmp_path, *TAUGHT, *more) for more in ([], ignored))
    assert identity(other) == identity(one)
    assert other.settings == one.settings
