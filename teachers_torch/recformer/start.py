"""What Recformer's weights begin from, and the tokenizer that belongs to them."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import Tensor

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import RecformerConfig
from teachers_torch.items.text import encoder_identity
from teachers_torch.items.text_encoder import BUNDLED_ENCODER, NO_CODE, bundled_folder
from teachers_torch.recformer.convert import convert, load_encoder
from teachers_torch.recformer.longformer import Architecture
from teachers_torch.recformer.model import Recformer, RecformerTeacher
from teachers_torch.recformer.official import (
    CARD,
    OFFICIAL_EPS,
    TOKENIZER,
    load_official,
    read_official,
    read_saved_start,
)
from teachers_torch.recformer.tokens import Reader, item_tokens
from teachers_torch.settings import TeacherSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RANDOM = "random"
OFFICIAL_TOKENIZER = "allenai/longformer-base-4096"


class RecformerStart(NamedTuple):
    """Weights to begin from, and their tokenizer.

    Attributes:
        architecture: sizes.
        weights: our state dict; empty where they are to be drawn. The language head's may be
            missing.
        tokenizer: a fast one.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    tokenizer: "PreTrainedTokenizerBase"


def configured(settings: TeacherSettings) -> RecformerConfig:
    """Recformer's configuration, with `--init` where it was given."""
    config = settings.get(RecformerConfig)
    return dataclasses.replace(config, init=settings.init.get(RecformerTeacher.name, config.init))


def load_start(config: RecformerConfig, max_items: int) -> RecformerStart:
    """Reads the weights that `config.init` names.

    Args:
        config: sizes of random weights, layers kept of a converted encoder.
        max_items: items of a history that get positions if the weights have none for them.

    Raises:
        UserError: there are no such weights, or they are of no known kind.
    """
    path = Path(config.init)
    if config.init == RANDOM:
        tokenizer = load_tokenizer(config.tokenizer or BUNDLED_ENCODER)
        start = RecformerStart(_random(config, tokenizer, max_items), {}, tokenizer)
    elif path.is_file():
        # First the file that is here: the tokenizer may have to be fetched.
        official = read_official(path)
        start = RecformerStart(*official, load_tokenizer(config.tokenizer or OFFICIAL_TOKENIZER))
    elif (path / CARD).is_file():
        start = RecformerStart(*read_saved_start(path), load_tokenizer(str(path / TOKENIZER)))
    else:
        encoder = load_encoder(hub_or_folder(config.init))
        converted = convert(encoder, config.num_layers, config.max_tokens, max_items)
        start = RecformerStart(*converted, load_tokenizer(config.tokenizer or config.init))
    _check(start, config)
    return start


def start_identity(config: RecformerConfig) -> dict[str, str]:
    """Hashes of the files of weights and tokenizer; of the hub's, their names."""

    def identity(name: str) -> str:
        return file_digest(Path(name)) if Path(name).is_file() else encoder_identity(name)

    start = config.init if config.init == RANDOM else identity(config.init)
    return {"start": start, "tokenizer": identity(config.tokenizer) if config.tokenizer else ""}


def build_model(
    start: RecformerStart,
    config: RecformerConfig,
    *,
    num_items: int = 0,
    language_head: bool = False,
) -> Recformer:
    """A model with these weights.

    A missing language head is drawn, except its decoder: the word embeddings.

    Raises:
        UserError: the weights don't fit.
    """
    model = Recformer(
        start.architecture, config.dropout, num_items=num_items, language_head=language_head
    )
    if start.weights:
        load_official(model, start.weights, f"--init: recformer={config.init}")
    if model.lm_head is not None and "lm_head.decoder.weight" not in start.weights:
        words = model.longformer.embeddings.word_embeddings.weight
        model.lm_head.decoder.weight.data.copy_(words.data)
    return model


def make_reader(
    start: RecformerStart,
    catalogue: Catalogue,
    config: RecformerConfig,
    max_items: int,
    cache: Cache,
) -> Reader:
    """How these weights read a catalogue's items; they are tokenised once and cached.

    Args:
        start: tokenizer and sizes.
        catalogue: the items' texts.
        config: most tokens of attributes and sequences.
        max_items: the newest items that are read, if the weights have positions for as many.
        cache: see `item_tokens`.
    """
    tokenizer, positions = start.tokenizer, start.architecture.num_item_positions
    return Reader(
        tokens=item_tokens(catalogue, tokenizer, config.max_attribute_tokens, cache),
        first_id=cast(int, tokenizer.cls_token_id),
        pad_id=start.architecture.pad_token_id,
        max_items=min(max_items, positions - 1),
        max_tokens=config.max_tokens,
        padding_item_position=positions - 1,
    )


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Loads a fast tokenizer that has a first and a padding token.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(hub_or_folder(name), **NO_CODE)
    except Exception as error:  # the library fails in many ways, all of them the user's input
        raise UserError(
            f"--recformer_tokenizer: found {name!r}, expected a Hugging Face hub name or folder "
            f"with a tokenizer ({first_line(error)})"
        ) from error
    special = (tokenizer.cls_token_id, tokenizer.pad_token_id)
    if not tokenizer.is_fast or None in special:
        raise UserError(
            f"--recformer_tokenizer: found {name!r}, expected a fast tokenizer with a first "
            "([CLS], <s>) and a padding token"
        )
    return tokenizer


def hub_or_folder(name: str) -> str:
    """Name for Hugging Face's loaders: of the bundled encoder its folder."""
    return str(bundled_folder()) if name == BUNDLED_ENCODER else name


def _check(start: RecformerStart, config: RecformerConfig) -> None:
    """Refuses a tokenizer or a length that doesn't fit the weights."""
    tokenizer, architecture = start.tokenizer, start.architecture
    found = (len(tokenizer), tokenizer.pad_token_id)
    if found[0] > architecture.vocab_size or found[1] != architecture.pad_token_id:
        raise UserError(
            f"--recformer_tokenizer: found {found[0]} tokens, padding {found[1]}, expected at most "
            f"{architecture.vocab_size}, padding {architecture.pad_token_id}, as {config.init}"
        )
    if config.max_tokens > architecture.max_tokens:
        raise UserError(
            f"--recformer_max_tokens: found {config.max_tokens}, expected at most "
            f"{architecture.max_tokens}, the positions of {config.init}"
        )


def _random(
    config: RecformerConfig, tokenizer: "PreTrainedTokenizerBase", max_items: int
) -> Architecture:
    pad_token_id = cast(int, tokenizer.pad_token_id)
    return Architecture(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_layers=config.num_layers or RecformerConfig.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.inner_size,
        num_positions=config.max_tokens + pad_token_id + 1,
        num_item_positions=max_items + 1,
        pad_token_id=pad_token_id,
        layer_norm_eps=OFFICIAL_EPS,
    )
