import itertools
import math
from collections import Counter

import numpy as np
import pytest

from prmkd_jax.evaluate.lists import list_metrics, tail, word_vectors

TEXTS = {
    "title": ("Red wool hat", "red HAT", "Garden hose, 10 m", "", "hose"),
    "brand": ("Acme", "", "Acme", "", "acme"),
}
COUNTS = np.array([4, 1, 9, 0, 2])
LISTS = np.array([[0, 1, 2], [2, 4, 0], [2, 1, 0], [2, 4, 3]])


def cosine(one: dict[str, float], other: dict[str, float]) -> float:
    norms = [math.sqrt(math.fsum(w * w for w in each.values())) for each in (one, other)]
    dot = math.fsum(weight * other.get(word, 0.0) for word, weight in one.items())
    return dot / (norms[0] * norms[1]) if all(norms) else 0.0


def by_hand() -> list[dict[str, float]]:
    """Every item's words with their weights, in plain Python."""
    words = [
        Counter(f"{title} {brand}".lower().replace(",", " ").split())
        for title, brand in zip(TEXTS["title"], TEXTS["brand"], strict=True)
    ]
    known = Counter(word for each in words for word in each)
    return [{w: n * math.log(5 / known[w]) for w, n in each.items()} for each in words]


def test_every_figure_equals_its_definition_in_float64():
    """Each pair counts once, and novelty is in bits."""
    found = list_metrics(LISTS, COUNTS, word_vectors(TEXTS))
    assert list(found) == ["coverage", "gini", "tail", "novelty", "diversity"]
    shown = Counter(LISTS.reshape(-1).tolist())
    assert found["coverage"] == 5 / 5
    places = [shown[item] for item in range(5)]
    mean_difference = sum(abs(a - b) for a in places for b in places) / 25
    assert found["gini"] == pytest.approx(mean_difference / 2 / (12 / 5), rel=1e-12)
    assert found["tail"] == pytest.approx((12 - shown[2]) / 12)  # item 2 is the head
    novelty = [-math.log2((COUNTS[item] + 1) / 21) for row in LISTS for item in row]
    assert found["novelty"] == pytest.approx(math.fsum(novelty) / 12, rel=1e-12)
    words = by_hand()
    pairs = [
        1 - cosine(words[a], words[b]) for row in LISTS for a, b in itertools.combinations(row, 2)
    ]
    assert found["diversity"] == pytest.approx(math.fsum(pairs) / len(pairs), rel=1e-12)


def test_the_head_is_a_fifth_of_the_items_and_of_equal_counts_the_earlier_ones():
    """A small catalogue still has a head, and its ties don't depend on the sort."""
    assert tail(np.array([2, 9, 2, 2, 1, 0, 0, 0])).tolist() == [False, False] + [True] * 6
    assert tail(np.array([1, 1, 1])).tolist() == [False, True, True]


def test_extremes():
    """Equal exposure has a Gini of 0, and items that nobody trains on divide nothing by 0."""
    everything = np.array([[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]])
    found = list_metrics(everything, np.zeros(5, int), None)
    assert found["coverage"] == 1.0
    assert found["gini"] == pytest.approx(0, abs=1e-15)
    assert found["novelty"] == pytest.approx(math.log2(5))
    assert found["diversity"] is None
    same = list_metrics(np.zeros((7, 1), int), np.zeros(5, int), None)
    assert (same["coverage"], same["gini"]) == (pytest.approx(0.2), pytest.approx(0.8))


def test_many_lists_are_measured_in_blocks():
    """The lists after the first block count as well."""
    words = word_vectors(TEXTS)
    rng = np.random.default_rng(0)
    many = np.array([rng.permutation(5)[:3] for _ in range(4100)])
    parts = [list_metrics(part, COUNTS, words)["diversity"] for part in (many[:100], many[100:])]
    expected = (100 * parts[0] + 4000 * parts[1]) / 4100
    assert list_metrics(many, COUNTS, words)["diversity"] == pytest.approx(expected, rel=1e-12)


def test_words_are_those_of_any_script_and_end_at_an_underscore():
    """German and Japanese titles count with their whole words, not only with English letters."""
    titles = ("Wärmflasche – rot", "ROT_WÄRMFLASCHE", "赤い 帽子", "赤い")
    vectors = word_vectors({"title": titles})
    assert vectors is not None
    cosines = (vectors @ vectors.T).toarray()
    # log(4 / 2) for each word but 帽子, which has log 4, twice as much.
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2:, 2:] = 1, [[1, 1 / math.sqrt(5)], [1 / math.sqrt(5), 1]]
    np.testing.assert_allclose(cosines, expected, rtol=1e-12, atol=1e-15)


def test_texts_without_words_have_no_vectors():
    """Nothing is known of such a catalogue, so it gets no diversity."""
    assert word_vectors({"title": ("", "--", "")}) is None


def test_what_is_no_list_is_refused():
    """No lists, an item −1, and lists of one item where diversity is asked are errors."""
    with pytest.raises(ValueError, match="no lists"):
        list_metrics(np.zeros((0, 3), int), COUNTS, None)
    with pytest.raises(ValueError, match=r"item -1 … 2, expected 0 … 4"):
        list_metrics(np.array([[2, -1]]), COUNTS, None)
    with pytest.raises(ValueError, match="at least 2"):
        list_metrics(np.array([[2]]), COUNTS, word_vectors(TEXTS))
