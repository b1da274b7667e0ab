import dataclasses

import numpy as np
import pytest
import torch

from teachers_torch.recformer import model as recformer
from teachers_torch.recformer.model import (
    LanguageHead,
    item_contrastive_loss,
    masked_language_loss,
    tuning_loss,
)
from tests.teachers_torch.recformer_worlds import ARCHITECTURE, make_teacher, random_model
from tests.teachers_torch.worlds import interactions_of, randomise, ring_world


def cross_entropy(logits, classes):
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(classes)), classes].mean()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vectors(rows, seed):
    array = np.random.default_rng(seed).normal(size=(rows, 8)) * 3
    return array, torch.from_numpy(array.astype(np.float32))


def test_tuning_loss_is_over_all_items():
    """Vectors are scaled to unit length, and the cosines are divided by the temperature."""
    (users, user_tensor), (table, table_tensor) = vectors(4, 0), vectors(9, 1)
    expected = cross_entropy(unit(users) @ unit(table).T / 0.05, [3, 0, 8, 3])
    found = tuning_loss(user_tensor, table_tensor, torch.tensor([3, 0, 8, 3]), 0.05)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_item_contrast_goes_one_way():
    """Each row of the first argument is compared with those of the second, not the reverse."""
    (a, a_tensor), (b, b_tensor) = vectors(5, 0), vectors(5, 1)
    expected = cross_entropy(unit(a) @ unit(b).T / 0.05, range(5))
    assert float(item_contrastive_loss(a_tensor, b_tensor, 0.05)) == pytest.approx(
        expected, rel=1e-5
    )
    other = float(item_contrastive_loss(b_tensor, a_tensor, 0.05))
    assert other != pytest.approx(expected, rel=1e-3)


def test_masked_language_loss_counts_masked_tokens_only():
    """The mean is over the masked tokens; without any, the loss is 0."""
    head = LanguageHead(ARCHITECTURE)
    randomise(head)
    hidden = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 5), -100)
    labels[0, 2], labels[1, 1], labels[1, 4] = 7, 0, 49
    w = {name: value.detach().double().numpy() for name, value in head.state_dict().items()}
    x = hidden.double().numpy()[[0, 1, 1], [2, 1, 4]] @ w["dense.weight"].T + w["dense.bias"]
    x = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * w["layer_norm.weight"] + w["layer_norm.bias"]
    expected = cross_entropy(x @ w["decoder.weight"].T + w["decoder.bias"], [7, 0, 49])
    found = masked_language_loss(head, hidden, labels)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(masked_language_loss(head, hidden, torch.full((2, 5), -100))) == 0


def test_official_names_outside_the_encoder():
    """An official file's language head and item table fit, and the item table is frozen."""
    model = random_model(language_head=True, num_items=7)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    own = {name: shape for name, shape in shapes.items() if not name.startswith("longformer.")}
    assert own == {
        "lm_head.dense.weight": (16, 16), "lm_head.dense.bias": (16,),
        "lm_head.layer_norm.weight": (16,), "lm_head.layer_norm.bias": (16,),
        "lm_head.decoder.weight": (50, 16), "lm_head.decoder.bias": (50,),
        "item_embedding.weight": (7, 16),
    }  # fmt: skip
    assert not model.item_embedding.weight.requires_grad


@pytest.fixture
def teacher():
    made = make_teacher(ring_world(users=8, items=20, length=7))
    made.refresh_items()
    return made


def alone(teacher, items):
    """The vector of one history, computed by itself."""
    tokens = teacher.reader.batch([teacher.reader.sequence(items)])
    pooled = teacher.model.longformer.pooled(tokens)[0].detach().double().numpy()
    return pooled / np.linalg.norm(pooled)


def test_every_instance_has_the_vector_of_its_own_prefix(teacher):
    """The prefix ends before the instance's item, so a user's first instance has zeros."""
    ids = np.random.default_rng(0).permutation(len(teacher.interactions.items))
    found = teacher.encode_instances(ids)
    assert found.dtype == np.float32
    for row, instance in enumerate(ids):
        user, place = divmod(int(instance), 7)
        prefix = teacher.interactions.items[7 * user : 7 * user + place]
        expected = alone(teacher, prefix) if place else np.zeros(16)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


@pytest.mark.parametrize("tokens_at_once", [1, 30, 10_000])
def test_the_company_changes_nothing(teacher, tokens_at_once):
    """A vector is the same whatever else is asked for and however many tokens run at once."""
    every = teacher.encode_instances(np.arange(56))
    config = dataclasses.replace(teacher.config, tokens_at_once=tokens_at_once)
    chosen = np.array([30, 2, 55, 9])
    found = dataclasses.replace(teacher, config=config).encode_instances(chosen)
    np.testing.assert_allclose(found, every[chosen], atol=1e-6)


def test_target_and_later_items_are_never_seen(teacher):
    """A changed target leaves its own instance's vector as it is and changes a later one's."""
    before = teacher.encode_instances(np.array([4, 10]))
    items = teacher.interactions.items.copy()
    items[4:7] = (items[4:7] + 5) % 20
    items[10:14] = (items[10:14] + 5) % 20
    changed = interactions_of(*items.reshape(8, 7).tolist())
    after = dataclasses.replace(teacher, interactions=changed)
    np.testing.assert_array_equal(after.encode_instances(np.array([4, 10])), before)
    later = np.array([5])
    assert np.abs(after.encode_instances(later) - teacher.encode_instances(later)).max() > 0.01


def test_items_are_one_item_histories(teacher):
    """An item has the vector of a user whose only item it is."""
    found = teacher.encode_items()
    for item in (0, 7, 19):
        np.testing.assert_allclose(found[item], alone(teacher, np.array([item])), atol=1e-5)
    assert teacher.table_bytes == 20 * 16 * 4
    assert teacher.num_parameters == sum(p.numel() for p in teacher.model.longformer.parameters())


def test_scaled_dot_products_are_the_training_logits(teacher):
    """The teacher's scores give the very loss that the tuning computes."""
    ids = np.array([3, 12, 20])
    users, items = teacher.encode_instances(ids), teacher.encode_items()
    targets = teacher.interactions.items[ids]
    expected = cross_entropy(teacher.score_scale * users.astype(np.float64) @ items.T, targets)
    pooled = recformer.encode(
        teacher.model,
        [teacher.reader.sequence(teacher.history(i)) for i in ids],
        teacher.reader,
        teacher.config,
    )
    found = tuning_loss(pooled, teacher.item_table, torch.from_numpy(targets).long(), 0.05)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_encoding_tells_of_tokens_and_turns_training_off(teacher):
    """The progress grows to its total, and the model ends in evaluation mode."""
    events = []
    teacher = dataclasses.replace(teacher, log=events.append)
    teacher.model.train()
    teacher.encode_instances(np.arange(10))
    assert not teacher.model.training
    assert events[-1]["done"] == events[-1]["total"] > 0
    assert [e["done"] for e in events] == sorted(e["done"] for e in events)
    assert {e["event"] for e in events} == {"encode"}


def test_bfloat16_is_near(teacher):
    """Vectors are float32 and differ from those in float32 by 1e-6 to 0.05."""
    config = dataclasses.replace(teacher.config, precision="bfloat16")
    half = dataclasses.replace(teacher, config=config).encode_instances(np.arange(1, 7))
    full = teacher.encode_instances(np.arange(1, 7))
    assert 1e-6 < np.abs(half - full).max() < 0.05
    assert half.dtype == np.float32
