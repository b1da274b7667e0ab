import dataclasses

import numpy as np
import pytest
import torch

from prmkd_jax.data.splits import leave_one_out
from teachers_torch.recformer import tune as recformer_tune
from teachers_torch.recformer.model import tuning_loss
from teachers_torch.recformer.tune import learning_rate_share, sample_targets, tune_recformer
from tests.teachers_torch.recformer_worlds import make_teacher
from tests.teachers_torch.worlds import ring_world

SETTINGS = {
    "learning_rate": 1e-3, "warmup_steps": 2, "batch_size": 16, "max_epochs": 6, "patience": 2,
    "fixed_table_epochs": 4, "fixed_table_patience": 2, "decay_epochs": 20, "evaluate_every": 2,
}  # fmt: skip


VALUES = (0.1, 0.3, 0.2, 0.1, 0.2)
"""Validations of an uninterrupted run: epochs 2, 4, 6 of the first stage, 8, 10 of the second."""


@pytest.fixture(scope="module")
def run():
    """Runs a tuning on the ring with scripted validations."""

    def start(values, state_file=None, **changes):
        dataset = ring_world()
        events, seen, script = [], [], iter(values)
        teacher = make_teacher(dataset, **{**SETTINGS, **changes})
        teacher = dataclasses.replace(teacher, log=events.append)

        def validate():
            seen.append({k: v.clone() for k, v in teacher.model.state_dict().items()})
            return {"NDCG@10": next(script)}

        torch.manual_seed(0)
        tuning = tune_recformer(
            teacher, leave_one_out(dataset.interactions), validate, 0, state_file
        )
        return teacher, tuning, seen, [e for e in events if e["event"] == "epoch"]

    return start


@pytest.fixture(scope="module")
def starts():
    """The weights that each epoch of the uninterrupted run begins with."""
    return []


@pytest.fixture(scope="module")
def whole(run, starts):
    """What an uninterrupted run with `VALUES` gives."""
    real = recformer_tune._train_epoch

    def spy(teacher, *args):
        starts.append({k: v.clone() for k, v in teacher.model.state_dict().items()})
        return real(teacher, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recformer_tune, "_train_epoch", spy)
        return run(VALUES)


@pytest.fixture(scope="module")
def patient(run):
    """What a run gives whose stages end by patience, its best weights those of the second one."""
    return run([0.3, 0.2, 0.1, 0.4, 0.1], max_epochs=50)


TABLE = "item_embedding.weight"


def test_stages_evaluations_and_patience(whole, patient):
    """Every second epoch has a validation, and two bad ones end a stage."""
    _, tuning, seen, events = whole
    assert tuning.seconds >= sum(event["seconds"] for event in events) > 0
    assert [event["epoch"] for event in events] == [2, 4, 6, 8, 10]
    assert [event["best_epoch"] for event in events] == [2, 4, 4, 4, 4]
    assert (tuning.epochs, tuning.best_epoch, tuning.validation) == (10, 4, {"NDCG@10": 0.3})
    assert len(seen) == 5
    # Two bad validations end a stage.
    _, tuning, _, events = patient
    assert [event["epoch"] for event in events] == [2, 4, 6, 8, 10]
    assert (tuning.epochs, tuning.best_epoch) == (10, 8)


def test_the_second_stage_counts_its_own_epochs(run):
    """The first stage, of 4 epochs, is validated at 3 and 4, the second at 7, 10 and 11."""
    # The last epoch of a stage is validated too.
    stages = {"max_epochs": 4, "fixed_table_epochs": 7, "evaluate_every": 3}
    events = run([0.1, 0.2, 0.3, 0.4, 0.5], **stages)[3]
    assert [event["epoch"] for event in events] == [3, 4, 7, 10, 11]


def test_the_table_is_new_each_epoch_then_fixed_at_the_best(whole, patient):
    """The second stage keeps the table of the best epoch, and the best weights are returned."""
    for (_, _, seen, _), best in ((whole, 1), (patient, 0)):
        require_tables(seen, best)
    teacher, _, seen, _ = patient
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, seen[3][name]), name


def require_tables(seen, best):
    """A new table at each validation of the first stage, its best one in the second."""
    first = [weights[TABLE] for weights in seen[:3]]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    for weights in seen[3:]:
        assert torch.equal(weights[TABLE], first[best])


