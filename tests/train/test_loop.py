import dataclasses
import itertools
import json
import types
from typing import Any

import jax
import numpy as np
import pytest

from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.evaluate import evaluator
from prmkd_jax.evaluate.evaluator import Evaluator
from prmkd_jax.evaluate.metrics import METRICS, ranking_metrics
from prmkd_jax.students.student import create_student
from prmkd_jax.train import loop
from prmkd_jax.train.checkpoint import load_checkpoint
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.loop import fit, validation_instances
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.run import Fitted, Run, fresh_student
from prmkd_jax.train.step import init_state
from tests.checking import uncheck
from tests.worlds import (
    BATCH_SIZE,
    cycle_world,
    distilled,
    facts,
    make_run,
    random_world,
    same_bits,
    student_config,
)

WORLD = random_world()
KINDS = ("plain", "prmkd")
OFTEN = {"checkpoint_seconds": 0}
"""A state after every epoch."""


def a_run(folder, kind="plain", train=None, **changes) -> Run:
    run = make_run(WORLD, folder, **changes)
    if kind == "prmkd":
        run = dataclasses.replace(run, **distilled(run))
    return dataclasses.replace(run, train=dataclasses.replace(run.train, **(train or {})))


def everything(fitted: Fitted) -> dict[str, Any]:
    """All that a run leaves behind, but for the seconds it took."""
    fields = vars(fitted)
    return {name: fields[name] for name in fields if not name.endswith("seconds")}


def assert_same(one: Fitted, other: Fitted):
    assert one.history == other.history
    assert same_bits(everything(one), everything(other))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> dict[str, tuple[Run, Fitted]]:
    """A plain and a distilled student after 8 uninterrupted epochs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = {kind: a_run(folder / kind, kind) for kind in KINDS}
    return {kind: (run, fit(run)) for kind, run in runs.items()}


@pytest.mark.parametrize("kept", ["distill", "teachers"])
def test_a_distillation_without_teachers_is_refused(tmp_path, kept):
    """A distillation alone and teachers alone are both a ValueError."""
    run = make_run(WORLD, tmp_path)
    with pytest.raises(ValueError, match="both teachers and a distillation, or neither"):
        dataclasses.replace(run, **{kept: distilled(run)[kept]})


def test_a_sample_of_the_validation_users_is_the_same_for_every_seed(tmp_path):
    """The 20 aren't just the first ones, and without a number all users are taken."""
    runs = [a_run(tmp_path, train={"validation_users": 20}, seed=seed) for seed in (3, 4)]
    chosen, other = (validation_instances(run).tolist() for run in runs)
    every = runs[0].task.split.validation.tolist()
    assert chosen == other == sorted(set(chosen) & set(every))
    assert len(chosen) == 20 < len(every)
    assert chosen != every[:20]
    for wanted in (None, len(every), len(every) + 1):
        all_of_them = a_run(tmp_path, train={"validation_users": wanted})
        assert validation_instances(all_of_them).tolist() == every


@pytest.fixture
def steps_made(monkeypatch) -> list:
    """The compiled steps of the runs that a test makes."""
    made, make = [], loop.make_train_step
    # Other tests' runs of equal settings have filled the cache of steps.
    make.cache_clear()

    def recorded(*arguments):
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_train_step", recorded)
    return made


def test_one_seed_gives_one_student(fitted, tmp_path):
    """Two runs of one seed end the same, and another seed trains otherwise."""
    assert_same(fit(a_run(tmp_path)), fitted["plain"][1])
    other = fit(a_run(tmp_path / "other", train={"max_epochs": 1}, seed=4))
    assert other.history[0] != fitted["plain"][1].history[0]


def test_a_given_start_is_where_every_seed_begins(fitted, tmp_path):
    """The start isn't written over, and training goes on from what it has learnt."""
    start = jax.device_get(fitted["plain"][1].params)
    kept = jax.tree.map(np.copy, start)
    losses = []
    for seed in (3, 4):
        run = a_run(tmp_path / str(seed), train={"max_epochs": 1}, seed=seed, start=start)
        assert same_bits(jax.device_get(fresh_student(run)[1]), kept)
        losses.append(fit(run).history[0]["loss"])
        assert same_bits(start, kept)
    assert max(losses) < fitted["plain"][1].history[1]["loss"]


