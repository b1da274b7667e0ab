"""Which tests need a GPU: `pytestmark = NEEDS_GPU`."""

import jax
import pytest
import torch


def _has_gpu() -> bool:
    try:
        return bool(jax.local_devices(backend="cuda")) and torch.cuda.is_available()
    except RuntimeError:
        return False


NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _has_gpu(), reason="JAX or PyTorch has no GPU here"),
]
"""Marks of a module whose tests run wherever both frameworks see a GPU."""
