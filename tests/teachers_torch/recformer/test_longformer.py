import numpy as np
import pytest
import torch
from transformers import LongformerConfig, LongformerModel

from teachers_torch.recformer import local_attention
from teachers_torch.recformer.longformer import Embeddings, Longformer
from tests.teachers_torch.recformer_worlds import ARCHITECTURE, lively, random_tokens

LENGTHS = [100, 61, 2, 1]


def longformer():
    model = Longformer(ARCHITECTURE, 0.0)
    lively(model)
    return model


def hugging_face(model):
    """transformers' own Longformer with the same weights; it has no item positions."""
    config = LongformerConfig(
        vocab_size=ARCHITECTURE.vocab_size,
        hidden_size=ARCHITECTURE.hidden_size,
        num_hidden_layers=ARCHITECTURE.num_layers,
        num_attention_heads=ARCHITECTURE.num_heads,
        intermediate_size=ARCHITECTURE.intermediate_size,
        max_position_embeddings=ARCHITECTURE.num_positions,
        type_vocab_size=4,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        attention_window=[64] * ARCHITECTURE.num_layers,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    reference = LongformerModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.item_position_embeddings.weight.zero_()
    weights = dict(model.state_dict())
    del weights["embeddings.item_position_embeddings.weight"]
    reference.load_state_dict(weights)
    return reference.eval()


def run_reference(reference, tokens):
    first = torch.zeros_like(tokens.input_ids)
    first[:, 0] = 1
    return reference(
        tokens.input_ids,
        attention_mask=tokens.real.long(),
        global_attention_mask=first,
        token_type_ids=tokens.token_types,
    ).last_hidden_state


@pytest.mark.parametrize("dense_up_to", [0, 1000], ids=["banded", "dense"])
def test_hidden_states_and_gradients_are_transformers_own(dense_up_to, monkeypatch):
    """Both the banded and the dense form equal Hugging Face's Longformer."""
    monkeypatch.setattr(local_attention, "DENSE_UP_TO", dense_up_to)
    model = longformer()
    reference = hugging_face(model)
    tokens = random_tokens(LENGTHS)
    found, expected = model(tokens), run_reference(reference, tokens)
    torch.testing.assert_close(found[tokens.real], expected[tokens.real], atol=1e-5, rtol=1e-5)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for hidden in (found, expected):
        (hidden * direction)[tokens.real].sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if name in theirs:
            torch.testing.assert_close(
                parameter.grad, theirs[name].grad, atol=2e-4, rtol=1e-4, msg=name
            )


def test_pooled_is_the_first_hidden_state():
    """The shortened last layer gives the same vector and the same gradients."""
    tokens, gradients, vectors = random_tokens(LENGTHS), [], []
    for pool in (lambda model: model.pooled(tokens), lambda model: model(tokens)[:, 0]):
        model = longformer()
        vectors.append(pool(model))
        (vectors[-1] ** 2).sum().backward()
        # What the last layer's other places are made by gets no gradient, or a zero one.
        parameters = model.named_parameters()
        gradients.append({k: p.grad for k, p in parameters if p.grad is not None and p.grad.any()})
    torch.testing.assert_close(*vectors)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_embeddings_are_four_tables_and_a_norm():
    """Positions begin at 2 and don't count padding, which has position 1."""
    tokens = random_tokens([5, 3])
    embeddings = Embeddings(ARCHITECTURE, 0.0)
    lively(embeddings)
    tables = {k: v.detach().double().numpy() for k, v in embeddings.state_dict().items()}
    positions = np.array([[2, 3, 4, 5, 6], [2, 3, 4, 1, 1]])
    total = (
        tables["word_embeddings.weight"][tokens.input_ids]
        + tables["position_embeddings.weight"][positions]
        + tables["token_type_embeddings.weight"][tokens.token_types]
        + tables["item_position_embeddings.weight"][tokens.item_positions]
    )
    centred = total - total.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    expected = expected * tables["LayerNorm.weight"] + tables["LayerNorm.bias"]
    np.testing.assert_allclose(embeddings(tokens).detach().numpy(), expected, atol=1e-5)


def test_padding_and_company_change_nothing():
    """A row has the same vector alone as in a padded batch."""
    model = longformer()
    together = model.pooled(random_tokens(LENGTHS))
    for row, length in enumerate(LENGTHS):
        tokens = random_tokens(LENGTHS)
        alone = type(tokens)(*(x[row : row + 1, :length] for x in tokens))
        torch.testing.assert_close(model.pooled(alone)[0], together[row], atol=1e-5, rtol=1e-5)


def test_what_stands_at_padding_influences_nothing():
    """Other types and item positions at padding leave all real places as they are."""
    model, tokens = longformer(), random_tokens([9, 4])
    other = tokens._replace(
        token_types=torch.where(tokens.real, tokens.token_types, 0),
        item_positions=torch.where(tokens.real, tokens.item_positions, 1),
    )
    torch.testing.assert_close(model(other)[tokens.real], model(tokens)[tokens.real])


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    model, tokens = Longformer(ARCHITECTURE, 0.5), random_tokens([9, 4])
    assert not torch.equal(model.pooled(tokens), model.pooled(tokens))
    model.eval()
    assert torch.equal(model.pooled(tokens), model.pooled(tokens))


def test_official_names_and_shapes():
    """An official checkpoint fits by the names and shapes of its tensors."""
    shapes = {name: tuple(value.shape) for name, value in longformer().state_dict().items()}
    tables = {"word": 50, "position": 130, "token_type": 4, "item_position": 6}
    for table, rows in tables.items():
        assert shapes.pop(f"embeddings.{table}_embeddings.weight") == (rows, 16)
    for layer in range(2):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            for kind in ("", "_global"):
                assert shapes.pop(f"{prefix}.attention.self.{part}{kind}.weight") == (16, 16)
                assert shapes.pop(f"{prefix}.attention.self.{part}{kind}.bias") == (16,)
        assert shapes.pop(f"{prefix}.attention.output.dense.weight") == (16, 16)
        assert shapes.pop(f"{prefix}.intermediate.dense.weight") == (24, 16)
        assert shapes.pop(f"{prefix}.intermediate.dense.bias") == (24,)
        assert shapes.pop(f"{prefix}.output.dense.weight") == (16, 24)
        for part in ("attention.output", "output"):
            assert shapes.pop(f"{prefix}.{part}.dense.bias") == (16,)
            assert shapes.pop(f"{prefix}.{part}.LayerNorm.weight") == (16,)
            assert shapes.pop(f"{prefix}.{part}.LayerNorm.bias") == (16,)
    assert shapes == {"embeddings.LayerNorm.weight": (16,), "embeddings.LayerNorm.bias": (16,)}