def test_a_start_that_no_epoch_betters_is_kept(fitted, tmp_path):
    """Its best epoch is 0, and a start that an epoch betters isn't kept."""
    start = jax.device_get(fitted["plain"][1].params)
    train = {"learning_rate": 1e-12, "patience": 2}
    kept = fit(a_run(tmp_path / "still", train=train, start=start))
    assert (kept.best_epoch, len(kept.history)) == (0, 2)
    assert same_bits(jax.device_get(kept.params), start)
    np.testing.assert_array_equal(kept.test.all_items, fitted["plain"][1].test.all_items)
    useful = make_run(cycle_world(), tmp_path / "useful")
    fresh = jax.device_get(fresh_student(useful)[1])
    assert fit(dataclasses.replace(useful, start=fresh)).best_epoch > 0


def test_checkpoints_are_written_by_the_clock(tmp_path, monkeypatch):
    """An epoch is saved where 10 seconds have passed since the last save, and at the end."""
    saved, save = [], loop.save_checkpoint
    clock = types.SimpleNamespace(perf_counter=itertools.count(0, 2).__next__)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "save_checkpoint", lambda *a: saved.append(a[1]) or save(*a))
    # Four looks at the clock an epoch: 8 s, so that every second epoch ends 10 s after a save.
    fit(a_run(tmp_path, train={"checkpoint_seconds": 10, "max_epochs": 5, "patience": 5}))
    assert saved == [2, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_after_four_epochs_and_resumed(fitted, tmp_path, steps_made, kind):
    """It ends in the same bits, and fresh and loaded states share one compiled program."""
    epochs = []

    def stop(record):
        epochs.append(record["epoch"])
        if len(epochs) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(a_run(tmp_path, kind, OFTEN), on_epoch=stop)
    resumed = fit(a_run(tmp_path, kind, OFTEN, resume=True), on_epoch=stop)
    # An epoch is told before it is kept: a log may have it twice, but never lacks it.
    assert epochs == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    run, whole = fitted[kind]
    assert_same(resumed, whole)
    assert same_bits(*(final_state(r, whole.params) for r in (run, a_run(tmp_path, kind))))
    # Whether the state is fresh, from the step before, or from a checkpoint: one program.
    assert [step._cache_size() for step in steps_made] == [1, 1]


def final_state(run: Run, params):
    """Parameters, moments, step, key and best parameters of a run's last checkpoint."""
    optimizer = make_optimizer(run.train)
    state = init_state(params, optimizer, 0)
    (state, best), _ = load_checkpoint(run.folder, (state, params))
    assert int(state.step) > 0
    return state, best


def test_killed_amid_an_epoch_and_resumed(fitted, tmp_path):
    """Half an epoch doesn't count: the result is that of an uninterrupted run."""
    steps = []

    def stop(step, _):
        steps.append(step)
        if len(steps) == 57:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(a_run(tmp_path, train=OFTEN), on_step=stop)
    assert steps[-1] > 1
    assert_same(fit(a_run(tmp_path, resume=True)), fitted["plain"][1])


def test_a_finished_run_trains_nothing_more(fitted):
    """With --resume it takes no step and keeps its recorded training time."""

    def never(*_):
        raise AssertionError("trained")

    run, whole = fitted["plain"]
    again = fit(dataclasses.replace(run, resume=True), on_step=never, on_epoch=never)
    assert_same(again, whole)
    assert again.train_seconds == whole.train_seconds


def test_without_resume_a_run_starts_afresh(fitted, tmp_path):
    """A checkpoint of an earlier run in the same folder isn't read."""
    short = {"max_epochs": 1}
    fit(a_run(tmp_path, train=short, seed=9))
    again = fit(a_run(tmp_path, train=short))
    assert again.history == fitted["plain"][1].history[:1]


def test_base_and_distilled_student_are_one_architecture(fitted):
    """Shapes, types and the number of parameters agree, so both cost the same to serve."""
    (_, base), (_, other) = fitted["plain"], fitted["prmkd"]
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), f.params) for f in (base, other)]
    assert shapes[0] == shapes[1]
    assert base.parameters == other.parameters == sum(x.size for x in jax.tree.leaves(base.params))
    assert not same_bits(base.params, other.params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_of_an_epoch(fitted, tmp_path, kind):
    """It is JSON without times, and the loss is the weighted sum of its two parts."""
    run, whole = fitted[kind]
    assert json.loads(json.dumps(whole.history)) == whole.history
    assert [record["epoch"] for record in whole.history] == list(range(1, 9))
    for record in whole.history:
        measured = {"epoch", "loss", "cross_entropy", "distillation", "gradient_norm"}
        assert set(record) - {"teachers"} == measured | {"validation"}
        weight = run.distill.distill_weight if run.distill else 0
        expected = record["cross_entropy"] + weight * record["distillation"]
        assert record["loss"] == pytest.approx(expected, rel=1e-6)
        assert tuple(record["validation"]) == METRICS
        for teacher in record.get("teachers", {}).values():
            assert 0 <= teacher["excluded"] <= 1
            assert 0 < teacher["weight"] < 1
    names = run.teachers.names if run.teachers else ()
    assert tuple(whole.history[0].get("teachers", {})) == names
    losses = [record["loss"] for record in whole.history]
    assert losses[-1] < losses[0] - 0.05


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    """Its parameters and metrics are returned, and patience counts from it."""
    train = {"max_epochs": 40, "patience": 3}
    whole = fit(a_run(tmp_path / "patient", train=train))
    scores = [record["validation"]["NDCG@10"] for record in whole.history]
    assert whole.best_epoch == 1 + int(np.argmax(scores))
    assert len(scores) == whole.best_epoch + 3 < 40
    best = whole.history[whole.best_epoch - 1]["validation"]
    assert ranking_metrics(whole.validation.all_items) == best
    until_best = fit(a_run(tmp_path, train={**train, "max_epochs": whole.best_epoch}))
    assert same_bits(until_best.params, whole.params)
    np.testing.assert_array_equal(until_best.test.all_items, whole.test.all_items)


def test_the_test_instances_are_ranked_once_with_the_best_parameters(tmp_path, monkeypatch):
    """No ranking before the last one is of the test instances, so they decide nothing."""
    asked = []

    class Watched(Evaluator):
        def __init__(self, graphdef, dataset, instance_ids, *sizes, **options):
            super().__init__(graphdef, dataset, instance_ids, *sizes, **options)
            self.ids = instance_ids

        def with_best(self, params, k):
            asked.append(self.ids)
            return super().with_best(params, k)

    monkeypatch.setattr(loop, "Evaluator", Watched)
    run = a_run(tmp_path, train={"max_epochs": 2})
    whole = fit(run)
    *before, last = [np.array_equal(ids, run.task.split.test) for ids in asked]
    assert last
    assert not any(before)
    graphdef, _ = create_student(run.student, facts(WORLD), 0)
    parts = {"validation": run.task.split.validation, "test": run.task.split.test}
    for part, ids in parts.items():
        ranks = Evaluator(graphdef, WORLD, ids, run.window, BATCH_SIZE, 32)(whole.params)
        np.testing.assert_array_equal(getattr(whole, part).all_items, ranks.all_items)
        np.testing.assert_array_equal(getattr(whole, part).unseen_items, ranks.unseen_items)


def test_every_epoch_has_its_own_batches(tmp_path, monkeypatch):
    """Each epoch asks for the batches of its own number, after a resume too."""
    asked, epoch = [], TrainingBatches.epoch

    def watched(self, number):
        asked.append(number)
        return epoch(self, number)

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingBatches, "epoch", watched)
    with pytest.raises(KeyboardInterrupt):
        fit(a_run(tmp_path, train=OFTEN), on_epoch=stop)
    fit(a_run(tmp_path, resume=True, train={"max_epochs": 3}))
    # The second is told of before it is kept, so it is trained again.
    assert asked == [0, 1, 1, 2]


