"""A small world with text, images and behaviour: the embedded default data set.

Several domains share one vocabulary of attributes. A user likes one value of each, and the
liking drifts; the next item depends on it, on the last item's type and on popularity. Texts name
attributes in everyday words; images show those of `VISIBLE`, which most texts leave out. So a
model that reads knows what sparse behaviour cannot tell: the paper's premise (Section 1).
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float16, Float64, Int32, Int64, Integer

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions


def _words(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group.split("/")) for group in text.split(","))


_VALUES = {
    "material": "wooden/oak/walnut,steel/metal,glass/crystal,cotton/linen,leather/suede,ceramic/"
    "porcelain,plastic/acrylic,wool/felt,bamboo/rattan,marble/granite,rubber/silicone,cardboard",
    "use": "cooking/baking,camping/hiking,gardening/growing plants,reading/book lovers,painting/"
    "drawing/artists,yoga/fitness/workouts,birthday parties/celebrations,studying/school/"
    "students,travel/holidays,dogs/cats/pets,toddlers/small children,bathing/the spa",
    "style": "modern/minimalist,rustic/farmhouse/country,vintage/retro/antique,industrial/rugged,"
    "bohemian/boho,luxury/elegant,cute/kawaii,nautical/coastal,gothic/medieval,tropical/jungle",
    "colour": "red/crimson/scarlet,orange/tangerine,yellow/lemon,green/emerald,turquoise/aqua,"
    "blue/navy/cobalt,purple/violet,pink/rose,brown/chocolate,black/ebony",
    "pattern": "plain/unpatterned,striped,checked/plaid,dotted/polka-dot,zigzag,ombre",
    "shape": "round/circular,square/boxy,diamond-shaped/rhombic,tall/slim",
}
VOCABULARY = {attribute: _words(text) for attribute, text in _VALUES.items()}
"""The attributes that domains share: their values, and the words that name each."""
ATTRIBUTES = (*VOCABULARY, "type")
"""Columns of `SyntheticDomain.attributes`."""
_SEEN = slice(3, 6)
VISIBLE = ATTRIBUTES[_SEEN]
"""What an image shows."""

# Seconds: 2020-01-01 UTC, where the clock begins, and a year.
_EPOCH, _YEAR = 1_577_836_800, 31_557_600

# A department and its types; a type's complement is the next one, around the department.
_DEPARTMENTS = {
    "home": "kitchen/kettle/teapot/mug/bowl,bedroom/blanket/cushion/pillow/quilt,lighting/lamp/"
    "candle holder/lantern/night light,storage/basket/box/shelf/rack,walls/mirror/clock/picture "
    "frame/wall hanging",
    "garden": "plants/planter/watering can/trowel/flower pot,wildlife/bird feeder/bird bath/"
    "nesting box/bee house,seating/bench/hammock/deck chair/swing,decor/fountain/wind chime/"
    "garden statue/sundial",
    "office": "writing/pen/pencil/notebook/writing pad,filing/binder/folder/file box/index cards,"
    "furniture/desk/office chair/footrest/bookcase,planning/calendar/planner/pin board/wall chart",
    "outdoors": "shelter/tent/sleeping bag/camping mat/tarp,cookware/camp stove/cook set/flask/"
    "cooler,bags/backpack/bike bag/waist pack/duffel,play/kite/frisbee/paddle/slackline",
    "crafts": "drawing/sketchbook/charcoal/easel/pastels,sewing/needle case/thread/pin cushion/"
    "sewing kit,knitting/yarn/knitting needles/crochet hook/loom,paper/album/stickers/stamp/ribbon",
    "music": "guitars/guitar/plectrum/capo/guitar strap,drums/drum/drumsticks/cymbal/bongos,wind/"
    "flute/recorder/clarinet/harmonica,listening/headphones/speaker/record player/radio",
}
DOMAINS = tuple(_DEPARTMENTS)
TARGET = "home"
_TYPES = 4  # of a department
_BRANDS = "Al,Ber,Cal,Dor,El,Fen,Gal,Hol,Iver,Jan,Kel,Lun,Mar,Nor,Os,Pel,Quin,Ros,Sol,Tor"

# Log-odds of an item that has the liked value, in the order of ATTRIBUTES. Sums of eighths are
# exact in float32, so they do not depend on the BLAS.
_LIKING = np.array([2.5, 3.5, 2.5, 2.5, 2.25, 1.25, 5], np.float32)

_CODES = "E02020 F08010 F0E020 209030 20D0D0 2040D0 8020B0 F080C0 704020 181818"
PALETTE = np.array([*bytes.fromhex(_CODES)], np.float32).reshape(-1, 3) / 255
"""Red, green and blue of every colour value."""
_ROW, _COLUMN = np.mgrid[:16, :16]
_Y, _X = np.abs(_ROW - 7.5), np.abs(_COLUMN - 7.5)
# One mask a shape: where there is ink. One a pattern: how dark it is.
_OUTLINES = np.stack([np.hypot(_X, _Y) < 7, np.maximum(_X, _Y) < 7, _X + _Y < 8, _X < 3])
_CHECKS, _DOTS = (_ROW // 3 + _COLUMN // 3) % 2, (_ROW % 4 < 2) & (_COLUMN % 4 < 2)
_SHADES = np.stack([0 * _X, _ROW % 4 < 2, _CHECKS, _DOTS, (_ROW + _X) % 6 < 3, _ROW / 15])


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Sizes and tendencies of a domain."""

    users: int = option(2000, "Users.", low=1)
    items: int = option(1500, "Items made; those that nobody meets are dropped.", low=20)
    min_length: int = option(5, "Shortest history, in items.", low=1)
    mean_length: float = option(8.0, "Mean history, before the cut at max_length.", low=1)
    max_length: int = option(30, "Longest history; at most half the items.", low=1)
    values: int = option(12, "Most values of a shared attribute.", low=1)
    missing_images: float = option(0.25, "Share of items without an image.", low=0, high=1)
    missing_texts: float = option(0.15, "Share of items with a bare title.", low=0, high=1)
    told: float = option(0.3, "Share of texts that name a visible attribute.", low=0, high=1)
    drift: float = option(0.06, "Chance a step to renew a liked value.", low=0, high=1)
    taste: float = option(1.0, "Weight of the liked values.", low=0, high=3)
    complement: float = option(1.5, "Log-odds of the last type's complement.", low=0, high=9)
    popularity: float = option(1.2, "Exponent of the items' popularity.", low=0)

    def __post_init__(self):
        validate(self)
        low, high = self.min_length, self.max_length
        if not low <= self.mean_length <= high:
            raise UserError(f"mean_length: found {self.mean_length:g}, expected {low} to {high}")


