"""The hand-over where there is a GPU; skipped elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bridge.dlpack import to_jax, to_torch
from bridge.teacher_bank import TeacherBank
from bridge.teacher_vectors import Vectors
from tests.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU


def test_both_frameworks_read_one_buffer():
    """A tensor on the GPU goes to JAX and back without a copy."""
    tensor = torch.arange(256.0, device="cuda").reshape(16, 16)
    array = to_jax(tensor).array
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert array.devices() == {jax.devices("cuda")[0]}
    back = to_torch(array).array
    assert back.data_ptr() == tensor.data_ptr()


def test_what_another_stream_computes_is_waited_for():
    """JAX reads values only once the tensor's stream has computed them."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        value = torch.ones(4096, 4096, device="cuda")
        for _ in range(20):
            value = value @ value / 4096
        array = to_jax(value).array
    assert float(jnp.abs(array - 1).max()) == 0


def test_the_tables_lie_on_the_gpu_and_score_as_in_float64():
    """No step fetches a table from the host, and TF32 costs no digits."""
    rng = np.random.default_rng(0)
    instances, items = (rng.standard_normal((n, 64)).astype(np.float16) for n in (200, 100))
    bank = TeacherBank([Vectors("teacher", 2.0, instances, items)], [1.0], "jax")
    assert bank.tables is not None
    for leaf in jax.tree.leaves(bank.tables):
        assert leaf.devices() == {jax.devices("cuda")[0]}
    scored = TeacherBank([Vectors("teacher", 2.0, instances, items)], [1.0], "torch").for_batch(
        np.arange(50), np.arange(100)
    )
    exact = 2 * instances[:50].astype(float) @ items.T.astype(float)
    assert np.abs(np.asarray(scored.scores)[:, 0] - exact).max() < 1e-5 * np.abs(exact).max()
