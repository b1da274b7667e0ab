"""The synthetic world: what is in it, and that it keeps the premise of the paper."""

import re

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import TEXT_FIELDS
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.synthetic import (
    ATTRIBUTES,
    DOMAINS,
    TARGET,
    VISIBLE,
    VOCABULARY,
    WorldConfig,
    make_domain,
    render,
    synthetic_dataset,
)

SMALL = WorldConfig(users=60, items=80)
COLOUR, PATTERN, SHAPE = (ATTRIBUTES.index(attribute) for attribute in VISIBLE)


@pytest.fixture(scope="module")
def home():
    """The default world, as the demo meets it."""
    return make_domain(0, TARGET, WorldConfig())


def histories(dataset):
    return np.split(dataset.interactions.items, dataset.interactions.indptr[1:-1])


def test_equal_seeds_give_equal_worlds():
    """Only the seed decides the content, and another seed gives another world."""
    first, again, other = (make_domain(seed, TARGET, SMALL).dataset for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def every_domain():
    return [make_domain(0, name, SMALL).dataset for name in DOMAINS]


def test_domains_share_no_user_item_or_brand():
    world = every_domain()
    for field in ("item_ids", "user_ids"):
        ids = [token for dataset in world for token in getattr(dataset, field)]
        assert len(ids) == len(set(ids))
    for column in ("brand", "categories"):
        texts = [set(dataset.catalogue.texts[column]) - {""} for dataset in world]
        assert len(set.union(*texts)) == sum(map(len, texts))


def test_domains_share_the_words_of_the_attributes():
    """Every domain takes its style words from one vocabulary, so something can transfer."""
    styles = {word for synonyms in VOCABULARY["style"] for word in synonyms}
    for dataset in every_domain():
        titles = [title for title in dataset.catalogue.texts["title"] if " for " in title]
        assert {title.split()[0] for title in titles} <= styles


def test_tables_agree_with_each_other(home):
    """Dtypes and ids fit, every item occurs, and no user has an item twice."""
    dataset = home.dataset
    indptr, items = dataset.interactions.indptr, dataset.interactions.items
    assert (indptr.dtype, items.dtype) == (np.int64, np.int32)
    assert (indptr[0], indptr[-1], len(indptr)) == (0, len(items), 2001)
    np.testing.assert_array_equal(np.unique(items), np.arange(dataset.num_items))
    assert 1400 < dataset.num_items <= 1500
    assert all(len(set(history)) == len(history) for history in histories(dataset))
    assert len(set(dataset.user_ids)) == dataset.num_users == 2000
    assert len(set(dataset.item_ids)) == dataset.num_items
    assert tuple(dataset.catalogue.texts) == TEXT_FIELDS
    assert {len(column) for column in dataset.catalogue.texts.values()} == {dataset.num_items}
    assert home.attributes.shape == home.told.shape == (dataset.num_items, len(ATTRIBUTES))


def test_histories_are_as_long_as_asked(home):
    """Lengths keep their bounds and their mean."""
    lengths = home.dataset.interactions.lengths
    assert lengths.min() >= 5
    assert 20 <= lengths.max() <= 30
    assert lengths.mean() == pytest.approx(8, abs=0.3)


def test_popularity_is_skewed_and_leaves_cold_items(home):
    """A tenth of the items gets over 30 % of the interactions, and over 4 % get under three."""
    counts = np.sort(np.bincount(home.dataset.interactions.items))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()
    assert counts[:10].sum() < 0.1 * counts.sum()
    assert (counts < 3).mean() > 0.04


def test_some_items_lack_the_image_or_the_text(home):
    """The shares are as asked, and an item without text tells no more than its type."""
    catalogue = home.dataset.catalogue
    assert (catalogue.image_rows < 0).mean() == pytest.approx(0.25, abs=0.04)
    images = np.sort(catalogue.image_rows[catalogue.image_rows >= 0])
    np.testing.assert_array_equal(images, np.arange(len(catalogue.image_features)))
    bare = np.array([text == "" for text in catalogue.texts["description"]])
    assert bare.mean() == pytest.approx(0.15, abs=0.03)
    for field in ("brand", "categories"):
        np.testing.assert_array_equal([text == "" for text in catalogue.texts[field]], bare)
    titles = np.array(catalogue.texts["title"], dtype=object)
    assert len(set(titles[bare])) <= 20 < len(set(titles[~bare]))
    assert not home.told[bare, :-1].any()
    assert home.told[:, -1].all()


@pytest.mark.parametrize("attribute", VOCABULARY)
def test_a_text_names_what_it_tells_and_nothing_else(home, attribute):
    """A title names the right value wherever `told` says so, and nowhere else."""
    column = ATTRIBUTES.index(attribute)
    titles = home.dataset.catalogue.texts["title"]
    for value, synonyms in enumerate(VOCABULARY[attribute]):
        pattern = re.compile(rf"\b({'|'.join(synonyms)})\b")
        named = np.array([bool(pattern.search(title)) for title in titles])
        expected = home.told[:, column] & (home.attributes[:, column] == value)
        np.testing.assert_array_equal(named, expected, err_msg=synonyms[0])


def test_images_show_what_most_texts_leave_out(home):
    """Over half of the visible attributes are shown without being told."""
    shown = home.dataset.catalogue.image_rows >= 0
    untold = ~home.told[:, [COLOUR, PATTERN, SHAPE]]
    assert (untold & shown[:, None]).mean() > 0.5


def test_stored_images_are_those_of_their_items(home):
    """Colour, pattern and shape can be read off the image of the right item."""
    catalogue = home.dataset.catalogue
    assert catalogue.image_features.dtype == np.float16
    assert catalogue.image_features.shape[1] == 16 * 16 * 3
    assert catalogue.image_features.min() >= 0
    assert catalogue.image_features.max() <= 1
    sizes = [len(VOCABULARY[attribute]) for attribute in VISIBLE]
    values = np.indices(sizes).reshape(3, -1).T
    samples = render(np.random.default_rng(1), values).reshape(len(values), -1).astype(float)
    pixels = catalogue.image_features.astype(float)
    distance = (samples**2).sum(axis=1) - 2 * pixels @ samples.T
    read = values[distance.argmin(axis=1)]
    true = home.attributes[catalogue.image_rows >= 0][:, [COLOUR, PATTERN, SHAPE]]
    assert (read == true).mean(axis=0) == pytest.approx(1, abs=0.01)


def paint(colour, pattern, shape):
    """The mean of 50 images, so that the noise does not matter."""
    values = [
        next(index for index, words in enumerate(VOCABULARY[attribute]) if word in words)
        for attribute, word in zip(VISIBLE, (colour, pattern, shape), strict=True)
    ]
    return render(np.random.default_rng(0), np.tile(values, (50, 1))).astype(float).mean(axis=0)


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [("red", "E02020"), ("yellow", "F0E020"), ("navy", "2040D0"), ("brown", "704020")],
)
def test_a_colour_is_painted_in_its_colour(colour, rgb):
    """The palette matches the words red, yellow, navy and brown."""
    centre = paint(colour, "plain", "square")[4:12, 4:12].mean(axis=(0, 1)) * 255
    np.testing.assert_allclose(centre, list(bytes.fromhex(rgb)), atol=3)


