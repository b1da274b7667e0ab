import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from teachers_torch.recformer.longformer import Architecture
from teachers_torch.recformer.official import (
    load_official,
    official_weights,
    read_official,
    read_saved_start,
    save_start,
)
from tests.teachers_torch.recformer_worlds import (
    random_model,
    random_tokens,
    tiny_tokenizer,
)

# Heads of 64, as the official models have.
OFFICIAL = Architecture(
    vocab_size=30,
    hidden_size=128,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    num_positions=40,
    num_item_positions=6,
    pad_token_id=1,
    layer_norm_eps=1e-5,
)


def official_state(kind: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What an official class would save, and the vectors that it means."""
    model = random_model(OFFICIAL, language_head=True, num_items=4)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["longformer.embeddings.position_ids"] = torch.arange(40).expand(1, -1)
    head = {k: v for k, v in state.items() if k.startswith("lm_head.")}
    table = {"item_embedding.weight": state["item_embedding.weight"]}
    encoder = {k: v for k, v in state.items() if k.startswith("longformer.")}
    bare = {k.removeprefix("longformer."): v for k, v in encoder.items()}
    states = {
        "RecformerModel": bare,
        "RecformerForSeqRec": {**encoder, **table},
        "RecformerForSeqRec, untuned": encoder,
        "RecformerForPretraining": {**encoder, **head, "lm_head.bias": torch.zeros(30)},
        "Lightning": {f"model.{k}": v for k, v in {**encoder, **head}.items()},
        "DeepSpeed": {f"_forward_module.model.{k}": v.half() for k, v in encoder.items()},
    }
    return states[kind], model.longformer.pooled(random_tokens([9, 4], architecture=OFFICIAL))


KINDS = [
    "RecformerModel", "RecformerForSeqRec", "RecformerForSeqRec, untuned",
    "RecformerForPretraining", "Lightning", "DeepSpeed",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_official_key_set_loads(kind):
    """Whatever prefix and heads a file has, exactly its weights are loaded."""
    state, expected = official_state(kind)
    for parts in ({}, {"language_head": True, "num_items": 4}):
        model = random_model(OFFICIAL, **parts)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        load_official(model, state)
        found = model.longformer.pooled(random_tokens([9, 4], architecture=OFFICIAL))
        tolerance = 0.1 if kind == "DeepSpeed" else 1e-6
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
        for name, tensor in model.state_dict().items():
            loaded = name in official_weights(state)
            assert bool(tensor.any()) is loaded, name


def test_the_heads_two_biases_are_one():
    """transformers 4 and 5 keep the decoder's bias under two names; the decoder's counts."""
    state, _ = official_state("RecformerForPretraining")
    assert official_weights(state)["lm_head.decoder.bias"].any()
    bias = state.pop("lm_head.decoder.bias")
    state["lm_head.bias"] = bias
    assert torch.equal(official_weights(state)["lm_head.decoder.bias"], bias)
    assert "lm_head.bias" not in official_weights(state)


def test_what_does_not_fit_is_listed_in_one_line():
    """Missing, surplus and misshapen weights are listed together, and nothing is loaded."""
    state, _ = official_state("RecformerModel")
    del state["encoder.layer.1.attention.self.key_global.bias"]
    del state["embeddings.word_embeddings.weight"]
    state["encoder.layer.2.output.dense.bias"] = torch.zeros(3)
    state["embeddings.LayerNorm.bias"] = torch.zeros(3)
    model = random_model(OFFICIAL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_official(model, state, "some.bin")
    assert str(error.value) == (
        "some.bin: found weights that don't fit (missing: "
        "longformer.embeddings.word_embeddings.weight, "
        "longformer.encoder.layer.1.attention.self.key_global.bias; "
        "surplus: longformer.encoder.layer.2.output.dense.bias; of another shape: "
        "longformer.embeddings.LayerNorm.bias [3] in place of [128]), expected this model's"
    )
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_sizes_are_read_off_the_file(wrap, tmp_path):
    """The file gives the model's sizes, and its item table isn't taken over."""
    state, _ = official_state("RecformerForSeqRec")
    torch.save(wrap(state), tmp_path / "recformer.ckpt")
    architecture, weights = read_official(tmp_path / "recformer.ckpt")
    assert architecture == OFFICIAL
    assert "item_embedding.weight" not in weights
    load_official(random_model(architecture), weights)


class Bomb:
    """Runs `print` when it is unpickled."""

    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint of torch.save"),
        (b"no pickle", "no checkpoint of torch.save"),
        (pickle.dumps(Bomb()), "no checkpoint of torch.save"),
        ([1, 2], "no mapping of tensors"),
        ({"state_dict": {"a": 1}}, "no mapping of tensors"),
        ({"a": torch.zeros(2)}, "missing longformer.embeddings.word_embeddings.weight"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path, capsys):
    """Each gives one line with the file's name, and no code in the file runs."""
    path = tmp_path / "x.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        read_official(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "boom" not in capsys.readouterr().out


def test_own_starts_come_back_as_they_went(tmp_path):
    """Weights, sizes and tokenizer stay the same, and a second save replaces the first."""
    model = random_model(language_head=True)
    for number in (1, 2):
        save_start(model, tiny_tokenizer(), {"number": number}, tmp_path / "start")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
    architecture, weights = read_saved_start(tmp_path / "start")
    assert architecture == model.architecture
    torch.testing.assert_close(weights, dict(model.state_dict()), rtol=0, atol=0)
    assert json.loads((tmp_path / "start" / "recformer.json").read_text())["number"] == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start" / "tokenizer")
    words = "red lamps, acme"
    found = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert found == tiny_tokenizer()(words, add_special_tokens=False)["input_ids"]
    assert np.unique(found).size > 3


@pytest.mark.parametrize("name", ["recformer.json", "weights.safetensors"])
def test_damaged_starts_are_refused(name, tmp_path):
    """A damaged card and damaged weights are both a UserError."""
    save_start(random_model(), tiny_tokenizer(), {}, tmp_path / "start")
    (tmp_path / "start" / name).write_bytes(b"{")
    with pytest.raises(UserError, match="expected what pre-training wrote"):
        read_saved_start(tmp_path / "start")


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 0), ("hidden_size", -1), ("num_layers", 3000), ("layer_norm_eps", 0)],
)
def test_sizes_that_nothing_can_be_built_of_are_refused(field, value, tmp_path):
    """Zero, negative and excessive sizes are refused even under a right digest."""
    save_start(random_model(), tiny_tokenizer(), {}, tmp_path / "start")
    card = read_sealed_json(tmp_path / "start" / "recformer.json")
    card["architecture"] = {**card["architecture"], field: value}
    write_sealed_json(tmp_path / "start" / "recformer.json", card)
    with pytest.raises(UserError, match="expected what pre-training wrote"):
        read_saved_start(tmp_path / "start")


@pytest.mark.parametrize("shape", [(128,), (), (30, 0)])
@pytest.mark.parametrize("table", ["word", "position"])
def test_official_tables_of_other_forms_are_refused(table, shape, tmp_path):
    weights, _ = official_state("RecformerModel")
    weights[f"embeddings.{table}_embeddings.weight"] = torch.zeros(shape)
    torch.save(weights, tmp_path / "model.bin")
    with pytest.raises(UserError, match=f"{table}_embeddings.weight: found shape"):
        read_official(tmp_path / "model.bin")
