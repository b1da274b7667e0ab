import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from prmkd_jax.students.layers import (
    Embedding,
    TransformerBlock,
    causal_segments,
    layer_norm,
    whole_segments,
)


def test_block_equals_pytorchs_own_encoder_layer():
    """Heads, residuals and normalisation are in PyTorch's order."""
    rng = np.random.default_rng(0)
    block = TransformerBlock(12, 3, 20, 0.5, rngs=nnx.Rngs(0))
    for _, variable in nnx.iter_graph(block):
        if isinstance(variable, nnx.Param):
            noise = rng.normal(size=variable[...].shape).astype(np.float32) * 0.4
            variable[...] = variable[...] + noise
    other = torch.nn.TransformerEncoderLayer(
        12, 3, 20, 0.5, "gelu", 1e-12, batch_first=True, dtype=torch.float64
    ).eval()
    pairs = {
        "self_attn.in_proj_weight": block.qkv.kernel[...].T,
        "self_attn.in_proj_bias": block.qkv.bias[...],
        "self_attn.out_proj.weight": block.out.kernel[...].T,
        "self_attn.out_proj.bias": block.out.bias[...],
        "linear1.weight": block.wide.kernel[...].T,
        "linear1.bias": block.wide.bias[...],
        "linear2.weight": block.narrow.kernel[...].T,
        "linear2.bias": block.narrow.bias[...],
        "norm1.weight": block.attention_norm.scale[...],
        "norm1.bias": block.attention_norm.bias[...],
        "norm2.weight": block.output_norm.scale[...],
        "norm2.bias": block.output_norm.bias[...],
    }
    other.load_state_dict({name: torch.tensor(np.asarray(x)) for name, x in pairs.items()})
    hidden = rng.normal(size=(2, 7, 12))
    allowed = np.tri(7, dtype=bool)
    found = jax.jit(block)(jnp.asarray(hidden, jnp.float32), allowed[None].repeat(2, 0))
    with torch.no_grad():
        expected = other(torch.tensor(hidden), src_mask=torch.tensor(~allowed))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_causal_segments_by_hand():
    """A slot sees its own segment up to itself, and padding sees padding only."""
    allowed = causal_segments(jnp.array([[2, 2, 1, 1, 0], [3, 3, 3, 0, 0]]))
    expected = [
        ["#....", "##...", "..#..", "..##.", "....#"],
        ["#....", "##...", "###..", "...#.", "...##"],
    ]
    assert drawn(allowed) == expected


def drawn(allowed) -> list[list[str]]:
    return [["".join(".#"[int(x)] for x in row) for row in rows] for rows in allowed]


def test_whole_segments_by_hand():
    """A slot sees all of its own segment and nothing else."""
    allowed = whole_segments(jnp.array([[2, 2, 1, 0]]))
    assert drawn(allowed) == [["##..", "##..", "..#.", "...#"]]


def test_embedding_returns_the_rows_asked_for():
    """The table has no row for padding."""
    embedding = Embedding(5, 3, rngs=nnx.Rngs(0))
    ids = jnp.array([[4, 0], [1, 4]])
    np.testing.assert_array_equal(embedding(ids), np.asarray(embedding.table[...])[np.array(ids)])
    assert embedding.table.shape == (5, 3)


def test_layer_norm_is_exact_far_from_zero():
    """Values near 100 with a deviation of 0.01 are normalised to within 0.005."""
    x = np.random.default_rng(0).normal(100.0, 0.01, (20, 12)).astype(np.float32)
    exact = x.astype(float)
    expected = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    found = layer_norm(12, nnx.Rngs(0))(x)
    np.testing.assert_allclose(found, expected, atol=5e-3, rtol=0)