def test_the_second_stage_begins_with_the_best_weights(whole, starts):
    """Training goes on from the best epoch, not from the first stage's last one."""
    _, _, seen, _ = whole
    assert len(starts) == 10
    for name, value in starts[6].items():
        assert torch.equal(value, seen[1][name]), name


def test_no_training_at_a_learning_rate_of_zero(run):
    """The tuning ends at epoch 3, where the learning rate reaches zero."""
    _, tuning, seen, events = run([0.1, 0.2, 0.3, 0.4], decay_epochs=3)
    assert [event["epoch"] for event in events] == [2, 3]
    assert (tuning.epochs, tuning.best_epoch, len(seen)) == (3, 3, 2)


def test_learning_rate_rises_and_falls():
    """The fall counts from step 0, as in the official code: after the rise it begins at 0.6."""
    found = [learning_rate_share(step, 4, 10) for step in range(12)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0])
    assert learning_rate_share(0, 0, 10) == 1


def test_targets_are_one_a_user_over_the_whole_training_part():
    """First items are drawn too, held-out ones never, and each user with items once."""
    indptr = np.array([0, 4, 4, 9, 11])
    train_end = np.array([2, 4, 7, 11])
    rng = np.random.default_rng(0)
    draws = np.stack([sample_targets(indptr, train_end, rng) for _ in range(200)])
    assert draws.shape == (200, 3)
    assert sorted(np.unique(draws)) == [0, 1, 4, 5, 6, 9, 10]
    for row in draws:
        assert sorted(np.searchsorted(indptr, row, side="right") - 1) == [0, 2, 3]
    assert len({tuple(np.searchsorted(indptr, row, side="right")) for row in draws}) == 6


@pytest.mark.parametrize("tokens_at_once", [20, 64, 10_000])
def test_gradients_are_those_of_one_batch(tokens_at_once):
    """The number of tokens computed at once changes neither the loss nor the gradients."""
    dataset = ring_world()
    teacher = make_teacher(dataset, tokens_at_once=tokens_at_once)
    teacher.refresh_items()
    targets = np.array([0, 5, 11, 20, 33])
    total = recformer_tune.add_gradients(teacher, targets)
    found = {k: p.grad.clone() for k, p in teacher.model.named_parameters() if p.grad is not None}
    teacher.model.zero_grad()
    tokens = teacher.reader.batch([teacher.reader.sequence(teacher.history(t)) for t in targets])
    items = torch.from_numpy(dataset.interactions.items[targets]).long()
    pooled = teacher.model.longformer.pooled(tokens)
    loss = tuning_loss(pooled, teacher.item_table, items, 0.05)
    loss.backward()
    assert total == pytest.approx(float(loss.detach()) * 5, rel=1e-4)
    for name, gradient in found.items():
        expected = dict(teacher.model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("fixed", [True, False])
def test_word_embeddings_stay_where_they_are_to(run, fixed):
    """Only with fix_word_embeddings do they keep their values."""
    name = "longformer.embeddings.word_embeddings.weight"
    before = make_teacher(ring_world()).model.state_dict()[name]
    teacher, _, _, _ = run([0.1, 0.2], fix_word_embeddings=fixed, decay_epochs=2)
    assert torch.equal(teacher.model.state_dict()[name], before) is fixed


@pytest.mark.parametrize("epoch", [3, 4, 6, 7])
def test_a_stopped_tuning_ends_as_if_it_had_not_been(run, whole, monkeypatch, tmp_path, epoch):
    """Stopped in either stage, it ends with exactly the same result and weights."""
    unstopped, expected, _, _ = whole
    real, done = recformer_tune._train_epoch, {"validations": 0}

    def killed(*args):
        if args[-1] > epoch:
            raise KeyboardInterrupt
        done["validations"] += not args[-1] % 2
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(recformer_tune, "_train_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run(VALUES, tmp_path / "state.pt")
    teacher, found, _, _ = run(VALUES[done["validations"] :], tmp_path / "state.pt")
    assert found._replace(seconds=0) == expected._replace(seconds=0)
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, unstopped.model.state_dict()[name]), name


def test_training_mode_is_on_after_an_encoding(run, monkeypatch):
    """Every training batch has dropout, although encoding turns it off."""
    modes, real = [], recformer_tune.add_gradients

    def spy(teacher, targets):
        modes.append(teacher.model.training)
        return real(teacher, targets)

    monkeypatch.setattr(recformer_tune, "add_gradients", spy)
    run([0.1, 0.2], decay_epochs=2)
    assert len(modes) == 8
    assert all(modes)
