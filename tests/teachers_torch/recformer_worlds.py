"""A tokenizer of a few words and small Recformers, shared by the tests."""

import dataclasses

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from teachers_torch.config import RecformerConfig
from teachers_torch.recformer.longformer import Architecture, Tokens
from teachers_torch.recformer.model import Recformer, RecformerTeacher
from teachers_torch.recformer.tokens import Reader, tokenize
from tests.teachers_torch.worlds import randomise

WORDS = [
    "<s>", "<pad>", "</s>", "<unk>", "<mask>", "title", "brand", "category", "item", ".",
    "red", "blue", "lamp", "##s", "acme", *map(str, range(20)),
]  # fmt: skip
ARCHITECTURE = Architecture(
    vocab_size=50,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    intermediate_size=24,
    num_positions=130,
    num_item_positions=6,
    pad_token_id=1,
    layer_norm_eps=1e-5,
)
CONFIG = RecformerConfig(init="random", max_tokens=24, tokens_at_once=64, dropout=0.0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Splits at blanks and punctuation; the plural "lamps" is one word of two tokens."""
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def ids(text: str) -> list[int]:
    """Token ids of words apart."""
    return [WORDS.index(word) for word in text.split()]


def random_tokens(lengths: list[int], seed: int = 0, architecture=ARCHITECTURE) -> Tokens:
    """Random sequences, padded as Recformer's are."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    real = np.arange(shape[1]) < np.array(lengths)[:, None]
    words = rng.integers(2, architecture.vocab_size, size=shape)
    types = rng.integers(1, 3, size=shape)
    positions = np.sort(rng.integers(1, architecture.num_item_positions, size=shape), axis=1)
    types[:, 0] = positions[:, 0] = 0
    arrays = (
        np.where(real, words, architecture.pad_token_id),
        np.where(real, types, 3),
        np.where(real, positions, architecture.num_item_positions - 1),
        real,
    )
    return Tokens(*map(torch.from_numpy, arrays))


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Gives every weight a value that matters, and norms that keep differences alive."""
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
                parameter += 1
    return model.eval()


def random_model(architecture=ARCHITECTURE, **parts) -> Recformer:
    """A model without dropout whose every weight matters."""
    model = Recformer(architecture, 0.0, **parts)
    lively(model)
    return model


def make_teacher(dataset, **changes) -> RecformerTeacher:
    """An untuned teacher with random weights that reads titles."""
    config = dataclasses.replace(CONFIG, **changes)
    tokens = tokenize({"title": list(dataset.catalogue.texts["title"])}, tiny_tokenizer(), 32)
    reader = Reader(tokens, 0, 1, 5, config.max_tokens, 5)
    model = random_model(num_items=dataset.num_items)
    return RecformerTeacher(
        model, dataset.interactions, reader, config, "random", lambda event: None
    )
