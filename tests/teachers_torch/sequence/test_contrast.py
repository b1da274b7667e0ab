import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teachers_torch.config import EncoderConfig
from teachers_torch.sequence.contrast import (
    contrastive_loss,
    item_drop,
    replace_rows,
    sequence_vectors,
)
from teachers_torch.sequence.encoder import SequenceEncoder
from tests.teachers_torch.worlds import randomise

TARGETS = [4, 2, 4, 9, 2, 4]


@pytest.mark.parametrize("duplicates", ["zero", "left_out"])
def test_loss_is_the_formula(duplicates):
    """A positive is in its own sum; a duplicate adds exp(0) or nothing, as configured."""
    a, b = np.random.default_rng(0).normal(size=(2, 6, 5))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    expected = 0.0
    for i in range(6):
        total = 0.0
        for j in range(6):
            if TARGETS[i] != TARGETS[j] or i == j:
                total += np.exp(a[i] @ b[j] / 0.07)
            elif duplicates == "zero":
                total += 1.0
        expected += (-a[i] @ b[i] / 0.07 + np.log(total)) / 6
    tensors = (torch.from_numpy(x).float() for x in (a, b))
    found = contrastive_loss(*tensors, torch.tensor(TARGETS), 0.07, duplicates=duplicates)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_masked_rows_have_finite_gradients():
    """A row whose negatives are all left out has no NaN in its gradient."""
    a = torch.eye(3, requires_grad=True)
    contrastive_loss(a, a, torch.tensor([1, 1, 1]), 0.07, duplicates="left_out").backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())


def dropped(items, keep):
    """Item drop of one sequence, slot by slot as the writes come."""
    slots, slot = {}, -1
    for place, item in enumerate(items):
        if place == 0 or keep[place]:
            slot += 1
        slots[slot] = item
    return list(slots.values())


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_item_drop_is_the_last_write_to_each_slot(extra, seed):
    """Items and lengths equal those of a loop over each row, and padding stays zero."""
    rng = np.random.default_rng(seed)
    lengths = np.array(extra) + 1
    width = int(lengths.max()) + int(rng.integers(2))
    rows = np.zeros((len(lengths), width), dtype=np.int64)
    for row, length in enumerate(lengths):
        rows[row, :length] = rng.integers(1, 99, length)
    keep = rng.random(rows.shape) < 0.5
    found, sizes = item_drop(*(torch.from_numpy(x) for x in (rows, lengths, keep)))
    for row, length in enumerate(lengths):
        expected = dropped(rows[row, :length].tolist(), keep[row])
        assert int(sizes[row]) == len(expected)
        assert found[row].tolist() == expected + [0] * (width - len(expected))


def test_replaced_rows_leave_padding_and_kept_items():
    """An item that isn't kept moves to its variant's row, and [PAD] stays 0."""
    rows = torch.tensor([[3, 1, 0], [2, 0, 0]])
    keep = torch.tensor([[True, False, False], [False, True, True]])
    assert replace_rows(rows, keep, 10).tolist() == [[3, 11, 0], [12, 0, 0]]


def test_sequences_come_back_in_their_order_whatever_is_behind_their_end():
    """Each vector is the normalised last state of its own sequence, computed alone."""
    model = SequenceEncoder(EncoderConfig(hidden_size=8, inner_size=4, num_layers=2), 7)
    randomise(model)
    model.eval()
    table = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    lengths = torch.from_numpy(rng.integers(1, 8, 40))
    rows = torch.from_numpy(rng.integers(1, 30, (40, 7)))
    found = sequence_vectors(model, lambda seq: table[seq], rows, lengths)
    for row, length in enumerate(lengths.tolist()):
        positions = torch.arange(length)[None]
        hidden = model(table[rows[row, :length]][None], positions * 0 + 1, positions)[0, -1]
        expected = hidden / hidden.norm()
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