def test_callbacks_tell_of_every_step_and_epoch(tmp_path):
    """An epoch is told before its checkpoint counts, so a log never lacks one."""
    steps, records = [], []

    def on_epoch(record):
        assert not (tmp_path / f"epoch_{record['epoch']}" / "digests.json").exists()
        records.append(record)

    run = a_run(tmp_path, train={**OFTEN, "max_epochs": 2})
    whole = fit(run, on_step=lambda *numbers: steps.append(numbers), on_epoch=on_epoch)
    batches = loop.training_batches(run)
    counts = [len(list(batches.epoch(epoch))) for epoch in range(2)]
    expected = [(n, batches.steps_about) for count in counts for n in range(1, count + 1)]
    assert steps == expected
    for record, kept in zip(records, whole.history, strict=True):
        assert set(record) - set(kept) == {"best_epoch", "seconds"}
        assert {name: record[name] for name in kept} == kept
        assert set(record["seconds"]) == {"train", "evaluate"}
    assert whole.train_seconds == sum(record["seconds"]["train"] for record in records)


class Probe:
    """A number on the device that tells who reads it."""

    def __init__(self, value, number, events):
        self.value, self.number, self.events = value, number, events

    def block_until_ready(self):
        """Waits without reading."""
        self.events.append(("wait", self.number))
        self.value.block_until_ready()

    def __array__(self, dtype=None, copy=None):
        self.events.append(("read", self.number))
        return np.asarray(self.value, dtype)