@dataclasses.dataclass(frozen=True)
class SyntheticDomain:
    """A data set and the truth that it was made of, which no model is given.

    Attributes:
        dataset: all that models see.
        attributes: the value of every attribute of `ATTRIBUTES`.
        told: whether the item's text names it.
    """

    dataset: Dataset
    attributes: Int32[np.ndarray, "items attributes"]
    told: Bool[np.ndarray, "items attributes"]


def synthetic_dataset(config: DataConfig) -> Dataset:
    """The target domain at the size that the flags ask for."""
    world = WorldConfig(users=config.synthetic_users, items=config.synthetic_items)
    return make_domain(config.synthetic_seed, TARGET, world).dataset


def make_domain(seed: int, name: str, config: WorldConfig) -> SyntheticDomain:
    """Makes items, then histories, then what can be read and seen; name: one of `DOMAINS`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = [min(len(words), config.values) for words in VOCABULARY.values()]
    values.append(_TYPES * len(_words(_DEPARTMENTS[name])))
    shares = [rng.dirichlet(np.full(count, 4.0)) for count in values]
    attributes = _draw(rng, shares, config.items)
    histories, lengths = _histories(rng, attributes, shares, config)
    # Candidates are the items that occur, so the others leave the catalogue too.
    kept, items = np.unique(histories[histories >= 0], return_inverse=True)
    attributes = attributes[kept]
    bare = rng.random(len(kept)) < config.missing_texts
    told = np.tile(~bare[:, None], len(ATTRIBUTES))
    told[:, _SEEN] &= rng.random((len(kept), len(VISIBLE))) < config.told
    told[:, -1] = True
    has_image = rng.random(len(kept)) >= config.missing_images
    pixels = render(rng, attributes[has_image][:, _SEEN])
    image_rows = np.where(has_image, np.cumsum(has_image) - 1, -1).astype(np.int32)
    texts = _texts(rng, name, attributes, told)
    indptr = offsets_of(lengths)
    dataset = Dataset(
        name=f"synthetic-{name}",
        interactions=Interactions(indptr, items.astype(np.int32), _timestamps(seed, name, indptr)),
        catalogue=Catalogue(texts, pixels.reshape(-1, 768), image_rows, image_shape=(16, 16, 3)),
        user_ids=tuple(f"{name}-u{user}" for user in range(config.users)),
        item_ids=tuple(f"{name}-i{item}" for item in kept),
    )
    return SyntheticDomain(dataset, attributes, told)


def _timestamps(
    seed: int, name: str, indptr: Int64[np.ndarray, " users_plus_1"]
) -> Int64[np.ndarray, " interactions"]:
    """A clock that the users share: each begins within two years, a fortnight between two items.

    Drawn apart from everything else, so a world is the same with and without its clock.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), 1])
    users, interactions = len(indptr) - 1, int(indptr[-1])
    begins = rng.uniform(0, 2 * _YEAR, users)
    gaps = rng.exponential(_YEAR / 26, interactions)
    gaps[indptr[:-1]] = 0
    passed = np.cumsum(gaps)
    within = passed - np.repeat(passed[indptr[:-1]], np.diff(indptr))
    seconds = _EPOCH + np.repeat(begins, np.diff(indptr)) + within
    return (seconds * 1e6).astype(np.int64)


