import numpy as np
import torch

from teachers_torch.recformer.pairs import DomainHistory, Pairs, mask_words, split_pair
from teachers_torch.recformer.tokens import Reader, TokenSequence, tokenize
from tests.teachers_torch.recformer_worlds import tiny_tokenizer


def sequence(length, word=1):
    """Words of `word` tokens each behind the first token; ids 10, 11, …"""
    starts = np.arange(length - 1) % word == 0
    none = np.zeros(length, dtype=np.int32)
    ids = np.concatenate([[0], np.arange(10, 9 + length)])
    return TokenSequence(ids, none, none, np.concatenate([[False], starts]))


def test_targets_lie_in_the_later_half():
    """The last item may be the target, and the history ends just before the target."""
    rng, items = np.random.default_rng(0), np.arange(7) * 3
    places = set()
    for _ in range(200):
        before, target = split_pair(items, rng)
        places.add(len(before))
        np.testing.assert_array_equal(np.concatenate([before, target]), items[: len(before) + 1])
        assert len(target) == 1
    assert places == {3, 4, 5, 6}
    assert {len(split_pair(items[:2], rng)[0]) for _ in range(50)} == {0, 1}
    assert len(split_pair(items[:1], rng)[0]) == 0


def test_words_are_masked_as_wholes():
    """Of each word all three tokens are masked or none; together they are 6 of 43."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        read, labels = mask_words(sequence(43, word=3), 0.15, mask_id=4, vocab_size=9, rng=rng)
        chosen = labels >= 0
        assert chosen.sum() == 6  # round(43 × 0.15)
        assert not chosen[0]
        words = (np.flatnonzero(chosen) - 1) // 3
        assert all(np.unique(words, return_counts=True)[1] == 3)
        np.testing.assert_array_equal(labels[chosen], sequence(43).ids[chosen])
        np.testing.assert_array_equal(read[~chosen], sequence(43).ids[~chosen])


def test_masked_tokens_are_mostly_hidden():
    """80 % become the mask, 10 % any token, and 10 % stay."""
    rng, kinds = np.random.default_rng(0), []
    for _ in range(300):
        whole = sequence(101)
        read, labels = mask_words(whole, 0.3, mask_id=4, vocab_size=9, rng=rng)
        chosen = labels >= 0
        assert chosen.sum() == 30
        read, before = read[chosen], whole.ids[chosen]
        kinds.append([(read == 4).mean(), (read == before).mean(), (read < 9).mean()])
    hidden, kept, replaced = np.mean(kinds, axis=0)
    assert abs(hidden - (0.8 + 0.1 / 9)) < 0.01
    assert abs(kept - 0.1) < 0.01
    assert abs(replaced - 0.9) < 0.01


def test_short_and_long_sequences():
    """Three tokens have one masked, the first token alone has none, and 512 is the most."""
    rng = np.random.default_rng(0)
    assert (mask_words(sequence(3), 0.15, 4, 9, rng)[1] >= 0).sum() == 1
    assert (mask_words(sequence(1), 0.15, 4, 9, rng)[1] >= 0).sum() == 0
    assert (mask_words(sequence(5001), 0.15, 4, 9, rng)[1] >= 0).sum() == 512


def test_views_of_all_domains():
    """Each domain's items are read by its own reader, and padding is never masked."""
    words = tiny_tokenizer()
    readers = [
        Reader(tokenize({"title": titles}, words, 32), 0, 1, 5, 99, 5)
        for titles in (["red lamp", "blue"], ["item 7", "item 8 .", "item 9"])
    ]
    histories = [
        DomainHistory(readers[0], np.array([0])),
        DomainHistory(readers[1], np.array([2, 1, 0])),
    ]
    pairs = Pairs(histories, mask_id=4, vocab_size=30, mask_share=0.5)
    before, items = pairs.draw(np.array([1, 0]), np.random.default_rng(3))
    assert before.tokens.input_ids[1].tolist()[:2] == [0, 1]
    assert items.tokens.input_ids[1].tolist() == [0, 5, 10, 12, 1][: items.labels.shape[1]]
    target = items.tokens.input_ids[0]
    assert target[2] == words.convert_tokens_to_ids("item")
    history = before.tokens.input_ids[0]
    assert not set(history.tolist()) & set(target[3:4].tolist())
    for view in (before, items):
        chosen = view.labels >= 0
        assert chosen.any()
        assert not (chosen & ~view.tokens.real).any()
        assert torch.equal(view.tokens.input_ids[chosen], view.labels[chosen])
        same = view.tokens.input_ids == view.masked.input_ids
        assert same[~chosen].all()
        assert not same.all()
        assert torch.equal(view.tokens.item_positions, view.masked.item_positions)
