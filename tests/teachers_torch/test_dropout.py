"""Dropout: how much is dropped, what is left, and how it is repeated."""

import pytest
import torch

from teachers_torch.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_a_share_is_zero_and_the_rest_is_scaled_so_that_the_mean_stays(share):
    """The share is right within four standard deviations, and neighbours are independent."""
    torch.manual_seed(0)
    x = torch.ones(1001, 333, requires_grad=True)
    found = dropout(x, share, True)
    kept = found > 0
    deviation = (share * (1 - share) / x.numel()) ** 0.5
    assert abs(float(1 - kept.float().mean()) - share) < 4 * deviation
    torch.testing.assert_close(
        found[kept], torch.full_like(found[kept], 1 / (1 - share)), rtol=1e-4, atol=0
    )
    for lag in (1, 2, 3, 4, 333):
        flat = kept.flatten().float()
        together = float((flat[lag:] * flat[:-lag]).mean()) - float(flat.mean()) ** 2
        assert abs(together) < 5 * deviation
    found.sum().backward()
    torch.testing.assert_close(x.grad, found.detach())


def test_the_same_seed_drops_the_same():
    """Torch's own generator is used, so the next call drops others."""
    x = torch.ones(7, 5)
    first, second = (torch.manual_seed(3) and dropout(x, 0.5, True) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, dropout(x, 0.5, True))


def test_nothing_is_dropped_outside_training_or_without_a_share():
    """The same tensor comes back, and no random number is drawn."""
    x = torch.ones(3)
    state = torch.get_rng_state()
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert torch.equal(torch.get_rng_state(), state)
