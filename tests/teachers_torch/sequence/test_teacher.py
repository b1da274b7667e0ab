import dataclasses

import numpy as np
import pytest
import torch

from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task, make_task
from prmkd_jax.evaluate.metrics import expected_ranks, ranking_metrics
from teachers_torch.config import UniM2RecConfig, UniSRecConfig
from teachers_torch.items.inputs import Modality
from teachers_torch.sequence.encoder import to_tensors
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.unim2rec import UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.shards import encode_in_shards
from teachers_torch.tuning import evaluate, rank_all
from tests.teachers_torch.worlds import interactions_of, packed_batch, randomise, ring_world

MAX_LEN, ITEMS = 4, 12
# Some shorter, some just as long as, some longer than what the model sees; one without instance.
HISTORIES = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [11], [10, 2]]
SETTINGS = {"hidden_size": 8, "num_layers": 1, "inner_size": 4, "num_experts": 2, "batch_size": 12}


@pytest.fixture
def interactions():
    return interactions_of(*HISTORIES)


@pytest.fixture(params=["unisrec", "unim2rec"])
def model(request):
    rng = np.random.default_rng(0)
    texts, images = rng.normal(size=(2, ITEMS, 5)).astype(np.float32)
    if request.param == "unisrec":
        config = UniSRecConfig(**SETTINGS, pad_class=False)
        model = UniSRec(config, texts, MAX_LEN, transductive=True)
    else:
        bits = np.arange(ITEMS) % 3 > 0
        config = UniM2RecConfig(**SETTINGS, align_weight=0.0)
        inputs = [Modality(texts, ~bits[::-1]), Modality(images, bits)]
        model = UniM2Rec(config, inputs, MAX_LEN, has_ids=True)
    randomise(model)
    return model


def prefixes():
    """(CSR offset, the last MAX_LEN items before it) of every instance."""
    offset = 0
    for history in HISTORIES:
        for place in range(1, len(history)):
            yield offset + place, history[max(0, place - MAX_LEN) : place]
        offset += len(history)


def teacher_of(model, interactions, batch_size=12):
    config = UniSRecConfig(**{**SETTINGS, "batch_size": batch_size})
    return TunedTeacher("any", model, interactions, config, MAX_LEN)


def one_by_one(model, prefix):
    batch = packed_batch([prefix], rows=1, length=MAX_LEN)
    users = model.user_vectors(batch, model.item_reprs()[batch.item_seq])
    return users[-1].detach().numpy()


def test_every_instance_has_the_vector_of_its_own_prefix(model, interactions):
    """A user's first item has a zero vector, and a long prefix is cut to the window."""
    ids = np.arange(len(interactions.items))
    vectors = teacher_of(model, interactions).encode_instances(ids)
    expected = np.zeros_like(vectors)
    for offset, prefix in prefixes():
        expected[offset] = one_by_one(model, prefix)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("batch_size", [4, 5, 40])
def test_a_choice_of_instances_comes_in_the_order_asked(model, interactions, batch_size):
    """A vector depends neither on the others asked for nor on the batch size."""
    every = teacher_of(model, interactions).encode_instances(np.arange(21))
    chosen = np.array([17, 2, 3, 20, 1, 7, 0])
    found = teacher_of(model, interactions, batch_size).encode_instances(chosen)
    np.testing.assert_allclose(found, every[chosen], atol=1e-6)


def test_an_instance_may_be_asked_for_several_times(model, interactions):
    """Each of its rows has the full vector."""
    teacher = teacher_of(model, interactions)
    chosen = np.array([5, 2, 5, 0, 5, 0])
    found = teacher.encode_instances(chosen)
    assert found[chosen == 5].all()
    np.testing.assert_allclose(found, teacher.encode_instances(np.arange(21))[chosen], atol=1e-6)