def test_the_loop_reads_no_number_before_the_epoch_ends(tmp_path, monkeypatch):
    """The device doesn't idle for a loss, and only a few steps are under way at once."""
    events = []
    make = loop.make_train_step

    def watched(*arguments):
        step = make(*arguments)

        def run_step(state, *given):
            state, metrics = step(state, *given)
            number = sum(kind == "step" for kind, _ in events)
            events.append(("step", number))
            return state, metrics._replace(loss=Probe(metrics.loss, number, events))

        return run_step

    uncheck(loop, monkeypatch)
    monkeypatch.setattr(loop, "make_train_step", watched)
    with jax.transfer_guard_device_to_host("disallow"):
        fit(a_run(tmp_path, train={"max_epochs": 1}))
    kinds = [kind for kind, _ in events]
    steps = kinds.count("step")
    assert steps > 8
    assert kinds.index("read") > max(n for n, kind in enumerate(kinds) if kind == "step")
    waited = [number for kind, number in events if kind == "wait"]
    assert waited == list(range(1, steps - 3))


def test_a_student_that_can_learn_the_world_does(tmp_path):
    """On a cyclic world NDCG@10 rises from below 0.7 to above 0.95."""
    run = make_run(cycle_world(), tmp_path)
    whole = fit(dataclasses.replace(run, train=dataclasses.replace(run.train, max_epochs=20)))
    assert whole.history[0]["validation"]["NDCG@10"] < 0.7
    for ranks in (whole.validation.all_items, whole.test.all_items, whole.test.unseen_items):
        assert ranking_metrics(ranks)["NDCG@10"] > 0.95


