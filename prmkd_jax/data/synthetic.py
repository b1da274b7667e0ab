"""A small world with text, pictures and behaviour: the embedded default data set.

Several domains share one vocabulary of attributes. A user's taste is one liked value of every
attribute, and it drifts; the next item depends on the taste, on the type of the last item and
on popularity. Texts name the attributes in everyday words with synonyms, pictures show
`VISIBLE` ones that most texts leave out. So a model that reads knows what sparse behaviour
cannot tell an ID model, which is the premise of the paper (Section 1).
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int32, Int64

from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions
from prmkd_jax.data.errors import UserError
from prmkd_jax.data.option import option, validate

# Value words: "," between values, "/" between synonyms of one value.
_WORDS = {
    "material": "wooden/oak/walnut,steel/iron/metal,glass/crystal,cotton/linen/canvas,"
    "leather/suede,ceramic/porcelain/stoneware,plastic/acrylic,wool/felt,bamboo/rattan/wicker,"
    "marble/granite/slate,rubber/silicone,paper/cardboard",
    "use": "cooking/baking/chefs,camping/hiking,gardening/growing plants,reading/book lovers,"
    "painting/drawing/artists,yoga/fitness/workouts,birthday parties/celebrations,"
    "studying/school/students,travel/long flights/holidays,dogs/cats/pets,toddlers/small children,"
    "the bath/relaxing at the spa",
    "style": "modern/minimalist/sleek,rustic/farmhouse/country,vintage/retro/antique,"
    "industrial/rugged/heavy-duty,bohemian/boho/hippie,luxury/elegant/premium,"
    "cute/kawaii/playful,nautical/coastal/seaside,gothic/medieval,tropical/jungle/botanical",
    "colour": "red/crimson/scarlet,orange/tangerine,yellow/lemon,green/emerald,"
    "turquoise/aqua,blue/navy/cobalt,purple/violet,pink/rose,brown/chocolate,black/ebony",
    "pattern": "plain/solid-coloured,striped/pinstriped,checked/plaid/gingham,"
    "dotted/polka-dot,zigzag/chevron,ombre/gradient",
    "shape": "round/circular,square/boxy,diamond-shaped/rhombic,tall/slim",
}
ATTRIBUTES = (*_WORDS, "type", "department")
"""Columns of `Domain.attributes`; all but the type mean the same in every domain."""
VISIBLE = ("colour", "pattern", "shape")
"""What a picture shows."""
VALUES = {
    name: tuple(tuple(value.split("/")) for value in words.split(","))
    for name, words in _WORDS.items()
}

# Departments and their product types; a type's complement is the next one of the department.
_CATALOGUES = {
    "home": "kitchen:kettle,teapot,mug,bowl;bedroom:blanket,cushion,pillow,quilt;"
    "lighting:lamp,candle holder,lantern,night light;storage:basket,box,shelf,rack;"
    "wall decor:mirror,clock,picture frame,wall hanging",
    "garden": "plant care:planter,watering can,trowel,flower pot;"
    "wildlife:bird feeder,bird bath,nesting box,bee house;seating:bench,hammock,deck chair,swing;"
    "decor:fountain,wind chime,garden statue,sundial;barbecue:grill,fire pit,skewer,apron",
    "office": "writing:pen,pencil,notebook,writing pad;desktop:mouse pad,keyboard tray,monitor "
    "stand,desk lamp;filing:binder,folder,file box,index cards;furniture:desk,office chair,"
    "footrest,bookcase;planning:calendar,planner,bulletin board,wall chart",
    "outdoors": "shelter:tent,sleeping bag,camping mat,tarp;camp kitchen:camp stove,cook set,"
    "water bottle,cooler;bags:backpack,bike bag,waist pack,duffel;"
    "angling:fishing rod,tackle box,lure,landing net;play:kite,frisbee,paddle,slackline",
    "crafts": "drawing:sketchbook,charcoal,easel,pastels;sewing:needle case,thread,pin cushion,"
    "sewing kit;knitting:yarn,knitting needles,crochet hook,loom;"
    "jewellery:beads,bracelet kit,charms,clasps;scrapbooking:album,stickers,stamp,ribbon",
    "music": "guitars:guitar,plectrum,capo,guitar strap;drums:drum,drumsticks,cymbal,bongos;"
    "wind:flute,recorder,clarinet,harmonica;keyboards:piano,piano bench,keyboard stand,pedal;"
    "listening:headphones,speaker,record player,radio",
}
_TYPES = {
    domain: [
        (department, product)
        for line in "".join(lines).split(";")
        for department, products in [line.split(":")]
        for product in products.split(",")
    ]
    for domain, lines in _CATALOGUES.items()
}
_GROUP = 4
_BRAND_ENDINGS = dict(
    zip(_TYPES, ("haus", "field", "desk", "trail", "craft", "tone"), strict=True)
)
_BRAND_STEMS = (
    "Al,Ber,Cal,Dor,El,Fen,Gal,Hol,Iver,Jan,Kel,Lun,Mar,Nor,Os,Pel,Quin,Ros,Sol,Tor,"
    "Ul,Ver,Wil,Xan,Yor,Zel,Bram,Cor,Dal,Esk"
).split(",")
DOMAINS = tuple(_TYPES)
TARGET = "home"

CARE = np.array([1, 1, 1, 0.6, 0.6, 0.6, 0.5], np.float32)

SIDE = 16
"""A picture has SIDE × SIDE pixels of red, green and blue."""
PALETTE = np.array(
    "E02020 F08010 F0E020 209030 20D0D0 2040D0 8020B0 F080C0 704020 181818".split()
)
PALETTE = np.array([list(bytes.fromhex(colour)) for colour in PALETTE], np.float32) / 255


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Sizes and tendencies of one domain."""

    users: int = option(2000, "Users.", low=1)
    items: int = option(1500, "Items made; those that nobody meets are dropped.", low=20)
    min_length: int = option(5, "Shortest history, in items.", low=1)
    mean_length: float = option(8.0, "Mean history, before the cut at max_length.", low=1)
    max_length: int = option(30, "Longest history.", low=1)
    values: int = option(12, "Most values of a shared attribute.", low=2)
    missing_images: float = option(0.25, "Share of items without a picture.", low=0, high=1)
    missing_texts: float = option(0.15, "Share of items with a bare title.", low=0, high=1)
    told: float = option(0.3, "Share of texts that name a visible attribute.", low=0, high=1)
    drift: float = option(0.1, "Chance of a step to renew a liked value.", low=0, high=1)
    taste: float = option(1.7, "Log-odds of an item for each liked value it has.", low=0)
    complement: float = option(1.5, "Log-odds of the types that complement the last.", low=0)
    popularity: float = option(0.8, "Exponent of the items' popularity.", low=0)

    def __post_init__(self):
        validate(self)
        if not self.min_length <= self.mean_length <= self.max_length:
            raise UserError(
                f"mean_length: found {self.mean_length:g}, expected min_length="
                f"{self.min_length} to max_length={self.max_length}"
            )


