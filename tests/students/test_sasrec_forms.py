"""SASRec's other forms, against PyTorch's own encoder and the authors' formulas in float64."""

import math

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import history_segments, pack
from prmkd_jax.students.registry import create_student
from tests.students import reference
from tests.students.reference import linear
from tests.worlds import MAX_SEQ_LEN, facts, random_world, student_config

WORLD = random_world()
HISTORIES = WORLD.interactions
SEGMENTS = history_segments(HISTORIES, HISTORIES.indptr[1:], MAX_SEQ_LEN)
WIDTH, HEADS, INNER = 12, 3, 10


def made(form):
    config = student_config(
        hidden_size=WIDTH, num_heads=HEADS, inner_size=INNER, num_layers=2, sasrec_form=form
    )
    graphdef, state = create_student(config, facts(WORLD), 0)
    return graphdef, reference.random_params(nnx.to_pure_dict(state), seed=5)


MADE = {form: made(form) for form in ("pre-ln", "original")}


def states(form, params, rows):
    """States [R, L, D] without dropout."""
    queries = nnx.merge(MADE[form][0], nnx.State(params)).queries(rows)
    return queries.reshape(*rows.item_seq.shape, -1)


def batches():
    return list(pack(HISTORIES, SEGMENTS, 5, 13))


def prefix(instance: int) -> list[int]:
    first = HISTORIES.indptr[HISTORIES.users[instance]]
    return HISTORIES.items[max(first, instance - MAX_SEQ_LEN) : instance].tolist()


def pre_ln(params, items: list[int]) -> torch.Tensor:
    """PyTorch's pre-LN encoder with its final LayerNorm."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, 0.0, "gelu", 1e-12, True, norm_first=True, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(WIDTH, 1e-12, dtype=torch.float64)
    encoder = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    names = {
        "self_attn.in_proj_": ("qkv", "kernel"),
        "self_attn.out_proj.": ("out", "kernel"),
        "linear1.": ("wide", "kernel"),
        "linear2.": ("narrow", "kernel"),
        "norm1.": ("attention_norm", "scale"),
        "norm2.": ("output_norm", "scale"),
    }
    state = {
        "norm.weight": params["output_norm"]["scale"],
        "norm.bias": params["output_norm"]["bias"],
    }
    for number, block in params["blocks"].items():
        for theirs, (ours, weight) in names.items():
            state[f"layers.{number}.{theirs}weight"] = block[ours][weight].t()
            state[f"layers.{number}.{theirs}bias"] = block[ours]["bias"]
    tables = (params[f"{name}_embedding"]["table"] for name in ("item", "position"))
    item, place = tables
    x = item[items] + place[: len(items)]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(len(items), dtype=torch.float64)
    return torch.func.functional_call(encoder, state, (x[None], mask))[0, -1]


def original(params, items: list[int]) -> torch.Tensor:
    """One sequence through the authors' TensorFlow code, typed from its formulas."""

    def normalize(p, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return p["scale"] * (x - mean) / (variance + 1e-8) ** 0.5 + p["bias"]

    item, place = (params[f"{name}_embedding"]["table"] for name in ("item", "position"))
    seq = item[items] * math.sqrt(WIDTH) + place[: len(items)]
    future = torch.ones(len(items), len(items)).triu(1).bool()
    for number in sorted(params["blocks"]):
        block = params["blocks"][number]
        queries = normalize(block["query_norm"], seq)
        q = linear(block["query"], queries).chunk(HEADS, dim=-1)
        k = linear(block["key"], seq).chunk(HEADS, dim=-1)
        v = linear(block["value"], seq).chunk(HEADS, dim=-1)
        heads = []
        for one, two, three in zip(q, k, v, strict=True):
            logits = one @ two.T / (WIDTH // HEADS) ** 0.5
            heads.append(logits.masked_fill(future, -(2.0**32) + 1).softmax(-1) @ three)
        seq = torch.cat(heads, dim=-1) + queries
        inputs = normalize(block["inner_norm"], seq)
        seq = linear(block["narrow"], linear(block["wide"], inputs).relu()) + inputs
    return normalize(params["output_norm"], seq)[-1]


REFERENCES = {"pre-ln": pre_ln, "original": original}


@pytest.mark.parametrize("form", MADE)
def test_every_prefix_equals_the_reference(form):
    """Keys normalised too, a residual from the wrong side, a scale or final norm missing."""
    params, checked = reference.to_torch(MADE[form][1]), 0
    encode = jax.jit(lambda p, rows: states(form, p, rows))
    for packed in batches():
        values = np.asarray(encode(MADE[form][1], packed))
        for row, column in np.argwhere(packed.instance_ids >= 0)[::3]:
            expected = REFERENCES[form](params, prefix(packed.instance_ids[row, column]))
            np.testing.assert_allclose(values[row, column], expected.detach(), atol=2e-5, rtol=0)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("form", MADE)
def test_gradients_equal_the_references(form):
    """A gradient stopped, scaled, or leaked between the segments of a row."""
    packed = batches()[0]
    asked = packed.instance_ids >= 0
    weights = np.random.default_rng(1).normal(size=(*asked.shape, WIDTH))

    @jax.jit
    @jax.grad
    def gradient(params):
        return (states(form, params, packed) * np.where(asked[..., None], weights, 0)).sum()

    params = reference.to_torch(MADE[form][1])
    loss = sum(
        REFERENCES[form](params, prefix(packed.instance_ids[row, column]))
        @ torch.tensor(weights[row, column])
        for row, column in np.argwhere(asked)
    )
    loss.backward()
    found, expected = jax.device_get(gradient(MADE[form][1])), reference.gradients(params)
    flat = 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        flat += np.abs(b).max() < 1e-3
        np.testing.assert_allclose(a, b, atol=3e-5 * max(np.abs(b).max(), 1), rtol=0)
    # A key's bias moves all logits of a row alike.
    assert flat == {"pre-ln": 0, "original": 2}[form]


@pytest.mark.parametrize("form", MADE)
def test_what_stands_in_padding_slots_changes_nothing(form):
    """Padding told by item id 0, which is a real item, or not masked at all."""
    packed = batches()[0]
    padding = packed.segment_ids == 0
    assert padding.any()
    scrambled = packed._replace(item_seq=np.where(padding, 7, packed.item_seq))
    encode = jax.jit(lambda params, rows: states(form, params, rows))
    before, after = (encode(MADE[form][1], rows) for rows in (packed, scrambled))
    np.testing.assert_array_equal(before[~padding], after[~padding])


def test_dropout_stands_where_the_authors_have_it(monkeypatch):
    """A site without dropout trains another model."""
    graphdef, params = MADE["original"]
    model = nnx.merge(graphdef, nnx.State(params))
    dropped = reference.dropout_sites(monkeypatch, lambda rngs: model.queries(batches()[0], rngs))
    hidden, inner, weights = (5, 13, WIDTH), (5, 13, INNER), (5, HEADS, 13, 13)
    assert [shape for _, shape in dropped] == [hidden] + [weights, inner, hidden] * 2
