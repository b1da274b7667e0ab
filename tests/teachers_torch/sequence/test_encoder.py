import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from teachers_torch import losses
from teachers_torch.config import EncoderConfig
from teachers_torch.losses import cosine_cross_entropy
from teachers_torch.sequence import encoder as module
from teachers_torch.sequence.encoder import SequenceEncoder
from tests.teachers_torch.worlds import packed_batch, randomise, to_numpy

WIDTH, HEADS, MAX_LEN = 8, 2, 6
CONFIG = EncoderConfig(hidden_size=WIDTH, num_heads=HEADS, num_layers=2, inner_size=5)
SEGMENTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3, 5], [8], [7, 9]]


@pytest.fixture
def encoder():
    module = SequenceEncoder(CONFIG, MAX_LEN)
    randomise(module)
    return module.eval()


@pytest.fixture
def table():
    return torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(7))


def layer_norm(x, state, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def reference(state, vectors):
    """RecBole's SASRec for one sequence, padded to MAX_LEN with zeros at its end, in float64."""
    length = len(vectors)
    x = np.zeros((MAX_LEN, WIDTH))
    x[:length] = vectors
    x = layer_norm(x + state["position_embedding.weight"], state, "LayerNorm")
    seen = np.tril(np.ones((MAX_LEN, MAX_LEN))) * (np.arange(MAX_LEN) < length)
    erf = np.vectorize(math.erf)
    for layer in range(CONFIG.num_layers):
        name = f"trm_encoder.layer.{layer}.multi_head_attention"
        query, key, value = (
            (x @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"])
            .reshape(MAX_LEN, HEADS, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH / HEADS) + (1 - seen) * -10000
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        attended = (weights @ value).transpose(1, 0, 2).reshape(MAX_LEN, WIDTH)
        dense = attended @ state[f"{name}.dense.weight"].T + state[f"{name}.dense.bias"]
        x = layer_norm(dense + x, state, f"{name}.LayerNorm")
        name = f"trm_encoder.layer.{layer}.feed_forward"
        inner = x @ state[f"{name}.dense_1.weight"].T + state[f"{name}.dense_1.bias"]
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        dense = inner @ state[f"{name}.dense_2.weight"].T + state[f"{name}.dense_2.bias"]
        x = layer_norm(dense + x, state, f"{name}.LayerNorm")
    return x[:length]


def encode(encoder, table, segments, rows=3, length=8):
    batch = packed_batch(segments, rows, length)
    hidden = encoder(table[batch.item_seq], batch.segment_ids, batch.positions)
    flat = hidden.flatten(0, 1)[batch.slots].detach().numpy()
    return np.split(flat, np.cumsum([len(s) for s in segments])[:-1])


def test_packed_rows_equal_padded_sequences_one_by_one(encoder, table):
    """A calculation by hand in float64 gives the same states."""
    state = to_numpy(encoder)
    for segment, found in zip(SEGMENTS, encode(encoder, table, SEGMENTS), strict=True):
        expected = reference(state, table[segment].double().numpy())
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_later_items_change_nothing_earlier(encoder, table):
    """Neither a later item nor a neighbouring segment reaches an earlier state."""
    before = encode(encoder, table, SEGMENTS)
    changed = [[3, 1, 0], [1, 5], [9, 2, 6, 0, 0, 0], [8], [0, 9]]
    after = encode(encoder, table, changed)
    np.testing.assert_allclose(after[0][:2], before[0][:2], atol=1e-6)
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    np.testing.assert_allclose(after[2][:3], before[2][:3], atol=1e-6)
    assert np.abs(after[0][2] - before[0][2]).max() > 1e-3
    assert np.abs(after[4][1] - before[4][1]).max() > 1e-3


@pytest.mark.parametrize(("rows", "length"), [(1, 20), (5, 6), (7, 9)])
def test_neighbours_and_padding_change_nothing(encoder, table, rows, length):
    """The place in a batch doesn't matter, and rows of padding alone give no NaN."""
    for found, expected in zip(
        encode(encoder, table, SEGMENTS[::-1], rows, length)[::-1],
        encode(encoder, table, SEGMENTS),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_stands_at_padding_slots_is_never_read(encoder, table):
    """Values of 1e6 at padding change no vector, and padding gets no gradient."""
    batch = packed_batch(SEGMENTS, 4, 8)
    vectors = table[batch.item_seq]
    vectors[batch.segment_ids == 0] = 1e6
    vectors.requires_grad_()
    users = encoder.user_vectors(batch, vectors)
    clean = encoder.user_vectors(batch, table[batch.item_seq])
    torch.testing.assert_close(users, clean, atol=0, rtol=0)
    users[:, 0].sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()
    assert (vectors.grad[batch.segment_ids == 0] == 0).all()


def test_user_vectors_are_unit_rows_at_the_asked_slots(encoder, table):
    """Slots 2 and 4 give their own states, scaled to length 1."""
    batch = packed_batch(SEGMENTS, 3, 8)
    chosen = batch._replace(slots=batch.slots[[2, 4]])
    users = encoder.user_vectors(chosen, table[batch.item_seq]).detach().numpy()
    hidden = np.concatenate(encode(encoder, table, SEGMENTS))[[2, 4]]
    expected = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    np.testing.assert_allclose(users, expected, atol=1e-6)


def test_dropout_in_training_only(encoder, table):
    first, second = (np.concatenate(encode(encoder, table, SEGMENTS)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    encoder.train()
    assert np.abs(np.concatenate(encode(encoder, table, SEGMENTS)) - first).max() > 0.1


def test_dropout_stands_where_recbole_has_it(encoder, table, monkeypatch):
    """The input, the attention weights and both outputs of a layer are dropped once each."""
    sites, attend = [], F.scaled_dot_product_attention

    def attention(*inputs, dropout_p, **others):
        sites.append(("weights", dropout_p))
        return attend(*inputs, **others)

    def dropped(x, share, training):
        sites.append((tuple(x.shape), share if training else 0.0))
        return x

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(module, "dropout", dropped)
    for share in (0.5, 0.0):
        encode(encoder.train(share > 0), table, SEGMENTS)
        states = ((3, 8, WIDTH), share)
        assert sites == [states, *[("weights", share), states, states] * CONFIG.num_layers]
        sites.clear()


def test_initial_values():
    """Weights are from N(0, 0.02), biases zero and LayerNorm scales one."""
    torch.manual_seed(0)
    state = SequenceEncoder(EncoderConfig(), 50).state_dict()
    for name, value in state.items():
        if "LayerNorm" in name:
            assert (value == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            assert float(value.std()) == pytest.approx(0.02, rel=0.05), name


def test_cosine_cross_entropy_is_the_formula():
    """Items are normalised, cosines divided by the temperature, and rows averaged."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    targets = np.array([0, 5, 5, 2])
    logits = users @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T / 0.07
    expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(4), targets]).mean()
    found = cosine_cross_entropy(
        torch.from_numpy(users).float(),
        torch.from_numpy(items).float(),
        torch.from_numpy(targets),
        0.07,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("wants_items", [True, False])
def test_the_gradients_of_many_blocks_are_those_of_the_formula(monkeypatch, wants_items):
    """The last block is a cut one, and the loss is a mean over all rows."""
    monkeypatch.setattr(losses, "FEWEST_ROWS", 3)
    monkeypatch.setattr(losses, "CPU_LOGITS", 1)
    rng = torch.Generator().manual_seed(0)
    users = F.normalize(torch.randn(8, 5, generator=rng, dtype=torch.float64), dim=-1)
    items = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    targets = torch.randint(6, (8,), generator=rng)
    users.requires_grad_()
    items.requires_grad_(wants_items)
    wanted = [users, items] if wants_items else [users]
    found = cosine_cross_entropy(users, items, targets, 0.07)
    expected = F.cross_entropy(users @ F.normalize(items, dim=-1).T / 0.07, targets)
    torch.testing.assert_close(found, expected)
    for gradients in zip(
        *(torch.autograd.grad(x * 3, wanted) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(*gradients)


def test_cosines_far_from_the_largest_one_lose_nothing():
    """A target whose share of the softmax underflows in float32 has its full loss of 200."""
    users, items = torch.eye(2)[:1], torch.tensor([[1.0, 0], [-1, 0]])
    assert float(cosine_cross_entropy(users, items, torch.tensor([1]), 0.01)) == pytest.approx(200)
