import numpy as np
import pytest
import torch

from teachers_torch.config import UniSRecConfig
from teachers_torch.sequence.unisrec import UniSRec
from tests.teachers_torch.worlds import packed_batch, randomise

ITEMS, TEXT, WIDTH = 7, 5, 8
SEGMENTS, TARGETS = [[3, 1, 4], [1, 5]], [1, 4, 6, 5, 0]


def small(**changes):
    settings = {"hidden_size": WIDTH, "num_layers": 1, "inner_size": 4, "num_experts": 3}
    return UniSRecConfig(**{**settings, **changes})


def build(*, transductive=False, **changes):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ITEMS, TEXT)).astype(np.float32)
    model = UniSRec(small(**changes), vectors, max_seq_len=6, transductive=transductive)
    randomise(model)
    return model.eval()


@pytest.fixture
def batch():
    return packed_batch(SEGMENTS, rows=1, length=8, targets=TARGETS)


def softmax_loss(model, batch, table, targets):
    """Mean cross-entropy of cosine / 0.07 in float64, from the model's own instance vectors."""
    read = model.item_reprs()[batch.item_seq]
    users = model.user_vectors(batch, read).detach().double().numpy()
    table = table.detach().double().numpy()
    logits = users @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T / 0.07
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets])


@pytest.mark.parametrize("transductive", [False, True])
def test_loss_with_pad_as_a_class(batch, transductive):
    """[PAD] is one more class, with its ID row where there are IDs."""
    model = build(transductive=transductive)
    pad = model.moe_adaptor(torch.zeros(1, TEXT))
    if transductive:
        pad = pad + model.item_embedding.weight[:1]
    table = torch.cat([pad, model.item_reprs()])
    expected = softmax_loss(model, batch, table, np.array(TARGETS) + 1)
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_loss_without_pad_class(batch):
    """The softmax is over the items alone, so the loss is smaller."""
    model = build(pad_class=False)
    expected = softmax_loss(model, batch, model.item_reprs(), np.array(TARGETS))
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)
    assert expected < float(build(pad_class=True).loss(batch).detach())


def test_item_vectors_are_adapted_text_plus_id():
    """The table has no [PAD] row, and histories are read with the same vectors."""
    text, both = build(), build(transductive=True)
    both.load_state_dict(text.state_dict(), strict=False)
    ids = both.item_embedding.weight[1:]
    assert text.item_reprs().shape == (ITEMS, WIDTH)
    torch.testing.assert_close(both.item_reprs(), text.item_reprs() + ids)
    torch.testing.assert_close(both.read(torch.tensor([[2]]))[0], both.item_reprs()[1:2])


def test_pad_gets_a_gradient_only_as_a_class(batch):
    """Row 0 of the ID table is learned through the softmax, as in the official code."""
    for pad_class in (True, False):
        model = build(transductive=True, pad_class=pad_class)
        model.loss(batch).backward()
        assert bool(model.item_embedding.weight.grad[0].any()) is pad_class


def test_training_draws_fresh_noise(batch):
    """Even without dropout the loss varies in training; in evaluation it doesn't."""
    model = build(dropout=0.0, adaptor_dropout=0.0)
    assert torch.equal(model.loss(batch), model.loss(batch))
    model.train()
    assert not torch.equal(model.loss(batch), model.loss(batch))


def test_official_parameter_names():
    """An official fine-tuned checkpoint fits by names and shapes."""
    vectors = np.zeros((11, 768), dtype=np.float32)
    model = UniSRec(UniSRecConfig(), vectors, max_seq_len=50, transductive=True)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(shapes) == 54  # 55 in the official file, with plm_embedding.weight
    assert shapes["item_embedding.weight"] == (12, 300)
    assert shapes["position_embedding.weight"] == (50, 300)
    assert shapes["LayerNorm.weight"] == shapes["LayerNorm.bias"] == (300,)
    for layer in (0, 1):
        attention = f"trm_encoder.layer.{layer}.multi_head_attention"
        feed_forward = f"trm_encoder.layer.{layer}.feed_forward"
        for part in ("query", "key", "value", "dense"):
            assert shapes[f"{attention}.{part}.weight"] == (300, 300)
            assert shapes[f"{attention}.{part}.bias"] == (300,)
        assert shapes[f"{feed_forward}.dense_1.weight"] == (256, 300)
        assert shapes[f"{feed_forward}.dense_2.weight"] == (300, 256)
        assert shapes[f"{attention}.LayerNorm.bias"] == (300,)
        assert shapes[f"{feed_forward}.LayerNorm.weight"] == (300,)
    assert shapes["moe_adaptor.w_gate"] == shapes["moe_adaptor.w_noise"] == (768, 8)
    assert shapes["moe_adaptor.experts.7.lin.weight"] == (300, 768)


def test_trained_parameters_of_the_adaptor_side_match_the_official_count():
    """With positions and Transformer frozen, 1,862,232 parameters are trained."""
    vectors = np.zeros((3, 768), dtype=np.float32)
    model = UniSRec(UniSRecConfig(), vectors, max_seq_len=50, transductive=False)
    frozen = ("position_embedding", "trm_encoder")
    trained = [p.numel() for name, p in model.named_parameters() if not name.startswith(frozen)]
    assert sum(trained) == 1_862_232


def test_untrained_text_only_model_trains_without_nan(batch):
    """The norm of [PAD], which starts as the zero vector, has a finite gradient."""
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).normal(size=(ITEMS, TEXT)).astype(np.float32)
    model = UniSRec(small(), vectors, max_seq_len=6, transductive=False)
    model.loss(batch).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
