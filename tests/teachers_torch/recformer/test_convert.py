import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LongformerConfig,
    LongformerForMaskedLM,
    LongformerModel,
    RobertaConfig,
    RobertaModel,
)

from prmkd_jax.common.errors import UserError
from teachers_torch.recformer.convert import convert, load_encoder
from teachers_torch.recformer.longformer import Tokens
from teachers_torch.recformer.model import Recformer
from teachers_torch.recformer.official import load_official
from tests.teachers_torch.recformer_worlds import lively

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 24, "max_position_embeddings": 22,
}  # fmt: skip


def encoder(model):
    lively(model)
    return model.eval()


def bert(**changes):
    return encoder(BertModel(BertConfig(**{**SIZES, **changes}, pad_token_id=0)))


def roberta():
    config = RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1)
    return encoder(RobertaModel(config))


def recformer(model, num_layers=0, max_tokens=20, **parts):
    architecture, weights = convert(model, num_layers, max_tokens, max_items=5)
    made = Recformer(architecture, 0.0, **parts)
    load_official(made, weights)
    return made.eval()


def plain_text(pad):
    """Two sentences shorter than the window, so that every token sees all."""
    real = torch.arange(18) < torch.tensor([[18], [7]])
    words = torch.randint(3, 50, (2, 18), generator=torch.Generator().manual_seed(0))
    words = torch.where(real, words, pad)
    types = torch.where(real, torch.arange(18) % 3, 3)
    return Tokens(words, types, torch.zeros_like(words), real)


@pytest.mark.parametrize(("make", "pad"), [(bert, 0), (roberta, 1)])
def test_a_converted_encoder_reads_short_texts_as_before(make, pad):
    """Positions, token types and global projections give the encoder's own hidden states."""
    model, tokens = make(), plain_text(pad)
    made = recformer(model)
    with torch.no_grad():
        made.longformer.embeddings.item_position_embeddings.weight.zero_()
    found = made.longformer(tokens)
    expected = model(tokens.input_ids, attention_mask=tokens.real.long()).last_hidden_state
    torch.testing.assert_close(found[tokens.real], expected[tokens.real], atol=1e-5, rtol=1e-5)


def test_positions_are_repeated_beyond_the_last():
    """Long inputs get the encoder's positions again from the first on."""
    model = bert()
    table = model.embeddings.position_embeddings.weight
    made = recformer(model, max_tokens=50)
    assert made.architecture.max_tokens == 50
    found = made.longformer.embeddings.position_embeddings.weight[1:]
    torch.testing.assert_close(found, torch.cat([table, table, table])[:50])


@pytest.mark.parametrize(("number", "layers"), [(1, [2]), (2, [0, 2])])
def test_fewer_layers_are_spread_and_end_with_the_last(number, layers):
    """Two of three layers are the first and the last; more than there are is refused."""
    made = recformer(bert(), num_layers=number)
    assert made.architecture.num_layers == len(made.longformer.encoder.layer) == number
    for place, layer in enumerate(layers):
        query = bert().encoder.layer[layer].attention.self.query.weight
        found = made.longformer.encoder.layer[place].attention.self
        assert torch.equal(found.query.weight, query)
        assert torch.equal(found.query_global.weight, query)
    with pytest.raises(UserError, match="--recformer_num_layers: found 4, expected at most 3"):
        convert(bert(), 4, 20, 5)


def test_a_longformer_keeps_all_that_it_has():
    """Layers, global projections and language head stay, whatever num_layers says."""
    config = LongformerConfig(**SIZES, pad_token_id=1, type_vocab_size=1, attention_window=512)
    model = encoder(LongformerForMaskedLM(config))
    made = recformer(model, num_layers=1, language_head=True)
    assert made.architecture.num_layers == 3
    assert made.architecture.attention_window == 64
    theirs, ours = model.state_dict(), made.state_dict()
    types = theirs.pop("longformer.embeddings.token_type_embeddings.weight")
    found = ours["longformer.embeddings.token_type_embeddings.weight"]
    assert torch.equal(found, types.repeat(4, 1))
    compared = [name for name in theirs if name in ours]
    assert len(compared) == len(ours) - 2
    for name in compared:
        assert torch.equal(ours[name], theirs[name]), name


def test_item_positions_are_drawn():
    """Their deviation is about 0.02, so items are told apart from the start."""
    torch.manual_seed(0)
    table = recformer(bert()).longformer.embeddings.item_position_embeddings.weight
    assert table.shape == (6, 16)
    assert 0.01 < float(table.detach().std()) < 0.03


def test_other_encoders_are_refused(tmp_path):
    """DistilBERT, a BERT with ReLU and one that sees no later token aren't taken for BERT."""
    config = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=8)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    bert(hidden_act="relu").save_pretrained(tmp_path / "relu")
    bert(is_decoder=True).save_pretrained(tmp_path / "decoder")
    for name in ("distilbert", "relu", "decoder"):
        with pytest.raises(UserError, match="expected a BERT-like encoder"):
            load_encoder(str(tmp_path / name))
    with pytest.raises(UserError, match="--init: recformer=/nowhere: expected 'random'"):
        load_encoder("/nowhere")


def test_a_configuration_without_padding_is_refused(tmp_path):
    """The token that stands for padding, and where positions begin, are in the config alone."""
    model = bert()
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="found no pad_token_id in its config"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "longformer"])
def test_an_encoder_that_lacks_weights_is_refused(kind, tmp_path):
    """Hugging Face would draw them at random; a pooler and a language head may be missing."""
    config = LongformerConfig(**SIZES, pad_token_id=1, type_vocab_size=1)
    model = bert() if kind == "bert" else encoder(LongformerModel(config))
    weights = {name: w for name, w in model.state_dict().items() if "pooler" not in name}
    model.save_pretrained(tmp_path, state_dict=dict(weights))
    load_encoder(str(tmp_path))
    lost = "encoder.layer.1.attention.self.query.weight"
    del weights[lost]
    model.save_pretrained(tmp_path, state_dict=dict(weights))
    told = f"found an encoder without 1 of its weights, such as .*{lost}, expected all"
    with pytest.raises(UserError, match=told):
        load_encoder(str(tmp_path))


def test_folders_are_read(tmp_path):
    """A folder of save_pretrained gives back its exact weights."""
    model = bert()
    model.save_pretrained(tmp_path)
    found = load_encoder(str(tmp_path)).state_dict()
    torch.testing.assert_close(dict(found), dict(model.state_dict()), rtol=0, atol=0)
