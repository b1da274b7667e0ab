"""Item sentences as Recformer reads them: attribute names and values, as tokens.

After arXiv 2305.13731 (section 2.2) and its official code: an item is its attributes title,
brand and category, each the tokens of its name and of its value; a history is its items, the
newest first, after one special token.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Int64

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.items.text import field_texts
from teachers_torch.recformer.longformer import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What the attributes are called and where the catalogue keeps them, in their order.
ATTRIBUTES = {"title": "title", "brand": "brand", "category": "categories"}
FIRST, NAME, VALUE, PADDING = range(4)  # token types


class ItemTokens(NamedTuple):
    """The tokens of all items, item i's at `indptr[i]:indptr[i + 1]`.

    Attributes:
        indptr: offsets.
        ids: token ids.
        types: `NAME` or `VALUE`.
        starts: true where a word starts, for the masking of whole words.
    """

    indptr: Int64[np.ndarray, " items_plus_1"]
    ids: Int32[np.ndarray, " tokens"]
    types: Int32[np.ndarray, " tokens"]
    starts: Bool[np.ndarray, " tokens"]


class TokenSequence(NamedTuple):
    """One history's tokens (see `longformer.Tokens` and `ItemTokens`)."""

    ids: Int32[np.ndarray, " length"]
    types: Int32[np.ndarray, " length"]
    item_positions: Int32[np.ndarray, " length"]
    starts: Bool[np.ndarray, " length"]


@dataclasses.dataclass(frozen=True)
class Reader:
    """How histories become token sequences.

    Attributes:
        tokens: the catalogue's tokens.
        first_id: the token that stands before every sequence.
        pad_id: padding's token id.
        max_items: the newest items that are read.
        max_tokens: length at which a sequence is cut, which may be within an item.
        padding_item_position: padding's item position.
    """

    tokens: ItemTokens
    first_id: int
    pad_id: int
    max_items: int
    max_tokens: int
    padding_item_position: int

    def sequence(self, items: Int[np.ndarray, " history"]) -> TokenSequence:
        """Reads a history, oldest item first; an empty one is the first token alone."""
        newest = np.asarray(items, dtype=np.int64)[::-1][: self.max_items]
        starts, stops = self.tokens.indptr[newest], self.tokens.indptr[newest + 1]
        places = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
        taken = np.concatenate([np.empty(0, np.int64), *places])[: self.max_tokens - 1]
        item_positions = np.repeat(np.arange(1, len(newest) + 1), stops - starts)[: len(taken)]
        return TokenSequence(
            np.concatenate([[self.first_id], self.tokens.ids[taken]]).astype(np.int32),
            np.concatenate([[FIRST], self.tokens.types[taken]]).astype(np.int32),
            np.concatenate([[0], item_positions]).astype(np.int32),
            np.concatenate([[False], self.tokens.starts[taken]]),
        )

    def batch(self, sequences: Sequence[TokenSequence]) -> Tokens:
        """Pads sequences at their ends to the longest."""
        length = max(len(sequence.ids) for sequence in sequences)
        shape = (len(sequences), length)
        ids = np.full(shape, self.pad_id)
        types = np.full(shape, PADDING)
        item_positions = np.full(shape, self.padding_item_position)
        for row, sequence in enumerate(sequences):
            size = len(sequence.ids)
            ids[row, :size] = sequence.ids
            types[row, :size] = sequence.types
            item_positions[row, :size] = sequence.item_positions
        sizes = np.array([[len(sequence.ids)] for sequence in sequences])
        real = np.arange(length) < sizes
        return Tokens(*map(torch.from_numpy, (ids, types, item_positions, real)))