def test_scaled_dot_products_are_the_training_logits(model, interactions):
    """Score scale, instances and items give the training loss itself."""
    config = UniSRecConfig(**SETTINGS)
    teacher = TunedTeacher("any", model, interactions, config, MAX_LEN)
    task = Task(
        dataclasses.replace(ring_world(), interactions=interactions), leave_one_out(interactions)
    )
    split = task.split
    users, items = teacher.encode_instances(split.train), teacher.encode_items()
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    logits = teacher.score_scale * users.astype(np.float64) @ items.T
    own = logits[np.arange(len(logits)), interactions.items[split.train]]
    expected = (np.log(np.exp(logits).sum(1)) - own).mean()
    (batch,) = TrainingBatches(task, MAX_LEN, 40, seed=0).epoch(0)
    loss = model.eval().loss(to_tensors(batch, torch.device("cpu")))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_encoding_turns_training_off(model, interactions):
    """Two calls on a model in training mode give equal vectors."""
    for call in (
        lambda: teacher_of(model.train(), interactions).encode_items(),
        lambda: teacher_of(model.train(), interactions).encode_instances(np.arange(21)),
    ):
        np.testing.assert_array_equal(call(), call())


def test_the_items_are_adapted_once_for_all_shards_and_for_a_ranking(model, tmp_path):
    """All shards share one adaptation, finished shards need none, and a ranking takes one."""
    task = make_task(ring_world(items=ITEMS))
    teacher = teacher_of(model, task.dataset.interactions)
    expected = teacher.encode_instances(np.arange(60))
    adapted, real = [], model.item_reprs
    model.item_reprs = lambda: adapted.append(1) or real()
    parts = encode_in_shards(teacher, 60, tmp_path, lambda done, total: None, shard_size=7)
    assert len(adapted) == 1
    np.testing.assert_array_equal(parts.array(), expected)
    encode_in_shards(teacher, 60, tmp_path, lambda done, total: None, shard_size=7)
    assert len(adapted) == 1
    evaluate(teacher, task, task.split.validation)
    assert len(adapted) == 2


def test_a_frozen_teacher_gives_the_bits_of_a_fresh_one(model, interactions):
    """Items and instances are bit for bit those of the teacher itself, call after call."""
    teacher = teacher_of(model.train(), interactions)
    held, ids = teacher.frozen(), np.array([17, 2, 3, 20])
    for _ in range(2):
        np.testing.assert_array_equal(held.encode_instances(ids), teacher.encode_instances(ids))
        np.testing.assert_array_equal(held.encode_items(), teacher.encode_items())


@pytest.mark.parametrize(("limit", "value"), [("USERS_AT_ONCE", 3), ("MOST_SCORES", 3 * 7 + 2)])
def test_ranking_reads_every_user_once(monkeypatch, limit, value):
    """Users and scores at once stay within their limits, and no user is lost or repeated."""
    monkeypatch.setattr(f"teachers_torch.tuning.{limit}", value)
    sizes = []

    def watched(scores, targets):
        sizes.append(scores.size)
        return expected_ranks(scores, targets)

    monkeypatch.setattr("teachers_torch.tuning.expected_ranks", watched)
    items = np.eye(7, dtype=np.float32)
    users = items[[0, 1, 2, 3, 4, 5, 6, 0]] + 0.5 * items[[1, 2, 3, 4, 5, 6, 0, 1]]
    targets = np.array([0, 1, 2, 4, 4, 6, 0, 3])  # ranks 0 0 0 1 0 1 1 and 4, halfway in a tie
    metrics = ranking_metrics(rank_all(users, items, targets))
    assert sizes == [21, 21, 14]
    assert metrics["MRR"] == pytest.approx((1 + 1 + 1 + 0.5 + 1 + 0.5 + 0.5 + 1 / 5) / 8)
    assert metrics["Recall@5"] == 1.0
    assert metrics["NDCG@5"] == pytest.approx((4 + 3 / np.log2(3) + 1 / np.log2(6)) / 8)


def test_a_score_that_is_not_finite_is_an_error():
    """NaN is a ValueError and doesn't rank every target first."""
    with pytest.raises(ValueError, match="finite"):
        rank_all(np.full((1, 2), np.nan, np.float32), np.ones((3, 2), np.float32), np.array([0]))
