import numpy as np
import pytest
import torch

from teachers_torch.recformer import local_attention as module
from teachers_torch.recformer.local_attention import (
    banded_attention,
    dense_attention,
    local_attention,
)

REACH = 3
LENGTHS = [17, 9, 1]


def inputs(lengths=LENGTHS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shape = (3, len(lengths), 2, max(lengths), 4)
    query, key, value = torch.randn(shape, generator=generator, dtype=dtype)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), real


def by_hand(query, key, value, real):
    """Every place on its own, in float64."""
    out = np.zeros(query.shape)
    for row, head, i in np.ndindex(query.shape[:3]):
        near = [j for j in range(query.shape[2]) if abs(i - j) <= REACH or j == 0]
        seen = [j for j in near if real[row, j]]
        scores = np.array([query[row, head, i] @ key[row, head, j] / 2 for j in seen])
        weights = np.exp(scores - scores.max())
        out[row, head, i] = weights @ value[row, head, seen] / weights.sum()
    return out


@pytest.mark.parametrize("attend", [dense_attention, banded_attention])
def test_each_place_sees_its_window_and_the_first(attend):
    """Both forms equal the calculation by hand, in which padding is never seen."""
    query, key, value, real = inputs()
    found = attend(query, key, value, real, REACH, 0.0).detach().numpy()
    arrays = [x.detach().double().numpy() for x in (query, key, value)]
    expected = by_hand(*arrays, real.numpy())
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[row, :, :length], expected[row, :, :length], atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 7, 12, 40])
def test_both_forms_are_equal_with_their_gradients(length):
    """No place is lost at a block's border, at eight lengths from 1 to 40."""
    gradients, outputs = [], []
    for attend in (dense_attention, banded_attention):
        query, key, value, real = inputs([length, max(1, length - 2), 1], torch.float64)
        out = attend(query, key, value, real, REACH, 0.0) * real[:, None, :, None]
        (out**2).sum().backward()
        outputs.append(out.detach())
        gradients.append([query.grad, key.grad, value.grad])
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


def test_long_inputs_take_the_band(monkeypatch):
    """Up to DENSE_UP_TO tokens attention is dense; a longer input takes the band."""
    called = []
    for name in ("dense_attention", "banded_attention"):
        monkeypatch.setattr(module, name, lambda *args, name=name: called.append(name) or args[0])
    for length in (module.DENSE_UP_TO, module.DENSE_UP_TO + 1):
        query = torch.zeros(1, 1, length, 1)
        local_attention(query, query, query, torch.ones(1, length, dtype=torch.bool), 3, 0.0)
    assert called == ["dense_attention", "banded_attention"]


@pytest.mark.parametrize("attend", [dense_attention, banded_attention])
def test_dropout_acts(attend):
    """Both forms of attention apply it."""
    torch.manual_seed(0)
    query, key, value, real = inputs()
    plain = attend(query, key, value, real, REACH, 0.0)
    assert not torch.allclose(attend(query, key, value, real, REACH, 0.5), plain)