@dataclasses.dataclass(frozen=True)
class Domain:
    """A data set with the truth behind it, which no model is given.

    Attributes:
        dataset: what models see.
        attributes: the value of every attribute, columns as in `ATTRIBUTES`.
        told: whether the item's text names it.
    """

    dataset: Dataset
    attributes: Int32[np.ndarray, "items attributes"]
    told: Bool[np.ndarray, "items attributes"]


def synthetic_dataset(config: DataConfig) -> Dataset:
    """The target domain at the size that the flags ask for."""
    sizes = WorldConfig(users=config.synthetic_users, items=config.synthetic_items)
    return make_domain(config.synthetic_seed, TARGET, sizes).dataset


def make_world(
    seed: int, domains: Sequence[str] = DOMAINS, config: WorldConfig | None = None
) -> dict[str, Dataset]:
    """Several domains of one vocabulary; each is the same whatever the others are.

    Raises:
        UserError: if a domain is unknown.
    """
    return {name: make_domain(seed, name, config or WorldConfig()).dataset for name in domains}


def make_domain(seed: int, name: str, config: WorldConfig) -> Domain:
    """Makes one domain: items, then histories, then what can be read and seen.

    Raises:
        UserError: if the domain is unknown.
    """
    if name not in _TYPES:
        raise UserError(f"domain: found {name!r}, expected one of {', '.join(DOMAINS)}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = [min(len(VALUES[attribute]), config.values) for attribute in _WORDS]
    values.append(len(_TYPES[name]))
    shares = [rng.dirichlet(np.full(count, 4.0)) for count in values]
    attributes = _draw(rng, shares, config.items)
    histories, lengths = _histories(rng, attributes, shares, config)
    # Candidates are the items that occur, so the others leave the catalogue too.
    kept, items = np.unique(histories[histories >= 0], return_inverse=True)
    attributes = attributes[kept]
    bare = rng.random(len(kept)) < config.missing_texts
    told = np.tile(~bare[:, None], len(ATTRIBUTES))
    seen = [ATTRIBUTES.index(attribute) for attribute in VISIBLE]
    told[:, seen] &= rng.random((len(kept), len(seen))) < config.told
    told[:, -2:] = True
    has_image = rng.random(len(kept)) >= config.missing_images
    pixels = render(rng, *attributes[has_image][:, seen].T)
    dataset = Dataset(
        name=f"synthetic-{name}",
        interactions=Interactions(
            indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=items.astype(np.int32),
        ),
        catalogue=Catalogue(
            texts=_texts(rng, name, attributes, told),
            image_features=pixels.reshape(len(pixels), -1),
            image_rows=np.where(has_image, np.cumsum(has_image) - 1, -1).astype(np.int32),
        ),
        user_ids=tuple(f"{name}-u{user}" for user in range(config.users)),
        item_ids=tuple(f"{name}-i{item}" for item in kept),
    )
    return Domain(dataset, attributes, told)


def render(
    rng: np.random.Generator,
    colour: Int32[np.ndarray, "pictures"],
    pattern: Int32[np.ndarray, "pictures"],
    shape: Int32[np.ndarray, "pictures"],
) -> Float16[np.ndarray, "pictures 16 16 3"]:
    """Paints patterned shapes on a pale ground, with noise; values in [0, 1]."""
    row, column = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    y, x = row - (SIDE - 1) / 2, column - (SIDE - 1) / 2
    outlines = np.stack(
        [x**2 + y**2 < 49, np.abs(x) + 0 * y < 6.5, np.abs(x) + np.abs(y) < 7.6, np.abs(x) < 3]
    )
    outlines[1] &= np.abs(y) < 6.5
    shades = np.stack(
        [
            np.zeros_like(x),
            row % 4 < 2,
            (row // 3 + column // 3) % 2,
            (row % 4 < 2) & (column % 4 < 2),
            (row + np.abs(x)) % 5 < 2,
            row / (SIDE - 1),
        ]
    )
    ink = PALETTE[colour][:, None, None] * (1 - 0.6 * shades[pattern][..., None])
    pixels = np.where(outlines[shape][..., None], ink, np.float32(0.92))
    pixels = pixels + rng.normal(0, 0.04, pixels.shape)
    return np.clip(pixels, 0, 1).astype(np.float16)


def _draw(
    rng: np.random.Generator, shares: Sequence[Float64[np.ndarray, "values"]], count: int
) -> Int32[np.ndarray, "count attributes"]:
    """Draws `count` rows of values, every attribute by its own shares."""
    columns = [rng.choice(len(share), size=count, p=share) for share in shares]
    return np.stack([*columns, columns[-1] // _GROUP], axis=1).astype(np.int32)


def _histories(
    rng: np.random.Generator,
    attributes: Int32[np.ndarray, "items attributes"],
    shares: Sequence[Float64[np.ndarray, "values"]],
    config: WorldConfig,
) -> tuple[Int32[np.ndarray, "users longest"], Int64[np.ndarray, "users"]]:
    """Draws every user's items, none twice, and the lengths; −1 after the last item."""
    sizes = np.array([*map(len, shares), len(shares[-1]) // _GROUP])
    first_column = np.cumsum(sizes) - sizes
    one_hot = np.zeros((sizes.sum(), len(attributes)), np.float32)
    one_hot[(attributes + first_column).T, np.arange(len(attributes))] = 1
    rank = rng.permutation(len(attributes))
    # The offset keeps the few first items from taking it all (Zipf and Mandelbrot's law).
    base = -config.popularity * np.log(rank + 0.01 * len(rank) + 1).astype(np.float32)
    extra = rng.geometric(1 / (config.mean_length - config.min_length + 1), config.users) - 1
    longest = min(config.max_length, len(attributes) // 2)
    lengths = np.minimum(config.min_length + extra, longest)
    histories = np.full((config.users, longest), -1, np.int32)
    taste = _draw(rng, shares, config.users)
    for step in range(lengths.max()):
        (users,) = np.nonzero(lengths > step)
        renewed = rng.random((len(users), len(sizes))) < config.drift
        renewed[:, -1] = renewed[:, -2]
        taste[users] = np.where(renewed, _draw(rng, shares, len(users)), taste[users])
        for block in np.array_split(users, len(users) // 1000 + 1):
            likes = np.zeros((len(block), len(one_hot)), np.float32)
            rows = np.arange(len(block))
            likes[rows[:, None], taste[block] + first_column] = config.taste * CARE
            if step:
                last = attributes[histories[block, step - 1], -2]
                complement = last // _GROUP * _GROUP + (last + 1) % _GROUP
                likes[rows, first_column[-2] + complement] += config.complement
            histories[block, step] = _choose(rng, likes @ one_hot + base, histories[block, :step])
    return histories, lengths


def _choose(
    rng: np.random.Generator,
    logits: Float32[np.ndarray, "users items"],
    taken: Int32[np.ndarray, "users steps"],
) -> Int64[np.ndarray, "users"]:
    """Draws an item a user from the softmax of the logits, none that is taken."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds[np.arange(len(odds))[:, None], taken] = 0
    cumulative = np.cumsum(odds, axis=1)
    point = rng.random(len(odds)) * cumulative[:, -1]
    return (cumulative <= point[:, None]).sum(axis=1)


def _texts(
    rng: np.random.Generator,
    domain: str,
    attributes: Int32[np.ndarray, "items attributes"],
    told: Bool[np.ndarray, "items attributes"],
) -> dict[str, tuple[str, ...]]:
    """Writes the fields of `TEXT_FIELDS`; an item that tells its type only gets a title."""
    # Three brands a style, so a brand is a hint too, but one that only behaviour explains.
    stems = rng.permutation(_BRAND_STEMS)
    style = attributes[:, ATTRIBUTES.index("style")]
    brands = stems[style * 3 + rng.integers(3, size=len(style))]
    rows = []
    for values, names, stem in zip(attributes, told, brands, strict=True):
        department, product = _TYPES[domain][values[-2]]
        if names.sum() == 2:
            rows.append((product.capitalize(), "", "", ""))
            continue
        brand = stem + _BRAND_ENDINGS[domain]

        def word(attribute: str, values=values, names=names) -> str:
            column = ATTRIBUTES.index(attribute)
            synonyms = VALUES[attribute][values[column]]
            return synonyms[rng.integers(len(synonyms))] if names[column] else ""

        looks = " ".join(filter(None, map(word, VISIBLE)))
        title = f"{word('style')} {looks} {word('material')} {product} for {word('use')}"
        categories = f"{domain}, {department}, {product}"
        description = (
            f"A {word('style')} {product} made of {word('material')}, a gift for {word('use')}."
        )
        rows.append((" ".join(title.split()), brand, categories, description))
    return dict(zip(TEXT_FIELDS, zip(*rows, strict=True), strict=True))
