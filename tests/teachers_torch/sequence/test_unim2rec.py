import numpy as np
import pytest
import torch

from teachers_torch.config import PretrainConfig, UniM2RecConfig
from teachers_torch.items.inputs import Modality
from teachers_torch.sequence.contrast import PretrainBatch
from teachers_torch.sequence.unim2rec import UniM2Rec, alignment_loss, without_one
from tests.teachers_torch.worlds import packed_batch, randomise, to_numpy

ITEMS, TEXT, IMAGE, WIDTH = 8, 5, 3, 6
HAS_TEXT = np.array([1, 1, 0, 0, 1, 1, 1, 1], dtype=bool)
HAS_IMAGE = np.array([1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)


def build(has_text=HAS_TEXT, has_image=HAS_IMAGE, fill=0.0, **changes):
    """A model with random weights; features of missing modalities hold `fill`."""
    rng = np.random.default_rng(0)
    modalities = []
    for size, bits in ((TEXT, has_text), (IMAGE, has_image)):
        features = rng.normal(size=(ITEMS, size)).astype(np.float32)
        features[~bits] = fill
        modalities.append(Modality(features, bits))
    settings = {"hidden_size": WIDTH, "num_layers": 1, "inner_size": 4, "num_experts": 2}
    config = UniM2RecConfig(**{**settings, **changes})
    model = UniM2Rec(config, modalities, max_seq_len=6, has_ids=config.id_embedding)
    randomise(model)
    return model.eval(), modalities


@pytest.fixture
def batch():
    return packed_batch([[3, 1, 4], [1, 5]], rows=1, length=8, targets=[1, 4, 6, 5, 0])


def adapted(model, index, features):
    return model.adaptors[index](torch.from_numpy(features)).detach().double().numpy()


@pytest.mark.parametrize("fill", [1e9, np.nan])
def test_a_hidden_modality_influences_nothing(batch, fill):
    """Values of 1e9 or NaN that aren't available reach neither vectors nor gradients."""
    (clean, _), (other, _) = build(fill=0.0), build(fill=fill)
    torch.testing.assert_close(clean.item_reprs(), other.item_reprs(), atol=0, rtol=0)
    for model in (clean, other):
        torch.manual_seed(0)
        model.train().loss(batch).backward()
    for (name, a), b in zip(clean.named_parameters(), other.parameters(), strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad), name


def test_without_any_image_it_is_the_text_path():
    """Without images, an item's vector is its adapted text plus its ID embedding."""
    nothing, everything = np.zeros(ITEMS, dtype=bool), np.ones(ITEMS, dtype=bool)
    model, modalities = build(everything, nothing)
    expected = adapted(model, 0, modalities[0][0]) + to_numpy(model)["item_embedding.weight"]
    np.testing.assert_allclose(model.item_reprs().detach().numpy(), expected, atol=1e-6)


def test_fusion_is_the_formula():
    """The softmax is over the available modalities; an item with none has the placeholder."""
    model, modalities = build(id_embedding=False)
    state = to_numpy(model)
    contents = np.stack([adapted(model, i, modalities[i][0]) for i in (0, 1)], axis=1)
    hidden = np.tanh(contents @ state["fusion_hidden.weight"].T)
    scores = np.exp(hidden @ state["fusion_score.weight"][0])
    scores *= np.stack([HAS_TEXT, HAS_IMAGE], axis=1)
    for item in range(ITEMS):
        if scores[item].any():
            expected = scores[item] @ contents[item] / scores[item].sum()
        else:
            expected = state["placeholder"]
        found = model.item_reprs()[item].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_id_embedding_can_be_left_out():
    """The inductive model has no ID table, and its vectors are those without the IDs."""
    with_ids, _ = build()
    without, _ = build(id_embedding=False)
    without.load_state_dict(with_ids.state_dict(), strict=False)
    assert without.item_embedding is None
    torch.testing.assert_close(
        with_ids.item_reprs(), without.item_reprs() + with_ids.item_embedding.weight
    )


def test_modality_dropout_hides_each_with_its_probability_and_never_both():
    """Each is hidden with probability 0.2, and a modality that stands alone never is."""
    model, _ = build(modality_dropout=0.2)
    torch.manual_seed(0)
    both = torch.ones(50_000, 2, dtype=torch.bool)
    visible = model._drop_modality(both)
    assert visible.any(dim=1).all()
    np.testing.assert_allclose((~visible).float().mean(0).numpy(), [0.2, 0.2], atol=0.01)
    lone = torch.tensor([[True, False], [False, True], [False, False]]).repeat(100, 1)
    assert torch.equal(model._drop_modality(lone), lone)


def test_modality_dropout_in_training_only():
    """In training only items with text and image vary; in evaluation none does."""
    model, _ = build(modality_dropout=0.5, adaptor_dropout=0.0)
    fixed = torch.randn(ITEMS, 2, WIDTH)

    def fused():
        return model._fuse(fixed, model._visible(model.available))

    assert torch.equal(fused(), fused())
    torch.manual_seed(0)
    model.train()
    draws = torch.stack([fused() for _ in range(20)]).detach()
    varies = (draws.std(dim=0) > 1e-4).any(dim=1).numpy()
    np.testing.assert_array_equal(varies, HAS_TEXT & HAS_IMAGE)


def test_alignment_is_symmetric_info_nce():
    """Both directions weigh the same, with cosines at a temperature of 0.07."""
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(2, 5, WIDTH))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image)]
    logits = unit[0] @ unit[1].T / 0.07
    to_image = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    to_text = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    expected = (to_image.mean() + to_text.mean()) / 2
    found = alignment_loss(*(torch.from_numpy(x).float() for x in (text, image)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_alignment_counts_the_batchs_items_that_have_both(batch):
    """A repeated item counts once; items without an image or outside the batch don't count."""
    plain, _ = build(align_weight=0.0)
    aligned, _ = build(align_weight=0.1)
    contents = aligned._adapt()
    both = [0, 4, 5]  # read or asked for, with text and image; 7 has both, but isn't there
    expected = 0.1 * alignment_loss(contents[both, 0], contents[both, 1])
    difference = (aligned.loss(batch) - plain.loss(batch)).detach()
    torch.testing.assert_close(difference, expected.detach(), atol=1e-5, rtol=1e-4)


def test_no_item_with_both_means_no_alignment_and_finite_gradients(batch):
    """The alignment is 0 there, so no mean over nothing gives NaN."""
    model, _ = build(HAS_TEXT, ~HAS_TEXT)
    loss = model.train().loss(batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert float(alignment_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0.0


def contrast_by_hand(model, table, rows, changed, lengths, targets):
    """L(s, e) + ½ L(s, s') in float64, row r of the batch read at table[r - 1]."""

    def encode(sequences):
        vectors = []
        for row, length in zip(sequences, lengths.tolist(), strict=True):
            positions = torch.arange(length)[None]
            hidden = model(table[row[:length] - 1][None], positions * 0 + 1, positions)[0, -1]
            vectors.append((hidden / hidden.norm()).detach().double().numpy())
        return np.stack(vectors)

    queries, augmented = encode(rows), encode(changed)
    keys = table[targets - 1].detach().double().numpy()
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    total = 0.0
    for weight, others in ((1.0, keys), (0.5, augmented)):
        for i in range(len(rows)):
            # Rows with the same target are no rivals.
            rivals = [j for j in range(len(rows)) if j == i or targets[i] != targets[j]]
            logits = others[rivals] @ queries[i] / 0.07
            lost = np.log(np.exp(logits).sum()) - queries[i] @ others[i] / 0.07
            total += weight * lost / len(rows)
    return total


@pytest.fixture
def without_images(monkeypatch):
    """A model in training whose dropout hides the image of every item that has both, and whose
    only noise that is; and the vectors of all items then."""
    model, _ = build(id_embedding=False, align_weight=0.0, dropout=0.0, adaptor_dropout=0.0)
    for adaptor in model.adaptors:
        monkeypatch.setattr(
            adaptor, "gates", lambda x, gate=adaptor.w_gate: (x @ gate).softmax(dim=-1)
        )
    seen = np.stack([HAS_TEXT, HAS_IMAGE & ~HAS_TEXT], axis=1)
    table = model._fuse(model._adapt(), torch.from_numpy(seen))
    monkeypatch.setattr(model, "_drop_modality", lambda available: without_one(available)[1])
    return model.train(), table


def test_what_modality_dropout_hides_is_not_tuned_on(batch, without_images):
    """Items whose images are hidden are read and ranked without them."""
    model, table = without_images
    users = model.user_vectors(batch, table[batch.item_seq]).detach().double().numpy()
    items = table.detach().double().numpy()
    logits = users @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T / 0.07
    own = logits[np.arange(len(logits)), batch.targets]
    expected = (np.log(np.exp(logits).sum(axis=1)) - own).mean()
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_what_modality_dropout_hides_is_not_pretrained_on(without_images):
    """Sequences and targets whose images are hidden are read without them."""
    model, table = without_images
    rows = torch.tensor([[5, 1, 6, 2], [7, 8, 0, 0], [6, 0, 0, 0]])
    lengths, targets = torch.tensor([4, 2, 1]), torch.tensor([6, 1, 5])
    expected = contrast_by_hand(model, table, rows, rows, lengths, targets)
    batch = PretrainBatch(rows, lengths, targets, rows, lengths)
    found = model.pretrain_loss(batch, PretrainConfig(sequence_weight=0.5))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_pretrain_loss_is_the_formula():
    """A variant hides the text or the image of an item that has both; all terms count."""
    rows = torch.tensor([[4, 1, 6, 2], [7, 8, 0, 0], [5, 0, 0, 0]])
    lengths, targets = torch.tensor([4, 2, 1]), torch.tensor([6, 1, 6])
    # Row r + 8 is item r without its text, r + 16 without its image; 4 and 7 keep what they have.
    changed = torch.tensor([[4, 9, 6 + 16, 2], [7, 8 + 8, 0, 0], [5 + 16, 0, 0, 0]])
    both = HAS_TEXT & HAS_IMAGE
    tables = []
    model, _ = build(id_embedding=False)
    for no_text, no_image in ((False, False), (True, False), (False, True)):
        seen = np.stack([HAS_TEXT & ~(both & no_text), HAS_IMAGE & ~(both & no_image)], axis=1)
        tables.append(model._fuse(model._adapt(), torch.from_numpy(seen)))
    expected = contrast_by_hand(model, torch.cat(tables), rows, changed, lengths, targets)
    items = [0, 3, 5, 1, 6, 7, 4]
    pairs = sorted(item for item in items if both[item])
    contents = model._adapt()
    aligned = alignment_loss(contents[pairs, 0], contents[pairs, 1])
    batch = PretrainBatch(rows, lengths, targets, changed, lengths)
    found = model.pretrain_loss(batch, PretrainConfig(sequence_weight=0.5))
    assert float(found.detach()) == pytest.approx(
        expected + 0.1 * float(aligned.detach()), rel=1e-5
    )


def test_one_modality_is_enough():
    """Without images the pre-training loss is finite, and dropout hides nothing."""
    _, modalities = build()
    config = UniM2RecConfig(hidden_size=WIDTH, num_layers=1, inner_size=4, num_experts=2)
    model = UniM2Rec(config, modalities[:1], max_seq_len=6, has_ids=False)
    rows, lengths = torch.tensor([[5, 1], [2, 0]]), torch.tensor([2, 1])
    batch = PretrainBatch(rows, lengths, torch.tensor([6, 1]), rows, lengths)
    loss = model.train().pretrain_loss(batch, PretrainConfig())
    loss.backward()
    assert bool(loss.isfinite())
    assert torch.equal(model._drop_modality(model.available), model.available)
