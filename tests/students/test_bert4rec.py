import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BertConfig, BertForMaskedLM

from prmkd_jax.data.packing import instance_segments, pack
from prmkd_jax.students.bert4rec import choose_slots
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from tests.students import reference
from tests.worlds import facts, random_world, student_config

CONFIG = student_config(
    student="bert4rec", hidden_size=12, num_layers=2, num_heads=3, mask_probability=0.3
)
WORLD = random_world()
HISTORIES = WORLD.interactions
WINDOW = window(CONFIG, 7)
FIRST = HISTORIES.indptr[HISTORIES.users]
ALL = np.flatnonzero(np.arange(len(FIRST)) > FIRST)
SEGMENTS = instance_segments(HISTORIES, ALL, WINDOW, own_slot=True)
ROWS, LENGTH = 5, 13
GRAPHDEF, STATE = create_student(CONFIG, facts(WORLD, WINDOW), 0)
FRESH = nnx.to_pure_dict(STATE)
PARAMS = reference.random_params(FRESH, seed=5)
MASK = WORLD.num_items


@jax.jit
def scores_of(params, rows):
    """Scores [R, L, V] without dropout."""
    student = nnx.merge(GRAPHDEF, nnx.State(params))
    scores = student.score(student.queries(rows), student.items())
    return scores.reshape(*rows.item_seq.shape, -1)


def batches():
    return list(pack(HISTORIES, SEGMENTS, ROWS, LENGTH))


def by_instance(packed_batches) -> dict[int, np.ndarray]:
    return reference.by_instance(lambda packed: scores_of(PARAMS, packed), packed_batches)


def prefix(instance: int) -> list[int]:
    """As many of the newest items as fit beside the mask."""
    return HISTORIES.items[max(FIRST[instance], instance - WINDOW) : instance].tolist()