def token_batches(
    lengths: Int[np.ndarray, " sequences"], tokens_at_once: int
) -> list[Int64[np.ndarray, " chosen"]]:
    """Places sequences of like length together, the longest first.

    Args:
        lengths: tokens of each sequence.
        tokens_at_once: most tokens of a batch, padding included; a sequence that is longer
            than that has a batch of its own.

    Returns:
        Indices of the sequences of each batch; each occurs once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, at = [], 0
    while at < len(order):
        size = max(1, tokens_at_once // int(lengths[order[at]]))
        batches.append(order[at : at + size])
        at += size
    return batches


def item_tokens(
    catalogue: Catalogue,
    tokenizer: "PreTrainedTokenizerBase",
    max_attribute_tokens: int,
    cache: Cache,
) -> ItemTokens:
    """The catalogue's tokens, from the cache where it was tokenised before.

    Args:
        catalogue: titles, brands and categories are read.
        tokenizer: a fast one.
        max_attribute_tokens: length at which an attribute is cut, its name's tokens included.
        cache: the cache; the tokens are kept in its room `tokens`.

    Raises:
        UserError: no item has any of the attributes.
    """
    texts = attributes(catalogue)
    key = content_digest([_rules(tokenizer), max_attribute_tokens, texts])[:32]

    def make(path: Path) -> None:
        with path.open("wb") as file:
            tokens = tokenize(texts, tokenizer, max_attribute_tokens)
            np.savez(file, allow_pickle=False, **tokens._asdict())

    with np.load(cache.entry("tokens", f"{key}.npz", make)) as arrays:
        return ItemTokens(**{field: arrays[field] for field in ItemTokens._fields})


def tokenize(
    texts: dict[str, list[str]], tokenizer: "PreTrainedTokenizerBase", max_attribute_tokens: int
) -> ItemTokens:
    """Tokenises every attribute on its own: name, then value, then the cut.

    An empty value leaves the name alone, as in the official data.

    Args:
        texts: attribute name → the values of all items.
        tokenizer: a fast one; special tokens are not added.
        max_attribute_tokens: length at which an attribute is cut, its name's tokens included.
    """
    names, values = [], []
    for name, column in texts.items():
        names.append(_words([name], tokenizer, max_attribute_tokens)[0])
        values.append(_words(column, tokenizer, max_attribute_tokens))
    pieces, sizes = [], []
    for item_values in zip(*values, strict=True):
        size = 0
        for (name_ids, name_starts), (ids, starts) in zip(names, item_values, strict=True):
            kinds = np.repeat([NAME, VALUE], [len(name_ids), len(ids)])
            piece = np.stack([name_ids + ids, kinds, name_starts + starts])
            pieces.append(piece[:, :max_attribute_tokens].astype(np.int32))
            size += pieces[-1].shape[1]
        sizes.append(size)
    ids, kinds, starts = np.concatenate([np.empty((3, 0), np.int32), *pieces], axis=1)
    indptr = np.cumsum([0, *sizes], dtype=np.int64)
    return ItemTokens(indptr, ids, kinds, starts.astype(bool))


def attributes(catalogue: Catalogue) -> dict[str, list[str]]:
    """The attributes that any item has, by their names.

    Raises:
        UserError: there are none.
    """
    columns = {name: field_texts(catalogue, field) for name, field in ATTRIBUTES.items()}
    found = {name: column for name, column in columns.items() if any(map(str.strip, column))}
    if not found:
        fields = ", ".join(ATTRIBUTES.values())
        raise UserError(f"found no text in any item's {fields}, expected some for recformer")
    return found


def _rules(tokenizer: Any) -> dict[str, object]:
    """A tokenizer's rules and vocabulary, whatever name it came by and was used for so far."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in rules.items() if key not in ("truncation", "padding")}


def _words(
    texts: list[str], tokenizer: "PreTrainedTokenizerBase", longest: int
) -> list[tuple[list[int], list[bool]]]:
    """Token ids of each text and where its words start."""
    encoded = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=longest)
    words = [encoded.word_ids(row) for row in range(len(texts))]
    starts = [
        [place == 0 or word != row[place - 1] for place, word in enumerate(row)] for row in words
    ]
    return list(zip(encoded["input_ids"], starts, strict=True))
