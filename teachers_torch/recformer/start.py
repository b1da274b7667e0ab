"""What Recformer begins with: weights and the tokenizer that belongs to them."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import Tensor

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import RecformerConfig
from teachers_torch.items.text import BUNDLED_ENCODER, bundled_folder, encoder_identity, file_sha256
from teachers_torch.recformer.convert import convert, load_encoder
from teachers_torch.recformer.longformer import Architecture
from teachers_torch.recformer.model import Recformer
from teachers_torch.recformer.official import (
    CARD,
    OFFICIAL_EPS,
    TOKENIZER,
    load_official,
    read_official,
    read_start,
)
from teachers_torch.recformer.tokens import Reader, item_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RANDOM = "random"
OFFICIAL_TOKENIZER = "allenai/longformer-base-4096"


class Start(NamedTuple):
    """What a Recformer begins with.

    Attributes:
        architecture: sizes.
        weights: by our names; empty for a random start. The language head's may be missing.
        tokenizer: a fast one.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    tokenizer: "PreTrainedTokenizerBase"


def load_start(config: RecformerConfig, max_items: int) -> Start:
    """Reads the start that the configuration names; what has to be drawn, is drawn.

    Args:
        config: names it.
        max_items: items of a history that get positions where the start has none.

    Raises:
        UserError: there is no such start, or none of the kinds that are understood.
    """
    path = Path(config.start)
    if config.start == RANDOM:
        tokenizer = load_tokenizer(config.tokenizer or BUNDLED_ENCODER)
        start = Start(_random(config, tokenizer, max_items), {}, tokenizer)
    elif path.is_file():
        tokenizer = load_tokenizer(config.tokenizer or OFFICIAL_TOKENIZER)
        start = Start(*read_official(path), tokenizer)
    elif (path / CARD).is_file():
        start = Start(*read_start(path), load_tokenizer(str(path / TOKENIZER)))
    else:
        encoder = load_encoder(hub_or_folder(config.start))
        converted = convert(encoder, config.num_layers, config.max_tokens, max_items)
        start = Start(*converted, load_tokenizer(config.tokenizer or config.start))
    _check(start, config)
    return start


def start_identity(config: RecformerConfig) -> dict[str, str]:
    """What a start depends on: hashes of files; where they are the hub's, the name."""

    def identity(name: str) -> str:
        return file_sha256(Path(name)) if Path(name).is_file() else encoder_identity(name)

    start = config.start if config.start == RANDOM else identity(config.start)
    return {"start": start, "tokenizer": identity(config.tokenizer) if config.tokenizer else ""}


def build_model(
    start: Start, config: RecformerConfig, *, num_items: int = 0, language_head: bool = False
) -> Recformer:
    """A model with the start's weights.

    A language head that the start lacks is drawn, but for its decoder: the word embeddings.

    Raises:
        UserError: the weights don't fit.
    """
    model = Recformer(
        start.architecture, config.dropout, num_items=num_items, language_head=language_head
    )
    if start.weights:
        load_official(model, start.weights, f"--recformer_start={config.start}")
    if model.lm_head is not None and "lm_head.decoder.weight" not in start.weights:
        words = model.longformer.embeddings.word_embeddings.weight
        model.lm_head.decoder.weight.data.copy_(words.data)
    return model


def make_reader(
    start: Start, catalogue: Catalogue, config: RecformerConfig, max_items: int, cache_dir: Path
) -> Reader:
    """How this start reads a catalogue's items; they are tokenised once and cached.

    Args:
        start: its tokenizer and sizes are used.
        catalogue: the items.
        config: where attributes and sequences are cut.
        max_items: the newest items that are read, if the start has positions for as many.
        cache_dir: see `item_tokens`.
    """
    tokenizer, positions = start.tokenizer, start.architecture.num_item_positions
    return Reader(
        tokens=item_tokens(catalogue, tokenizer, config.max_attribute_tokens, cache_dir),
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
        tokenizer = AutoTokenizer.from_pretrained(hub_or_folder(name))
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
    """What Hugging Face knows a name by: the bundled encoder's is its folder."""
    return str(bundled_folder()) if name == BUNDLED_ENCODER else name


def _check(start: Start, config: RecformerConfig) -> None:
    """Refuses a tokenizer or a length that the weights don't go with."""
    tokenizer, architecture = start.tokenizer, start.architecture
    found = (len(tokenizer), tokenizer.pad_token_id)
    if found[0] > architecture.vocab_size or found[1] != architecture.pad_token_id:
        raise UserError(
            f"--recformer_tokenizer: found {found[0]} tokens, padding {found[1]}, expected at most "
            f"{architecture.vocab_size}, padding {architecture.pad_token_id}, as {config.start}"
        )
    if config.max_tokens > architecture.max_tokens:
        raise UserError(
            f"--recformer_max_tokens: found {config.max_tokens}, expected at most "
            f"{architecture.max_tokens}, the positions of {config.start}"
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