def bert() -> BertForMaskedLM:
    """The Transformers library's BERT in float64 with our parameters; [MASK] is its last word."""
    config = BertConfig(
        vocab_size=MASK + 1,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=10,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        max_position_embeddings=WINDOW + 1,
        type_vocab_size=1,
        attn_implementation="eager",
    )
    model = BertForMaskedLM(config).double().eval()

    def put(theirs, ours):
        scale = ours.get("kernel", ours.get("scale"))
        assert theirs.weight.shape == scale.T.shape
        theirs.weight.data = torch.tensor(scale.T, dtype=torch.float64)
        theirs.bias.data = torch.tensor(ours["bias"], dtype=torch.float64)

    tables = [PARAMS[f"{name}_embedding"]["table"] for name in ("item", "mask")]
    embeddings, head = model.bert.embeddings, model.cls.predictions
    embeddings.word_embeddings.weight.data = torch.tensor(np.concatenate(tables)).double()
    places = torch.tensor(PARAMS["position_embedding"]["table"]).double()
    assert embeddings.position_embeddings.weight.shape == places.shape
    embeddings.position_embeddings.weight.data = places
    embeddings.token_type_embeddings.weight.data.zero_()
    put(embeddings.LayerNorm, PARAMS["input_norm"])
    for number, layer in enumerate(model.bert.encoder.layer):
        ours = PARAMS["blocks"][number]
        kernels = np.split(ours["qkv"]["kernel"], 3, axis=1)
        biases = np.split(ours["qkv"]["bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            put(getattr(layer.attention.self, name), {"kernel": kernel, "bias": bias})
        put(layer.attention.output.dense, ours["out"])
        put(layer.attention.output.LayerNorm, ours["attention_norm"])
        put(layer.intermediate.dense, ours["wide"])
        put(layer.output.dense, ours["narrow"])
        put(layer.output.LayerNorm, ours["output_norm"])
    put(head.transform.dense, PARAMS["projection"])
    put(head.transform.LayerNorm, PARAMS["output_norm"])
    model.tie_weights()
    bias = np.append(PARAMS["item_bias"], 0.0)
    head.bias.data = head.decoder.bias.data = torch.tensor(bias, dtype=torch.float64)
    return model


def logits(model, items: list[int]) -> torch.Tensor:
    """Logits [length, V] of all places of one sequence."""
    return model(torch.tensor([items])).logits[0, :, :MASK]


def test_every_prefix_and_its_mask_equal_transformers_bert():
    """Scores agree for all prefixes, those longer than the window included."""
    model, found = bert(), by_instance(batches())
    assert sorted(found) == ALL.tolist()
    assert sum(i - FIRST[i] > WINDOW for i in ALL) > 50
    for instance, scores in found.items():
        with torch.no_grad():
            expected = logits(model, [*prefix(instance), MASK])[-1]
        np.testing.assert_allclose(scores, expected, atol=2e-5, rtol=0)


def test_a_prefix_keeps_as_many_items_as_fit_beside_the_mask():
    """The oldest of six items still changes the scores, and the mask has its own position."""
    assert WINDOW == 6
    assert PARAMS["position_embedding"]["table"].shape[0] == 7
    assert len(prefix(max(ALL, key=lambda i: i - FIRST[i]))) == 6
    short = next(i for i in ALL if i - FIRST[i] == 6)
    segments = instance_segments(HISTORIES, np.array([short]), WINDOW, own_slot=True)
    packed = next(pack(HISTORIES, segments, 1, WINDOW + 1))
    before = np.asarray(scores_of(PARAMS, packed))
    item_seq = packed.item_seq.copy()
    item_seq[0, 0] = (item_seq[0, 0] + 1) % WORLD.num_items
    after = np.asarray(scores_of(PARAMS, packed._replace(item_seq=item_seq)))
    assert (before[0, -1] != after[0, -1]).any()


def test_gradients_equal_transformers():
    """Gradients of all parameters agree, with several prefixes in a row."""
    packed = batches()[0]
    asked = packed.instance_ids >= 0
    weights = np.random.default_rng(1).normal(size=(ROWS, LENGTH, WORLD.num_items))

    @jax.jit
    @jax.grad
    def gradient(params):
        return (scores_of(params, packed) * np.where(asked[..., None], weights, 0)).sum()

    model = bert()
    model.zero_grad()
    loss = sum(
        logits(model, [*prefix(packed.instance_ids[row, column]), MASK])[-1]
        @ torch.tensor(weights[row, column])
        for row, column in np.argwhere(asked)
    )
    loss.backward()
    compare_gradients(gradient(PARAMS), model)


def compare_gradients(found, model) -> None:
    """Asserts that ours are what BERT has collected."""
    found = jax.device_get(found)
    head, first = model.cls.predictions, model.bert.encoder.layer[0]
    words, places = (
        getattr(model.bert.embeddings, f"{name}_embeddings").weight.grad
        for name in ("word", "position")
    )
    pairs = [
        (found["item_embedding"]["table"], words[:MASK]),
        (found["mask_embedding"]["table"], words[MASK:]),
        (found["item_bias"], head.decoder.bias.grad[:MASK]),
        (found["projection"]["kernel"].T, head.transform.dense.weight.grad),
        (found["blocks"][0]["wide"]["bias"], first.intermediate.dense.bias.grad),
        (found["position_embedding"]["table"], places),
    ]
    for ours, theirs in pairs:
        assert theirs.abs().max() > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


def chosen_by(monkeypatch, packed, chosen: list[int]) -> None:
    """Makes the cloze mask these slots, and one more that doesn't count."""
    slots = np.array([*chosen, int(np.flatnonzero(packed.segment_ids == 0)[0])])
    counted = np.arange(len(slots)) < len(chosen)
    monkeypatch.setattr(
        "prmkd_jax.students.bert4rec.choose_slots", lambda *_: (slots, jax.numpy.asarray(counted))
    )


def test_cloze_is_the_mean_cross_entropy_of_the_masked_items(monkeypatch):
    """Loss and gradient equal BERT's, taken at the masked slots of prefixes alone."""
    config = student_config(**{**vars(CONFIG), "dropout": 0.0, "auxiliary_weight": 0.7})
    graphdef = create_student(config, facts(WORLD, WINDOW), 0)[0]
    packed, model = batches()[0], bert()
    real = np.flatnonzero((packed.segment_ids > 0) & (packed.instance_ids < 0))
    chosen = np.random.default_rng(0).permutation(real)[:12].tolist()
    chosen_by(monkeypatch, packed, chosen)

    @jax.jit
    @jax.value_and_grad
    def auxiliary(params):
        return nnx.merge(graphdef, nnx.State(params)).auxiliary(packed, nnx.Rngs(0))

    found, gradient = auxiliary(PARAMS)
    losses, ids = [], np.where(packed.instance_ids < 0, packed.segment_ids, 0).reshape(-1)
    for segment in set(ids[chosen]):
        places = np.flatnonzero(ids == segment)
        items = packed.item_seq.reshape(-1)[places]
        hidden = [
            MASK if place in chosen else item for place, item in zip(places, items, strict=True)
        ]
        rows = torch.log_softmax(logits(model, hidden), dim=-1)
        losses += [-rows[n, items[n]] for n, place in enumerate(places) if place in chosen]
    assert len(losses) == 12
    expected = 0.7 * torch.stack(losses).mean()
    assert float(found) == pytest.approx(expected.item(), rel=1e-5)
    model.zero_grad()
    expected.backward()
    compare_gradients(gradient, model)


@pytest.mark.parametrize("method", ["queries", "auxiliary"])
def test_dropout_stands_where_berts_does(monkeypatch, method):
    """The cloze has the same dropout as the queries, at the same places."""
    ask, packed = getattr(nnx.merge(GRAPHDEF, nnx.State(PARAMS)), method), batches()[0]
    hidden, weights = (ROWS, LENGTH, 12), (ROWS, 3, LENGTH, LENGTH)
    shapes = [hidden] + [weights, hidden, hidden] * 2
    dropped = reference.dropout_sites(monkeypatch, lambda rngs: ask(packed, rngs))
    assert dropped == [(CONFIG.dropout, shape) for shape in shapes]


def test_cloze_draws_from_the_items_alone(monkeypatch):
    """A mask's slot has no item to predict, so it is never among those that may be masked."""
    seen = []

    def choose(real, *_):
        seen.append(np.asarray(real))
        return jax.numpy.zeros(1, int), jax.numpy.ones(1, bool)

    monkeypatch.setattr("prmkd_jax.students.bert4rec.choose_slots", choose)
    packed = batches()[0]
    nnx.merge(GRAPHDEF, nnx.State(PARAMS)).auxiliary(packed, nnx.Rngs(0))
    expected = (packed.segment_ids > 0) & (packed.instance_ids < 0)
    np.testing.assert_array_equal(seen[0], expected)


def test_a_share_of_the_real_slots_is_masked_anew_each_time():
    """Real slots are equally likely, the share is of their number, and padding is left out."""
    real = np.zeros((4, 10), dtype=bool)
    real[:2] = True
    times = np.zeros(40)
    for seed in range(300):
        slots, counted = choose_slots(jax.numpy.asarray(real), 0.3, jax.random.key(seed))
        assert slots.shape == counted.shape == (12,)
        taken = np.asarray(slots)[np.asarray(counted)]
        assert len(set(taken.tolist())) == len(taken) == 6
        times[taken] += 1
    assert not times[20:].any()
    np.testing.assert_allclose(times[:20] / 300, 0.3, atol=0.11)
    one = np.zeros((4, 10), dtype=bool)
    one[3, 3] = True
    slots, counted = choose_slots(jax.numpy.asarray(one), 0.3, jax.random.key(0))
    assert np.asarray(slots)[np.asarray(counted)].tolist() == [33]


def test_number_of_parameters():
    """The item table is the output's matrix too, and the head has a LayerNorm."""
    width, inner, items, places = 12, 10, WORLD.num_items, WINDOW + 1
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * 2 * width
    head = width * width + width + 2 * width + items
    expected = (items + 1 + places) * width + 2 * width + 2 * block + head
    assert sum(leaf.size for leaf in jax.tree.leaves(FRESH)) == expected
    assert not FRESH["item_bias"].any()