def test_shapes_and_patterns_look_like_their_names():
    """The masks of shapes and patterns match their words."""
    ink = {
        shape: (paint("blue", "plain", shape)[..., 0] < 0.5).astype(int)
        for shape in ("round", "square", "rhombic", "slim")
    }
    # The width of the ink from the top row to the middle one.
    assert ink["square"].sum(axis=1)[:8].tolist() == [0] + [14] * 7
    assert ink["slim"].sum(axis=1)[:8].tolist() == [6] * 8
    assert ink["rhombic"].sum(axis=1)[:8].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert ink["round"].sum(axis=1)[:8].tolist() == [0, 6, 8, 10, 12, 14, 14, 14]
    dark = {
        pattern: (paint("red", pattern, "square")[2:14, 2:14, 0] < 0.6).astype(int)
        for pattern in ("plain", "striped", "checked", "dotted")
    }
    assert dark["plain"].sum() == 0
    assert dark["striped"][:4].tolist() == [[0] * 12] * 2 + [[1] * 12] * 2
    assert dark["checked"][1:7, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert dark["dotted"][2, :6].tolist() == [0, 0, 1, 1, 0, 0]
    red = paint("red", "ombre", "square")[2:14, 8, 0]
    assert (np.diff(red) < 0).all()


def agreement(domain, lag):
    """How often items `lag` steps apart in a history share material, use and style."""
    values = [domain.attributes[history][:, :3] for history in histories(domain.dataset)]
    return np.concatenate([value[lag:] == value[:-lag] for value in values]).mean()


def test_tastes_drift():
    """With drift, items far apart in a history agree less; without it, they agree as before."""
    sizes = {"users": 400, "items": 400, "min_length": 12, "mean_length": 12, "max_length": 12}
    steady = make_domain(0, TARGET, WorldConfig(**sizes, drift=0))
    drifting = make_domain(0, TARGET, WorldConfig(**sizes, drift=0.2))
    assert agreement(steady, 8) == pytest.approx(agreement(steady, 1), abs=0.03)
    assert agreement(drifting, 8) < 0.7 * agreement(drifting, 1)


def test_the_last_type_leads_to_its_complement():
    """A history's order has meaning: the complement follows over three times as often."""

    def share(complement):
        domain = make_domain(0, TARGET, WorldConfig(users=400, items=400, complement=complement))
        types = [domain.attributes[history, -1] for history in histories(domain.dataset)]
        last = np.concatenate([kinds[:-1] for kinds in types])
        following = last // 4 * 4 + (last + 1) % 4
        return (np.concatenate([kinds[1:] for kinds in types]) == following).mean()

    assert share(3.0) > 3 * share(0.0)


def recall(dataset, scores):
    """Recall@10 over all items that the user has not met, half a rank for a tie."""
    split = leave_one_out(dataset.interactions)
    scores = scores.astype(np.float64)
    for row, history in zip(scores, histories(dataset), strict=True):
        row[history[:-1]] = -np.inf
    target = dataset.interactions.items[split.test]
    of_target = scores[np.arange(len(scores)), target][:, None]
    rank = (scores > of_target).sum(axis=1) + 0.5 * ((scores == of_target).sum(axis=1) - 1)
    return (rank < 10).mean()


def one_hot(domain, known):
    """Attribute vectors of unit length with the values that are known, zero elsewhere."""
    columns = [np.eye(column.max() + 1)[column] for column in domain.attributes.T]
    vectors = np.concatenate(
        [column * mask[:, None] for column, mask in zip(columns, known.T, strict=True)], axis=1
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_content_tells_more_than_ids_and_ids_more_than_popularity(home):
    """Texts beat IDs, and images add to texts, which is the premise of the world."""
    dataset = home.dataset
    train = [history[:-2] for history in histories(dataset)]
    popularity = np.bincount(np.concatenate(train), minlength=dataset.num_items)
    # How often an item follows another within three steps; near ones count more.
    follows = np.zeros((dataset.num_items, dataset.num_items))
    # The five items before the target; recent ones count more.
    recent, even = np.zeros((2, dataset.num_users, dataset.num_items))
    for user, history in enumerate(histories(dataset)):
        for lag in (1, 2, 3):
            follows[train[user][:-lag], train[user][lag:]] += 1 / lag
        last = history[-2:-7:-1]
        recent[user, last] = 1 / np.arange(1, len(last) + 1)
        even[user, last] = 1
    seen = home.told.copy()
    seen[:, [COLOUR, PATTERN, SHAPE]] |= dataset.catalogue.image_rows[:, None] >= 0

    def nearest(known):
        vectors = one_hot(home, known)
        return recall(dataset, even @ vectors @ vectors.T)

    popular = recall(dataset, np.tile(popularity, (dataset.num_users, 1)))
    markov = recall(dataset, recent @ follows + 1e-4 * popularity)
    read, read_and_seen = nearest(home.told), nearest(seen)
    truth = nearest(np.ones_like(home.told))
    assert 0.02 < popular < 0.05
    assert markov > 1.5 * popular
    assert read > 1.1 * markov
    assert read_and_seen > 1.2 * read
    assert truth > 1.7 * markov


def test_sizes_come_from_the_flags():
    """The --synthetic_… options are used, down to a world of 10 users and 20 items."""
    config = DataConfig(synthetic_seed=5, synthetic_users=10, synthetic_items=20)
    dataset = synthetic_dataset(config)
    assert dataset.num_users == 10
    assert 10 <= dataset.num_items <= 20
    assert dataset.interactions.lengths.max() <= 10
    other = DataConfig(synthetic_seed=6, synthetic_users=10, synthetic_items=20)
    assert synthetic_dataset(other).fingerprint != dataset.fingerprint
    assert synthetic_dataset(config).fingerprint == dataset.fingerprint


def test_extreme_shares_and_few_values():
    """Shares of 0 and 1 and a vocabulary of two values are taken at their word."""
    blind = make_domain(
        0, TARGET, WorldConfig(users=60, items=80, missing_images=1, missing_texts=1, values=2)
    )
    assert (blind.dataset.catalogue.image_rows == -1).all()
    assert set(blind.dataset.catalogue.texts["brand"]) == {""}
    assert blind.attributes[:, :-1].max() == 1
    full = make_domain(
        0, TARGET, WorldConfig(users=60, items=80, missing_images=0, missing_texts=0, told=1)
    )
    has_image = full.dataset.catalogue.image_rows
    assert has_image is not None
    assert has_image.min() == 0
    assert full.told.all()


def test_an_impossible_length_is_refused():
    """A mean below the shortest history is refused with the lengths that are possible."""
    with pytest.raises(UserError, match="mean_length: found 4, expected 5 to 30"):
        WorldConfig(mean_length=4)