@pytest.mark.parametrize("student", ["sasrec", "fm", "deepfm", "lightgcn"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_seeds_of_a_study_share_what_is_compiled(tmp_path, steps_made, student, kind):
    """Another seed compiles nothing, also where a student's structure holds arrays."""
    config = student_config(student=student, mlp_sizes=(8, 6))
    first = a_run(tmp_path / "0", kind, train={"max_epochs": 1}, student=config)
    fit(first)
    compiled = count_compiled()
    fit(dataclasses.replace(first, folder=tmp_path / "1", seed=first.seed + 1))
    assert steps_made[0] is steps_made[1]
    assert steps_made[0]._cache_size() == 1
    assert count_compiled() == compiled


def count_compiled() -> tuple[int, ...]:
    """Programs of the evaluator that were compiled so far."""
    jitted = (evaluator._encode, evaluator._items, evaluator._rank, evaluator._scatter)
    return tuple(function._cache_size() for function in jitted)


def test_an_epochs_measures_are_means_over_the_measured_instances(monkeypatch):
    """A batch weighs by its measured instances, and one without any doesn't count."""
    uncheck(loop, monkeypatch)
    numbers = dict.fromkeys(("loss", "cross_entropy", "distillation", "gradient_norm"), 1.0)

    def step(measured: int, kl: float) -> types.SimpleNamespace:
        teachers = types.SimpleNamespace(_fields=("kl",), kl=np.array([kl]))
        counts = {"num_instances": 64, "num_measured": measured}
        return types.SimpleNamespace(**numbers, **counts, teachers=teachers)

    run = types.SimpleNamespace(teachers=types.SimpleNamespace(names=("one",)), train=TrainConfig())
    steps = [step(2, 0.5), step(6, 2.0), step(0, 9.0)]
    assert loop._record(steps, run, 3, {})["teachers"] == {"one": {"kl": 1.625}}
    assert "teachers" not in loop._record(steps[2:], run, 3, {})


def test_an_epochs_losses_are_means_over_its_instances(monkeypatch):
    """A last batch of 8 instances weighs an eighth of a batch of 64."""
    uncheck(loop, monkeypatch)
    names = ("loss", "cross_entropy", "distillation", "gradient_norm")
    steps = [
        types.SimpleNamespace(
            **dict(zip(names, values, strict=True)), num_instances=count, teachers=None
        )
        for count, values in ((64, (1, 2, 3, 4)), (64, (2, 4, 9, 1)), (8, (9, 5, 0, 7)))
    ]
    run = types.SimpleNamespace(teachers=None, train=TrainConfig())
    record = loop._record(steps, run, 3, None)
    expected = [
        (64 * a + 64 * b + 8 * c) / 136 for a, b, c in ((1, 2, 9), (2, 4, 5), (3, 9, 0), (4, 1, 7))
    ]
    assert record == {
        "epoch": 3,
        **{n: pytest.approx(x) for n, x in zip(names, expected, strict=True)},
    }


@pytest.mark.parametrize(
    ("scores", "kept", "best_epoch", "most"),
    [
        ([0.0, 0.0, 0.0], [True, False, False], 1, 9),
        ([0.1, 0.3, 0.3, 0.2], [True, True, False, False], 2, 9),
        ([0.1, 0.3, 0.2, 0.4], [True, True, False, True], 4, 4),
        ([0.3, 0.1, 0.2], [True, False, False], 1, 9),
    ],
)
def test_an_epoch_is_kept_where_it_is_better_than_all_before(
    monkeypatch, scores, kept, best_epoch, most
):
    """An equal epoch isn't kept, a first one of 0 is, and patience counts from the best."""
    uncheck(loop, monkeypatch)
    train = TrainConfig(patience=2, max_epochs=most)
    run = types.SimpleNamespace(epochs=None, train=train)
    progress, found, finished = loop._Progress(), [], []
    for score in scores:
        record = {"validation": {"NDCG@10": score}}
        found.append(loop._note_epoch(progress, run, record, {"train": 2.0, "evaluate": 0.5}))
        finished.append(progress.finished)
    assert found == kept
    assert finished == [False] * (len(scores) - 1) + [True]
    assert (progress.epoch, progress.best_epoch) == (len(scores), best_epoch)
    assert progress.best == max(scores)
    assert (progress.train_seconds, progress.evaluate_seconds) == (
        2.0 * len(scores),
        0.5 * len(scores),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("field", "told"),
    [("loss", "loss"), ("gradient_norm", "gradient_norm"), ("kl", "kl of teacher one")],
)
def test_a_number_that_is_not_finite_ends_the_epoch_in_which_it_came(
    monkeypatch, field, told, value
):
    """The error names the epoch, the number and, where it has one, the teacher."""
    uncheck(loop, monkeypatch)
    measures = types.SimpleNamespace(_fields=("kl",), kl=np.array([0.5]))
    numbers = ("loss", "cross_entropy", "distillation", "gradient_norm")
    step = types.SimpleNamespace(
        **dict.fromkeys(numbers, 1.0), num_instances=4, num_measured=2, teachers=measures
    )
    run = types.SimpleNamespace(teachers=types.SimpleNamespace(names=("one",)), train=TrainConfig())
    assert loop._record([step], run, 3, {})["teachers"] == {"one": {"kl": 0.5}}
    if field == "kl":
        measures.kl = np.array([value])
    else:
        setattr(step, field, value)
    with pytest.raises(FloatingPointError) as caught:
        loop._record([step], run, 3, {})
    assert str(caught.value) == f"epoch 3: found a {told} of {value}, expected a finite one"
