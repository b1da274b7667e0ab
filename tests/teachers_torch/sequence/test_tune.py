import copy
import dataclasses

import numpy as np
import pytest
import torch

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task
from teachers_torch.config import UniSRecConfig
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.tune import tune_model
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.teacher import Tuning
from tests.teachers_torch.worlds import ring_world, text_vectors

CONFIG = UniSRecConfig(
    hidden_size=8, num_layers=1, inner_size=8, num_experts=2, batch_size=64,
    max_epochs=8, patience=3,
)  # fmt: skip


@pytest.fixture
def parts():
    dataset = ring_world()
    torch.manual_seed(0)
    vectors = text_vectors(dataset.catalogue.texts["title"])
    model = UniSRec(CONFIG, vectors, max_seq_len=10, transductive=True)
    task = Task(dataset, leave_one_out(dataset.interactions))
    batches = TrainingBatches(task, 10, CONFIG.batch_size, seed=0)
    return model, batches


def scripted(model, values):
    """Validation that returns the values in turn and notes the weights it was called with."""
    seen, values = [], iter(values)

    def validate():
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"NDCG@10": next(values), "MRR": len(seen)}

    return validate, seen


def test_stops_after_patience_and_keeps_the_best_weights(parts):
    """A tie is no improvement: epoch 2's weights stay, and the tuning ends after epoch 5."""
    model, batches = parts
    validate, seen = scripted(model, [0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    events = []
    tuning = tune_model(model, batches, validate, CONFIG, events.append)
    steps = [event for event in events if event["event"] == "step"]
    events = [event for event in events if event["event"] != "step"]
    assert [event["epoch"] for event in steps if event["step"] == 1] == [1, 2, 3, 4, 5]
    assert (tuning.epochs, tuning.best_epoch) == (5, 2)
    assert tuning.validation == {"NDCG@10": 0.3, "MRR": 2}
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen[1][name]), name
        assert not value.is_floating_point() or not torch.equal(value, seen[4][name]), name
    assert [event["epoch"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["best_epoch"] for event in events] == [1, 2, 2, 2, 2]
    assert [event["NDCG@10"] for event in events] == [0.1, 0.3, 0.2, 0.3, 0.25]
    assert all(event["event"] == "epoch" and event["seconds"] > 0 for event in events)


def test_max_epochs_is_the_end(parts):
    """The tuning ends after 8 epochs although each was better than the one before."""
    model, batches = parts
    validate, seen = scripted(model, np.linspace(0, 1, 99))
    tuning = tune_model(model, batches, validate, CONFIG, lambda event: None)
    assert (tuning.epochs, tuning.best_epoch, len(seen)) == (8, 8, 8)


def test_reported_loss_is_the_mean_over_instances(parts):
    """The short last batch weighs by its number of instances."""
    model, batches = parts
    losses = []

    def constant(batch):
        losses.append((float(len(losses)), len(batch.slots)))
        return sum(p.sum() for p in model.parameters()) * 0 + losses[-1][0]

    model.loss = constant
    events = []
    validate, _ = scripted(model, [0.1] * 9)
    tune_model(model, batches, validate, CONFIG, events.append)
    events = [event for event in events if event["event"] == "epoch"]
    first = losses[: len(list(batches.epoch(1)))]
    assert len({count for _, count in first}) > 1
    assert sum(count for _, count in first) == len(batches.task.split.train)
    expected = sum(loss * count for loss, count in first) / sum(count for _, count in first)
    assert events[0]["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_epoch_in_which_it_came(parts, value):
    """A NaN or infinity in epoch 2 is told with the epoch, which isn't validated any more."""
    model, batches = parts
    validate, seen = scripted(model, [0.1] * 9)
    loss, events = model.loss, []
    model.loss = lambda batch: loss(batch) * (value if seen else 1.0)
    with pytest.raises(
        UserError, match=r"^epoch 2 of a teacher: found a loss of (nan|inf), expected"
    ):
        tune_model(model, batches, validate, CONFIG, events.append)
    assert len(seen) == 1
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1]


def test_training_mode_is_on_in_training_even_after_a_validation(parts):
    """An encoding in the validation doesn't switch dropout and noise off for good."""
    model, batches = parts
    teacher = TunedTeacher("any", model, batches.task.dataset.interactions, CONFIG, 10)
    modes, original = [], model.loss
    model.loss = lambda batch: modes.append(model.training) or original(batch)

    def validate():
        teacher.encode_items()
        return {"NDCG@10": 0.0}

    tune_model(model, batches, validate, CONFIG, lambda event: None)
    assert len(modes) > 4
    assert all(modes)


@pytest.mark.parametrize("stop_at", ["step", "epoch"])
def test_stopped_and_taken_up_is_the_same_as_uninterrupted(parts, tmp_path, stop_at):
    """Stopped within an epoch or after one, it ends with the same epochs and weights."""
    scores = [0.1, 0.3, 0.2, 0.25, 0.25]
    tunings, models = [], []
    for name, stops in (("whole", False), ("stopped", True)):
        model, batches = copy.deepcopy(parts)
        validate, _ = scripted(model, scores)
        torch.manual_seed(5)

        def log(event):
            if event["event"] == stop_at and event["epoch"] == 4:
                raise KeyboardInterrupt

        state = tmp_path / name
        if stops:
            with pytest.raises(KeyboardInterrupt):
                tune_model(model, batches, validate, CONFIG, log, state)
            model, _ = copy.deepcopy(parts)
            torch.manual_seed(77)
            # What was kept before the stop is not validated again; an epoch is told before that.
            validate, _ = scripted(model, scores[3:])
        tunings.append(tune_model(model, batches, validate, CONFIG, lambda event: None, state))
        models.append(model.state_dict())
    whole, stopped = (tuning._replace(seconds=0.0, validation={}) for tuning in tunings)
    assert whole == stopped == Tuning(5, 2, {})
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_joins_the_gradient(parts, decay):
    """With weight decay the weights shrink, and without it they don't."""
    model, batches = parts
    model.loss = lambda batch: sum(p.sum() for p in model.parameters()) * 0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = dataclasses.replace(CONFIG, max_epochs=1, weight_decay=decay)
    tune_model(model, batches, scripted(model, [0.1])[0], config, lambda event: None)
    # Adam's steps of one gradient's sign: towards 0 by the rate each.
    far = [one.abs() > 0.2 for one in before]
    for was, now, some in zip(before, model.parameters(), far, strict=True):
        assert ((now.abs() < was.abs())[some] == bool(decay)).all()
    assert any(some.any() for some in far)


def test_frozen_parameters_stay(parts):
    """Training moves the others but not the frozen encoder."""
    model, batches = parts
    model.trm_encoder.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    validate, _ = scripted(model, np.linspace(0.1, 1, 9))
    tune_model(model, batches, validate, CONFIG, lambda event: None)
    for name, value in model.state_dict().items():
        frozen = name.startswith("trm_encoder")
        assert torch.equal(value, before[name]) is frozen or name.endswith("w_noise"), name


def test_a_damaged_state_is_told_in_one_line(parts, tmp_path):
    """The line says that no readable training state was found."""
    model, batches = parts
    (tmp_path / "state").write_bytes(b"no state")
    with pytest.raises(UserError, match="found no readable training state") as caught:
        tune_model(model, batches, dict, CONFIG, print, tmp_path / "state")
    assert "\n" not in str(caught.value)
