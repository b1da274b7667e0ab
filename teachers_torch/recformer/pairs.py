"""What Recformer is pre-trained on: pairs of a history and a later item, with masked words."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from teachers_torch.recformer.longformer import Tokens
from teachers_torch.recformer.tokens import Reader, TokenSequence

MOST_MASKED = 512  # tokens of a sequence
NO_LABEL = -100
MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens; the others stay


class DomainHistory(NamedTuple):
    """One user's items in one domain, oldest first, and how that domain's items are read."""

    reader: Reader
    items: Int[np.ndarray, " history"]


class View(NamedTuple):
    """One side of a batch of pairs, plain and masked.

    Attributes:
        tokens: the tokens as they are.
        masked: the tokens with other ids at the chosen ones.
        labels: ids that stood there; negative elsewhere.
    """

    tokens: Tokens
    masked: Tokens
    labels: Int64[Tensor, "rows length"]

    def to(self, device: torch.device) -> "View":
        """The same on a device."""
        return View(self.tokens.to(device), self.masked.to(device), self.labels.to(device))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The histories of all domains, from which pairs are drawn.

    Attributes:
        histories: none is empty.
        mask_id: the token that hides another.
        vocab_size: tokens that may stand in for another.
        mask_share: share of a sequence's tokens that are chosen.
    """

    histories: Sequence[DomainHistory]
    mask_id: int
    vocab_size: int
    mask_share: float

    def draw(self, rows: Int[np.ndarray, " rows"], rng: np.random.Generator) -> tuple[View, View]:
        """A pair of each of these histories and its masks: what came before, and the item."""
        histories = [self.histories[row] for row in rows]
        sides = zip(*(split_pair(history.items, rng) for history in histories), strict=True)
        before, items = (
            self._view([h.reader.sequence(x) for h, x in zip(histories, side, strict=True)], rng)
            for side in sides
        )
        return before, items

    def _view(self, sequences: list[TokenSequence], rng: np.random.Generator) -> View:
        # All domains' readers pad alike.
        tokens = self.histories[0].reader.batch(sequences)
        ids, labels = tokens.input_ids.clone(), torch.full_like(tokens.input_ids, NO_LABEL)
        for row, sequence in enumerate(sequences):
            changed = mask_words(sequence, self.mask_share, self.mask_id, self.vocab_size, rng)
            for whole, own in zip((ids, labels), changed, strict=True):
                whole[row, : len(own)] = torch.from_numpy(own)
        return View(tokens, tokens._replace(input_ids=ids), labels)


def split_pair(
    items: Int[np.ndarray, " history"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " prefix"], Int[np.ndarray, " 1"]]:
    """A target in the history's later half, and the items before it; one item has none."""
    place = int(rng.integers((len(items) - 1) // 2, len(items)))
    return items[:place], items[place : place + 1]


def mask_words(
    sequence: TokenSequence, share: float, mask_id: int, vocab_size: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
    """Chooses whole words and changes most of them.

    Words are taken in random order, those left out that would exceed the number of tokens
    asked for: `share` of the sequence, at least one, at most 512. Of the tokens chosen 80 %
    become the mask, 10 % any token, 10 % stay. The first token is never chosen.

    Returns:
        The ids to be read, and the labels: the ids before at the tokens chosen, else −100.
    """
    wanted = min(MOST_MASKED, max(1, round(len(sequence.ids) * share)))
    words = np.split(np.arange(1, len(sequence.ids)), np.flatnonzero(sequence.starts[1:]))
    chosen = np.zeros(len(sequence.ids), dtype=bool)
    for index in rng.permutation(len(words)):
        if chosen.sum() + len(words[index]) <= wanted:
            chosen[words[index]] = True
    draw = rng.random(len(chosen))
    ids = sequence.ids.astype(np.int64)
    labels = np.where(chosen, ids, NO_LABEL)
    other = rng.integers(vocab_size, size=len(ids))
    changed = np.where(draw < MASKED, mask_id, np.where(draw < MASKED + REPLACED, other, ids))
    return np.where(chosen, changed, ids), labels
