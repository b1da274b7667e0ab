import collections
import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import PackedRows, instance_segments, pack
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.students.recguru import draw_rows
from prmkd_jax.students.registry import result_name, window
from prmkd_jax.students.student import create_student, served_parameters
from tests.students import reference
from tests.worlds import facts, from_histories, random_world, student_config

WIDTH, HEADS, INNER, LAYERS = 12, 3, 10, 2
CONFIG = student_config(
    student="recguru",
    hidden_size=WIDTH,
    num_layers=LAYERS,
    num_heads=HEADS,
    inner_size=INNER,
    dropout=0.0,
    auxiliary_weight=0.7,
)
WORLD, OTHER = random_world(), random_world(users=30, items=23, seed=8)
HISTORIES = WORLD.interactions
WINDOW = window(CONFIG, 7)
FIRST = HISTORIES.indptr[HISTORIES.users]
ALL = np.flatnonzero(np.arange(len(FIRST)) > FIRST)
SEGMENTS = instance_segments(HISTORIES, ALL, WINDOW, own_slot=True)


def second_rows(second):
    """One draw of a second domain's prefixes."""
    known = facts(WORLD, WINDOW, second).second
    return draw_rows(known, WINDOW, 8 * (WINDOW + 1), nnx.Rngs(3))


def made(second=None):
    known = facts(WORLD, WINDOW, second)
    # Two domains compile for long.
    config = CONFIG if second is None else dataclasses.replace(CONFIG, num_layers=1)
    graphdef, state = create_student(config, known, 0)
    return graphdef, reference.random_params(nnx.to_pure_dict(state), seed=5)


GRAPHDEF, PARAMS = made()
PAIR, PAIR_PARAMS = made(OTHER)
states = reference.states_of(GRAPHDEF)


def batches():
    return list(pack(HISTORIES, SEGMENTS, 5, 13))


def by_instance(packed_batches) -> dict[int, np.ndarray]:
    return reference.by_instance(lambda packed: states(PARAMS, packed), packed_batches)


def prefix(instance: int) -> list[int]:
    return HISTORIES.items[max(FIRST[instance], instance - WINDOW) : instance].tolist()


def weights_of(block, names) -> dict[str, torch.Tensor]:
    """A torch layer's weights from our block's."""
    state = {}
    for theirs, ours in names.items():
        weights = block[ours]
        state[f"{theirs}weight"] = weights.get("kernel", weights.get("scale")).t()
        state[f"{theirs}bias"] = weights["bias"]
    return state


def encoder_layer(block, x: torch.Tensor) -> torch.Tensor:
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, 0.0, "gelu", 1e-12, True, dtype=torch.float64
    )
    names = {
        "self_attn.in_proj_": "qkv",
        "self_attn.out_proj.": "out",
        "linear1.": "wide",
        "linear2.": "narrow",
        "norm1.": "attention_norm",
        "norm2.": "output_norm",
    }
    return torch.func.functional_call(layer, weights_of(block, names), (x[None],))[0]