def render(
    rng: np.random.Generator, values: Integer[np.ndarray, "images visible"]
) -> Float16[np.ndarray, "images 16 16 3"]:
    """Paints the values of `VISIBLE` on a pale ground, with noise; pixels in [0, 1]."""
    colour, pattern, shape = values.T
    ink = PALETTE[colour][:, None, None] * (1 - 0.6 * _SHADES[pattern][..., None])
    pixels = np.where(_OUTLINES[shape][..., None], ink, 0.92)
    return np.clip(pixels + rng.normal(0, 0.04, pixels.shape), 0, 1).astype(np.float16)


def _draw(
    rng: np.random.Generator, shares: Sequence[Float64[np.ndarray, " _values"]], count: int
) -> Int32[np.ndarray, "count attributes"]:
    """Draws values, those of every attribute by its own shares."""
    return np.stack([rng.choice(len(p), count, p=p) for p in shares], axis=1).astype(np.int32)


def _histories(
    rng: np.random.Generator,
    attributes: Int32[np.ndarray, "items attributes"],
    shares: Sequence[Float64[np.ndarray, " _values"]],
    config: WorldConfig,
) -> tuple[Int32[np.ndarray, "users longest"], Int64[np.ndarray, " users"]]:
    """Draws every user's items, none twice, and the lengths; −1 after the last item."""
    sizes = np.array([len(share) for share in shares])
    first = np.cumsum(sizes) - sizes
    items, types = np.arange(len(attributes)), attributes[:, -1]
    has = np.zeros((sizes.sum(), len(items)), np.float32)
    # Who likes a type likes the rest of its department a quarter as much.
    has[first[-1] :] = (np.arange(sizes[-1])[:, None] // _TYPES == types // _TYPES) / 4
    has[(attributes + first).T, items] = 1
    # Zipf and Mandelbrot's law: the offset keeps the very first from taking it all.
    rank = rng.permutation(items) + 1 + 0.05 * len(items)
    base = -config.popularity * np.log(rank).astype(np.float32)
    extra = rng.geometric(1 / (1 + config.mean_length - config.min_length), config.users) - 1
    longest = min(config.max_length, len(items) // 2)
    lengths = np.minimum(config.min_length + extra, longest)
    histories = np.full((config.users, longest), -1, np.int32)
    taste = _draw(rng, shares, config.users)
    for step in range(lengths.max()):
        (active,) = np.nonzero(lengths > step)
        renewed = rng.random((len(active), len(sizes))) < config.drift
        taste[active] = np.where(renewed, _draw(rng, shares, len(active)), taste[active])
        # Blocks bound the memory of users × items.
        for users in np.array_split(active, len(active) // 1000 + 1):
            rows = np.arange(len(users))
            likes = np.zeros((len(users), len(has)), np.float32)
            likes[rows[:, None], taste[users] + first] = config.taste * _LIKING
            if step:
                last = types[histories[users, step - 1]]
                complement = last // _TYPES * _TYPES + (last + 1) % _TYPES
                likes[rows, first[-1] + complement] += config.complement
            odds = np.exp(likes @ has + base)
            odds[rows[:, None], histories[users, :step]] = 0
            cumulative = np.cumsum(odds, axis=1)
            point = rng.random((len(users), 1)) * cumulative[:, -1:]
            histories[users, step] = (cumulative <= point).sum(axis=1)
    return histories, lengths


def _texts(
    rng: np.random.Generator,
    domain: str,
    attributes: Int32[np.ndarray, "items attributes"],
    told: Bool[np.ndarray, "items attributes"],
) -> dict[str, tuple[str, ...]]:
    """Writes the fields of `TEXT_FIELDS` with the values that are told."""
    # Two brands a style: a hint, but one that only behaviour explains.
    brands = [stem + domain for stem in rng.permutation(_BRANDS.split(",")).tolist()]
    departments = _words(_DEPARTMENTS[domain])
    rows = []
    for (*values, kind), names in zip(attributes.tolist(), told.tolist(), strict=True):
        department, *products = departments[kind // _TYPES]
        product = products[kind % _TYPES]
        if not names[0]:
            rows.append((product.capitalize(), "", "", ""))
            continue
        named = [words[value] for words, value in zip(VOCABULARY.values(), values, strict=True)]
        # Title and description may use two synonyms.
        first, second = [[word[rng.integers(len(word))] for word in named] for _ in range(2)]
        looks = [word for word, name in zip(first[_SEEN], names[_SEEN], strict=True) if name]
        title = " ".join([first[2], *looks, first[0], product, "for", first[1]])
        brand = brands[2 * values[2] + rng.integers(2)]
        description = f"This {second[2]} {product} is made of {second[0]}, for {second[1]}."
        rows.append((title, brand, f"{domain}, {department}, {product}", description))
    return dict(zip(TEXT_FIELDS, zip(*rows, strict=True), strict=True))
