import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.recformer import tokens as recformer_text
from teachers_torch.recformer.tokens import Reader, item_tokens, token_batches, tokenize
from tests.teachers_torch.recformer_worlds import ids, tiny_tokenizer

TEXTS = {"title": ["red lamps", "blue lamp .", "item 3"], "brand": ["acme", "", "acme red"]}


def item(tokens, row):
    start, stop = tokens.indptr[row : row + 2]
    return tokens.ids[start:stop], tokens.types[start:stop], tokens.starts[start:stop]


def reader(**changes):
    settings = {
        "first_id": 0, "pad_id": 1, "max_items": 5, "max_tokens": 99, "padding_item_position": 5,
    }  # fmt: skip
    return Reader(tokenize(TEXTS, tiny_tokenizer(), 32), **{**settings, **changes})


def test_items_are_names_and_values():
    """Names have their own type, no special token comes between, and an empty brand stays."""
    tokens = tokenize(TEXTS, tiny_tokenizer(), 32)
    found, types, starts = item(tokens, 0)
    assert found.tolist() == ids("title red lamp ##s brand acme")
    assert types.tolist() == [1, 2, 2, 2, 1, 2]
    assert starts.tolist() == [True, True, True, False, True, True]
    found, types, _ = item(tokens, 1)
    assert found.tolist() == ids("title blue lamp . brand")
    assert types.tolist() == [1, 2, 2, 2, 1]


def test_an_attribute_is_cut_with_its_name():
    """The limit of two tokens counts the name and holds for each attribute."""
    tokens = tokenize(TEXTS, tiny_tokenizer(), 2)
    found, types, _ = item(tokens, 2)
    assert found.tolist() == ids("title item brand acme")
    assert types.tolist() == [1, 2, 1, 2]


def test_a_history_is_read_from_its_newest_item():
    """The newest item has item position 1, and max_items keeps the newest items."""
    sequence = reader(max_items=2).sequence(np.array([2, 1, 0]))
    newest, before = ids("title red lamp ##s brand acme"), ids("title blue lamp . brand")
    assert sequence.ids.tolist() == [0, *newest, *before]
    assert sequence.types.tolist() == [0, 1, 2, 2, 2, 1, 2, 1, 2, 2, 2, 1]
    assert sequence.item_positions.tolist() == [0] + [1] * 6 + [2] * 5
    assert not sequence.starts[0]


def test_a_sequence_is_cut_within_an_item():
    """The first token counts, and the item at the limit is kept in part."""
    sequence = reader(max_tokens=9).sequence(np.array([1, 0]))
    assert sequence.ids.tolist() == [0, *ids("title red lamp ##s brand acme title blue")]
    assert sequence.item_positions.tolist() == [0] + [1] * 6 + [2] * 2


def test_no_history_is_the_first_token():
    """Before a user's first item, the sequence is the first token alone."""
    sequence = reader().sequence(np.array([], dtype=np.int32))
    assert [part.tolist() for part in sequence] == [[0], [0], [0], [False]]


def test_batches_are_padded_at_the_end():
    """Padding has its own id, type and item position and doesn't count as read."""
    made = reader()
    tokens = made.batch([made.sequence(np.array(items, dtype=int)) for items in ([1], [])])
    assert tokens.input_ids.tolist() == [[0, *ids("title blue lamp . brand")], [0] + [1] * 5]
    assert tokens.token_types[1].tolist() == [0] + [3] * 5
    assert tokens.item_positions[1].tolist() == [0] + [5] * 5
    assert tokens.real.tolist() == [[True] * 6, [True] + [False] * 5]


@pytest.mark.parametrize("budget", [1, 7, 20, 1000])
def test_token_batches_hold_every_sequence_once(budget):
    """A batch of several sequences stays within the budget, and the longest come first."""
    lengths = np.random.default_rng(0).integers(1, 12, size=50)
    batches = token_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(50))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
    longest = [lengths[rows].max() for rows in batches]
    assert longest == sorted(longest, reverse=True)
    assert token_batches(lengths[:0], budget) == []


def test_a_catalogue_is_tokenised_once(tmp_path, monkeypatch):
    """A changed title or limit is tokenised anew, and an empty column is no attribute."""
    calls = []
    real = recformer_text.tokenize
    monkeypatch.setattr(recformer_text, "tokenize", lambda *a: calls.append(a) or real(*a))
    texts = {"title": ("red", "blue"), "brand": ("", " "), "categories": ("lamp", "")}
    for _ in range(2):
        tokens = item_tokens(Catalogue(texts), tiny_tokenizer(), 32, Cache(tmp_path))
    assert len(calls) == 1
    # A column that is empty throughout is no attribute.
    assert tokens.ids.tolist() == ids("title red category lamp title blue category")
    item_tokens(Catalogue(texts), tiny_tokenizer(), 2, Cache(tmp_path))
    item_tokens(
        Catalogue({**texts, "title": ("red", "red")}), tiny_tokenizer(), 32, Cache(tmp_path)
    )
    assert len(calls) == 3
    assert len(list((tmp_path / "tokens").glob("*.np[yz]"))) == 3


def test_a_catalogue_without_texts_is_refused(tmp_path):
    """The error names the attributes that are empty; a description doesn't count."""
    texts = {"title": ("", " "), "description": ("long", "longer")}
    with pytest.raises(UserError, match=r"found no text in any item.s title, brand, categories"):
        item_tokens(Catalogue(texts), tiny_tokenizer(), 32, Cache(tmp_path))