def decoder_layer(block, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """PyTorch's own decoder layer, its query and key of the memory drawn at random."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(
        WIDTH, HEADS, INNER, 0.0, "gelu", 1e-12, True, dtype=torch.float64
    )
    names = {
        "self_attn.in_proj_": "qkv",
        "self_attn.out_proj.": "out",
        "multihead_attn.out_proj.": "memory_out",
        "linear1.": "wide",
        "linear2.": "narrow",
        "norm1.": "attention_norm",
        "norm2.": "memory_norm",
        "norm3.": "output_norm",
    }
    state = weights_of(block, names)
    drawn, value = torch.randn(2 * WIDTH, WIDTH + 1).double(), block["memory_value"]
    joined = torch.cat([drawn[:, :-1], value["kernel"].t()])
    state["multihead_attn.in_proj_weight"] = joined
    state["multihead_attn.in_proj_bias"] = torch.cat([drawn[:, -1], value["bias"]])
    mask = torch.nn.Transformer.generate_square_subsequent_mask(len(x), dtype=torch.float64)
    return torch.func.functional_call(layer, state, (x[None], memory[None], mask))[0]


def encode(params, domain: str, items: list[int]) -> torch.Tensor:
    """The autoencoder's user vector: the state at the end token."""
    own = params[domain]
    x = torch.cat([own["item_embedding"]["table"][items], own["end_embedding"]["table"]])
    x = x + params["position_embedding"]["table"][: len(x)]
    for number in sorted(params["encoder"]):
        x = encoder_layer(params["encoder"][number], x)
    return x[-1]


def decode(params, domain: str, blocks, items: list[int], user: torch.Tensor) -> torch.Tensor:
    """A decoder's states; the memory is the user vector once a place."""
    x = params[domain]["item_embedding"]["table"][items]
    x = x + params["position_embedding"]["table"][: len(items)]
    for number in sorted(blocks):
        x = decoder_layer(blocks[number], x, user.expand(len(items), -1))
    return x


def test_every_prefix_equals_pytorchs_encoder_and_decoder():
    """The decoder's last state agrees, from an encoder that has read the prefix alone."""
    params, found = reference.to_torch(PARAMS), by_instance(batches())
    assert sorted(found) == ALL.tolist()
    for instance in ALL[::3]:
        items = prefix(instance)
        user = encode(params, "own", items)
        expected = decode(params, "own", params["head"], items, user)[-1].detach()
        np.testing.assert_allclose(found[instance], expected, atol=2e-5, rtol=0)


def items_of(rows, row: int, segment: int) -> list[int]:
    """A segment's items, without its end token's slot."""
    own = (rows.segment_ids[row] == segment) & (rows.instance_ids[row] < 0)
    return rows.item_seq[row][own].tolist()


def reconstruction(params, domain: str, rows) -> torch.Tensor:
    """Mean over all slots but the first of each segment."""
    losses = []
    table = params[domain]["item_embedding"]["table"]
    for row in range(len(rows.item_seq)):
        for segment in sorted(set(rows.segment_ids[row].tolist()) - {0}):
            items = items_of(rows, row, segment)
            user = encode(params, domain, items)
            hidden = decode(params, domain, params[domain]["decoder"], items, user)
            logits = torch.log_softmax(hidden @ table.T, dim=-1)
            losses += [-logits[n, item] for n, item in enumerate(items[1:])]
    return torch.stack(losses).mean()


def test_the_autoencoder_alone_learns_by_reconstruction():
    """The loss is the weighted reconstruction of each user's own items."""
    packed = batches()[1]

    def auxiliary(params):
        return nnx.merge(GRAPHDEF, nnx.State(params)).auxiliary(packed, nnx.Rngs(0))

    expected = 0.7 * reconstruction(reference.to_torch(PARAMS), "own", packed)
    assert float(jax.jit(auxiliary)(PARAMS)) == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_and_distillation_do_not_reach_the_encoder():
    """As the authors have it, the encoder stays fixed while the head learns."""
    packed = batches()[0]
    asked = packed.instance_ids[..., None] >= 0
    gradient = jax.jit(jax.grad(lambda p: (states(p, packed) ** 2).sum(where=asked)))(PARAMS)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["encoder"]))
    assert not gradient["own"]["end_embedding"]["table"].any()
    assert np.abs(gradient["head"][0]["memory_value"]["kernel"]).max() > 1e-3


def test_second_domain_is_drawn_from_its_training_part_anew_each_step():
    """Each training prefix is equally likely, cut as when it is ranked; held-out items never come.

    So lengths are those of the own domain's prefixes, if the histories are the same.
    """
    known, histories = facts(WORLD, WINDOW, OTHER).second, OTHER.interactions
    draws = [draw_rows(known, WINDOW, 65, nnx.Rngs(seed)) for seed in range(600)]
    drawn = PackedRows(*(np.concatenate(fields) for fields in zip(*draws, strict=True)))
    assert drawn.item_seq.shape == (600 * (65 // (WINDOW + 1)), WINDOW + 1)
    found = collections.Counter()
    for row in range(len(drawn.item_seq)):
        size = int((drawn.segment_ids[row] > 0).sum()) - 1
        found[tuple(drawn.item_seq[row, :size].tolist())] += 1
        assert not drawn.item_seq[row, size:].any()
        assert drawn.segment_ids[row].tolist() == [1] * (size + 1) + [0] * (WINDOW - size)
        assert drawn.positions[row].tolist() == [*range(size + 1)] + [0] * (WINDOW - size)
        assert np.flatnonzero(drawn.instance_ids[row] >= 0).tolist() == [size]
    expected = collections.Counter()
    for instance in leave_one_out(histories).train:
        begin = histories.indptr[histories.users[instance]]
        expected[tuple(histories.items[max(begin, instance - WINDOW) : instance].tolist())] += 1
    assert any(len(prefix) == WINDOW for prefix in expected)
    assert found.keys() == expected.keys()
    draws, instances = found.total(), expected.total()
    for prefix, count in expected.items():
        mean = draws * count / instances
        assert abs(found[prefix] - mean) < 5 * mean**0.5


def test_two_domains_add_reconstruction_and_adversary(monkeypatch):
    """Each domain is reconstructed with its own items and decoder, and the encoder learns."""
    packed, drawn = batches()[0], second_rows(OTHER)

    def adversary(critic, own, second, rngs):
        first, other = (x.vectors.sum(where=x.real[:, None]) for x in (own, second))
        return 0.01 * first + 0.02 * other + critic.out.bias[...].sum()

    monkeypatch.setattr("prmkd_jax.students.recguru.draw_rows", lambda *_: drawn)
    monkeypatch.setattr("prmkd_jax.students.recguru.adversarial_loss", adversary)

    def auxiliary(params):
        return nnx.merge(PAIR, nnx.State(params)).auxiliary(packed, nnx.Rngs(0))

    loss, gradients = jax.jit(jax.value_and_grad(auxiliary))(PAIR_PARAMS)
    params = reference.to_torch(PAIR_PARAMS)
    expected = reconstruction(params, "own", packed) + reconstruction(params, "second", drawn)
    expected = expected + params["critic"]["out"]["bias"].sum()
    for domain, rows, weight in (("own", packed, 0.01), ("second", drawn, 0.02)):
        for row, column in np.argwhere(rows.instance_ids >= 0):
            user = encode(params, domain, items_of(rows, row, rows.segment_ids[row, column]))
            expected = expected + weight * user.sum()
    expected = 0.7 * expected
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    theirs = reference.gradients(params)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5 * max(np.abs(b).max(), 1), rtol=0)
    assert np.abs(theirs["encoder"][0]["qkv"]["kernel"]).max() > 1e-3
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["head"]))


