import dataclasses

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import RecformerConfig
from teachers_torch.recformer import start as recformer_start
from teachers_torch.recformer.official import save_start
from teachers_torch.recformer.start import (
    build_model,
    load_start,
    load_tokenizer,
    make_reader,
    start_identity,
)
from tests.teachers_torch.recformer_worlds import WORDS, random_model, tiny_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    """A folder that a tokenizer is loaded from."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def config(tokenizer):
    return RecformerConfig(
        init="random", tokenizer=tokenizer, hidden_size=8, num_heads=2, max_tokens=30
    )


def test_a_random_start_is_as_large_as_it_is_asked_to_be(config):
    """Sizes follow the flags, words have a deviation near 0.02, and padding's row is zero."""
    start = load_start(config, max_items=7)
    model = build_model(start, config)
    sizes = start.architecture
    assert (sizes.vocab_size, sizes.hidden_size, sizes.num_layers) == (len(WORDS), 8, 2)
    assert (sizes.max_tokens, sizes.num_item_positions, sizes.pad_token_id) == (30, 8, 1)
    words = model.longformer.embeddings.word_embeddings.weight.detach()
    assert 0.01 < float(words.std()) < 0.03
    assert not words[1].any()
    assert not model.longformer.encoder.layer[0].output.dense.bias.any()


def test_an_encoders_folder_is_converted(config, tokenizer, tmp_path):
    """The encoder's words and tokenizer are used, with as many layers as asked for."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "pad_token_id": 1}
    encoder = BertModel(BertConfig(**sizes, num_hidden_layers=3, intermediate_size=8))
    encoder.save_pretrained(tokenizer)
    config = dataclasses.replace(config, init=tokenizer, tokenizer="", num_layers=2)
    start = load_start(config, max_items=7)
    model = build_model(start, config, language_head=True, num_items=4)
    words = encoder.embeddings.word_embeddings.weight
    assert torch.equal(model.longformer.embeddings.word_embeddings.weight, words)
    assert torch.equal(model.lm_head.decoder.weight, words)
    assert model.item_embedding.weight.shape == (4, 16)
    assert start.architecture.num_layers == 2
    assert start.tokenizer.cls_token_id == 0


def test_a_pretrained_folder_keeps_its_head(config, tmp_path):
    """Pre-training goes on with the folder's language head and all its other weights."""
    before = random_model(language_head=True)
    save_start(before, tiny_tokenizer(), {}, tmp_path / "own")
    config = dataclasses.replace(config, init=str(tmp_path / "own"), tokenizer="/ignored")
    after = build_model(load_start(config, 7), config, language_head=True)
    torch.testing.assert_close(dict(after.state_dict()), dict(before.state_dict()))


def test_an_official_file_needs_a_tokenizer(config, tmp_path, monkeypatch):
    """The tokenizer is the configured one, and without one it is Longformer's."""
    asked = []

    def load(name):
        asked.append(name)
        return tiny_tokenizer()

    monkeypatch.setattr(recformer_start, "load_tokenizer", load)
    sizes = dataclasses.replace(random_model().architecture, hidden_size=64, num_heads=1)
    torch.save(random_model(sizes).state_dict(), tmp_path / "recformer.bin")
    config = dataclasses.replace(config, init=str(tmp_path / "recformer.bin"))
    assert load_start(config, 7).architecture == sizes
    load_start(dataclasses.replace(config, tokenizer=""), 7)
    assert asked == [config.tokenizer, "allenai/longformer-base-4096"]


def test_what_does_not_go_together_is_refused(config, tmp_path):
    """Too many tokens or positions for the start is an error that names the flag."""
    small = dataclasses.replace(random_model().architecture, vocab_size=10)
    save_start(random_model(small), tiny_tokenizer(), {}, tmp_path / "small")
    save_start(random_model(), tiny_tokenizer(), {}, tmp_path / "own")
    for name, changes, message in [
        ("small", {}, "--recformer_tokenizer: found 35 tokens, padding 1, expected at most 10"),
        ("own", {"max_tokens": 129}, "--recformer_max_tokens: found 129, expected at most 128"),
    ]:
        bad = dataclasses.replace(config, init=str(tmp_path / name), **changes)
        with pytest.raises(UserError, match=message):
            load_start(bad, 7)
    with pytest.raises(UserError, match="--recformer_tokenizer: found '/nowhere', expected a"):
        load_tokenizer("/nowhere")
    with pytest.raises(UserError, match="--init: recformer=/nowhere: expected 'random'"):
        load_start(dataclasses.replace(config, init="/nowhere", tokenizer=""), 7)


def test_identity_follows_the_content(config, tokenizer, tmp_path):
    """Five starts have five identities, and a file's identity changes with its content."""
    file = tmp_path / "x.bin"
    file.write_bytes(b"1")
    found = {}
    for name in ("random", "all-MiniLM-L6-v2", "org/model", str(file), tokenizer):
        found[name] = start_identity(dataclasses.replace(config, init=name))["start"]
    assert len(set(found.values())) == 5
    assert found["org/model"] == "hub:org/model"
    file.write_bytes(b"2")
    assert start_identity(dataclasses.replace(config, init=str(file)))["start"] != found[str(file)]
    own = start_identity(config)["tokenizer"]
    assert own == found[tokenizer]
    assert start_identity(dataclasses.replace(config, tokenizer=""))["tokenizer"] == ""


def test_the_reader_has_the_starts_own_ids(config, tmp_path):
    """First token and padding are the start's, and there are no more items than positions."""
    start = load_start(config, max_items=7)
    catalogue = Catalogue({"title": ("red lamp", "blue")})
    for max_items, expected in ((3, 3), (50, 7)):
        reader = make_reader(start, catalogue, config, max_items, Cache(tmp_path))
        assert (reader.first_id, reader.pad_id, reader.max_tokens) == (0, 1, 30)
        assert (reader.max_items, reader.padding_item_position) == (expected, 7)
    assert reader.sequence(np.array([1])).ids.tolist() == [0, 5, 11]


def test_the_bundled_start_is_real():
    """The default teacher begins with two layers and the vocabulary of all-MiniLM-L6-v2."""
    config = RecformerConfig()
    start = load_start(config, max_items=50)
    sizes = start.architecture
    assert (sizes.hidden_size, sizes.num_layers, sizes.num_heads) == (384, 2, 12)
    assert (sizes.vocab_size, sizes.max_tokens, sizes.num_item_positions) == (30522, 512, 51)
    first, pad = start.tokenizer.convert_tokens_to_ids(["[CLS]", "[PAD]"])
    assert (start.tokenizer.cls_token_id, start.tokenizer.pad_token_id) == (first, pad) == (101, 0)
    assert len(start.weights) == 4 + 2 + 2 * 22