@pytest.mark.parametrize("method", ["queries", "auxiliary"])
def test_dropout_stands_in_encoder_and_decoder(monkeypatch, method):
    """The reconstruction and the second domain have dropout too, at the same places."""
    config, packed = dataclasses.replace(CONFIG, num_layers=1, dropout=0.4), batches()[0]
    known = facts(WORLD, WINDOW, OTHER)

    def call(rngs):
        return getattr(nnx.merge(*create_student(config, known, 0)), method)(packed, rngs)

    def sites(rows, length):
        hidden, weights = (rows, length, WIDTH), (rows, HEADS, length, length)
        encoder = [hidden, weights, hidden, hidden]
        return encoder, [*encoder, hidden]

    monkeypatch.setattr("prmkd_jax.students.recguru.adversarial_loss", lambda *_: 0.0)
    (encoder, decoder), (second, other) = sites(5, 13), sites(65 // (WINDOW + 1), WINDOW + 1)
    expected = encoder + decoder + (second + other if method == "auxiliary" else [])
    dropped = reference.dropout_sites(monkeypatch, call)
    assert dropped == [(0.4, shape) for shape in expected]


def test_prefixes_of_one_item_have_nothing_to_reconstruct():
    """Their loss is 0, where a mean over no item would be nan."""
    segments = instance_segments(HISTORIES, ALL[:20], 1, own_slot=True)
    packed = next(pack(HISTORIES, segments, 5, 13))

    def auxiliary(params):
        return nnx.merge(GRAPHDEF, nnx.State(params)).auxiliary(packed, nnx.Rngs(0))

    assert float(jax.jit(auxiliary)(PARAMS)) == 0


def test_number_of_parameters():
    """The head is a decoder of its own; without a second domain there is no part for it."""
    linear = WIDTH * WIDTH + WIDTH
    block = 4 * linear + 2 * WIDTH * INNER + INNER + WIDTH + 4 * WIDTH
    decoder = block + 2 * linear + 2 * WIDTH
    sizes = {name: sum(x.size for x in jax.tree.leaves(PAIR_PARAMS[name])) for name in PAIR_PARAMS}
    critic = sizes.pop("critic")
    assert critic == 60 * 13 + 120 * 61 + 60 * 121 + 61
    assert sizes == {
        "own": 41 * WIDTH + decoder,
        "second": 24 * WIDTH + decoder,
        "position_embedding": (WINDOW + 1) * WIDTH,
        "encoder": block,
        "head": decoder,
    }
    assert set(PARAMS) == set(sizes) - {"second"}


def test_what_is_served_is_what_the_user_vectors_read():
    """Served parameters are those that change the vectors, but for the biases of keys."""
    rows = batches()[0]

    def user_vectors(params):
        student = nnx.merge(PAIR, nnx.State(params))
        return np.asarray(student.queries(rows)), np.asarray(student.items())

    before, read = user_vectors(PAIR_PARAMS), 0
    leaves, structure = jax.tree.flatten(PAIR_PARAMS)
    for i, leaf in enumerate(leaves):
        after = user_vectors(structure.unflatten([*leaves[:i], leaf + 1.5, *leaves[i + 1 :]]))
        changed = any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))
        read += leaf.size * changed
    # Shifting all keys of an attention shifts its logits alike and changes nothing.
    biases = served_parameters("recguru", PAIR_PARAMS) - read
    assert 0 <= biases <= 4 * WIDTH


def test_a_name_for_each_model():
    """The autoencoder alone goes by the name `recguru-ae`."""
    assert result_name(CONFIG) == "recguru-ae"
    assert result_name(student_config(student="recguru", second_domain="Arts")) == "recguru"
    assert result_name(student_config(second_domain="Arts")) == "sasrec"


def test_a_domain_of_one_user_will_do():
    """The domain's only training prefix is drawn, in the right shape."""
    known = facts(WORLD, WINDOW, from_histories([[0, 1, 2, 3]], 4)).second
    drawn = draw_rows(known, WINDOW, WINDOW - 1, nnx.Rngs(0))
    assert drawn.item_seq.shape == (1, WINDOW + 1)
    assert drawn.instance_ids[0].tolist() == [-1, 1, *[-1] * (WINDOW - 1)]


def test_seeds_of_the_autoencoder_share_a_structure():
    """One compilation serves all seeds."""
    same = create_student(CONFIG, facts(WORLD, WINDOW), 1)[0]
    assert same == GRAPHDEF
    assert hash(same) == hash(GRAPHDEF)
