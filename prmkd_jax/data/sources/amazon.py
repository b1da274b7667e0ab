"""Amazon's raw reviews and metadata as the McAuley lab publishes them: 2014, 2018 and 2023.

A file is gzipped, one JSON object a line; in 2014's some lines are Python literals. What the
fields are called depends on the generation, and so do the files' names:

    2014  reviews_Beauty.json.gz  reviews_Beauty_5.json.gz  ratings_Beauty.csv  meta_Beauty.json.gz
    2018  All_Beauty.json.gz      All_Beauty_5.json.gz      All_Beauty.csv      meta_All_Beauty.json.gz
    2023  All_Beauty.jsonl.gz                               All_Beauty.csv.gz   meta_All_Beauty.jsonl.gz
"""  # noqa: E501

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import is_there
from prmkd_jax.data.sources.clean import item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.csv_rows import csv_rows
from prmkd_jax.data.sources.files import MissingSource, expanded
from prmkd_jax.data.sources.log import canonical
from prmkd_jax.data.sources.place import short, shown
from prmkd_jax.data.sources.rows import FrameBatch, columns_of, dicts, frames
from prmkd_jax.data.sources.source import Source
from prmkd_jax.data.sources.times import Clock
from prmkd_jax.data.sources.values import Row, Value

# The public sites of the data, by generation; --base_url takes their place.
SITES = {
    "2014": "https://snap.stanford.edu/data/amazon/productGraph",
    "2018": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    "2023": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023",
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """One release: its field names, its file names, and where they lie below the site.

    Attributes:
        reviews: canonical name → field of a review.
        ratings: columns of the csv of ratings.
        ratings_header: whether that csv begins with them.
        items: canonical name → field of the metadata.
        files: name in `--reviews` → folder on the site, and pattern of the file's name.
        metadata: the same of the metadata.
    """

    reviews: Mapping[str, str]
    ratings: Sequence[str]
    ratings_header: bool
    items: Mapping[str, str]
    files: Mapping[str, tuple[str, str]]
    metadata: tuple[str, str]


_2014 = Generation(
    reviews={
        "user_id": "reviewerID",
        "item_id": "asin",
        "timestamp": "unixReviewTime",
        "rating": "overall",
    },
    ratings=("user_id", "item_id", "rating", "timestamp"),
    ratings_header=False,
    items={
        "item_id": "asin",
        "title": "title",
        "brand": "brand",
        "price": "price",
        "categories": "categories",
        "description": "description",
        "image_url": "imUrl",
    },
    files={
        "full": ("categoryFiles", "reviews_{}.json.gz"),
        "5core": ("categoryFiles", "reviews_{}_5.json.gz"),
        "ratings": ("categoryFiles", "ratings_{}.csv"),
    },
    metadata=("categoryFiles", "meta_{}.json.gz"),
)

GENERATIONS: Mapping[str, Generation] = {
    "2014": _2014,
    "2018": dataclasses.replace(
        _2014,
        ratings=("item_id", "user_id", "rating", "timestamp"),
        items={**_2014.items, "categories": "category", "image_url": "imageURLHighRes"},
        files={
            "full": ("categoryFiles", "{}.json.gz"),
            "5core": ("categoryFilesSmall", "{}_5.json.gz"),
            "ratings": ("categoryFilesSmall", "{}.csv"),
        },
        metadata=("metaFiles2", "meta_{}.json.gz"),
    ),
    "2023": Generation(
        reviews={
            "user_id": "user_id",
            "item_id": "parent_asin",
            "timestamp": "timestamp",
            "rating": "rating",
        },
        ratings=("user_id", "parent_asin", "rating", "timestamp"),
        ratings_header=True,
        items={
            "item_id": "parent_asin",
            "title": "title",
            "brand": "store",
            "price": "price",
            "categories": "categories",
            "description": "description",
            "image_url": "images",
        },
        files={
            "full": ("raw/review_categories", "{}.jsonl.gz"),
            "5core": ("benchmark/5core/rating_only", "{}.csv.gz"),
            "ratings": ("benchmark/0core/rating_only", "{}.csv.gz"),
        },
        metadata=("raw/meta_categories", "meta_{}.jsonl.gz"),
    ),
}


def open_amazon(config: PrepareConfig, clock: Clock) -> Source:
    """Reads reviews and metadata in the folder `--raw_dir`.

    Raises:
        UserError: a file is missing, or its fields are another generation's.
    """
    generation = GENERATIONS[config.generation]
    reviews, metadata = raw_files(config)
    if not _is_csv(reviews):
        known = {year: list(other.reviews.values()) for year, other in GENERATIONS.items()}
        _require(reviews, columns_of(reviews, "jsonl", first=True), config.generation, known)
    elif generation.ratings_header:
        _require(reviews, columns_of(reviews, "csv"), "2023", {"2023": generation.ratings})
    else:
        _require_ratings(reviews, config.generation)
    if metadata is not None:
        known = {year: [other.items["item_id"]] for year, other in GENERATIONS.items()}
        _require(metadata, columns_of(metadata, "jsonl", first=True), config.generation, known)
    return Source(
        interactions=_reviews(reviews, generation, clock),
        items=_metadata(metadata, generation) if metadata else None,
        timed=True,
        ordered=True,
        files=(reviews, *([metadata] if metadata else [])),
        notes=(f"reviews: {reviews.name}", f"metadata: {metadata.name if metadata else 'none'}"),
    )


def wanted_files(config: PrepareConfig) -> list[tuple[str, str]]:
    """The folder on the site and the name of the two files of a category."""
    generation = GENERATIONS[config.generation]
    return [
        (folder, name.format(config.category))
        for folder, name in (generation.files[config.reviews], generation.metadata)
    ]


def raw_files(config: PrepareConfig) -> tuple[Path, Path | None]:
    """The files of reviews and of metadata, gzipped or not; by `--category`, or the only ones.

    Raises:
        MissingSource: there is no file of reviews.
        UserError: there is more than one that could be it.
    """
    folder = expanded(config.raw_dir)
    if config.category:
        names = [name for _, name in wanted_files(config)]
        reviews, metadata = (_either(folder, name) for name in names)
        if reviews is None:
            raise MissingSource(
                f"--raw_dir={folder}: found no {names[0]}, expected it for --category="
                f"{config.category}; --download fetches it"
            )
        return reviews, metadata
    files = [path for path in sorted(folder.glob("*")) if _is_raw(path)]
    metadata = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in metadata]
    if len(reviews) != 1 or len(metadata) > 1:
        found = ", ".join(path.name for path in files) or "none"
        kind = UserError if reviews else MissingSource
        raise kind(
            f"--raw_dir={folder}: found {found}, expected one file of reviews and one meta_… file, "
            "or --category to choose"
        )
    return reviews[0], metadata[0] if metadata else None


def _either(folder: Path, name: str) -> Path | None:
    paths = [folder / name, folder / name.removesuffix(".gz")]
    return next((path for path in paths if is_there(path)), None)


def _is_raw(path: Path) -> bool:
    endings = (".json", ".jsonl", ".csv")
    named = path.name.removesuffix(".gz").endswith(endings)
    return named and not path.is_dir() and is_there(path)


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".csv")


def _reviews(path: Path, generation: Generation, clock: Clock) -> Iterator[FrameBatch]:
    if _is_csv(path):
        header = generation.ratings_header
        columns = {
            name: generation.reviews[name] if header else name
            for name in ("user_id", "item_id", "rating", "timestamp")
        }
        batches = frames(path, generation.ratings, "csv", header)
        yield from canonical(batches, columns, clock)
        return
    fields = generation.reviews
    identifiers = [fields["user_id"], fields["item_id"]]
    batches = frames(path, list(fields.values()), "jsonl", identifiers=identifiers)
    yield from canonical(batches, fields, clock)


def _metadata(path: Path, generation: Generation) -> Iterator[pl.DataFrame]:
    for rows, place in dicts(path, list(generation.items.values()), "jsonl"):
        yield item_frame((_item(row, generation.items) for row in rows), place.of("item_id"))


def _item(row: Row, fields: Mapping[str, str]) -> Row:
    named = {name: row.get(field) for name, field in fields.items()}
    named["image_url"] = first_image(named.get("image_url"))
    return named


def first_image(value: Value) -> str | None:
    """The address of an item's first image, in the largest form that is there.

    >>> first_image([{"hi_res": None, "large": "https://a/b.jpg", "variant": "MAIN"}])
    'https://a/b.jpg'
    """
    if isinstance(value, list | tuple):
        return next(filter(None, map(first_image, value)), None)
    if isinstance(value, dict):
        return first_image([value.get(size) for size in ("hi_res", "large", "thumb")])
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def _require_ratings(path: Path, generation: str) -> None:
    """Refuses ratings without a header that are another generation's.

    2014's and 2018's differ in their order alone. An item's id has ten characters, a user's more.
    """
    begin = [cells for _, cells in itertools.islice(csv_rows(path, "csv"), 1000) if len(cells) > 1]
    for year, other in GENERATIONS.items():
        if other.ratings_header and begin and begin[0] == list(other.ratings):
            raise UserError(
                f"{path}: found the header {shown(begin[0])}, expected none (it is that of "
                f"--generation={year})"
            )
    place = {name: GENERATIONS[generation].ratings.index(name) for name in ("user_id", "item_id")}
    users, items = ([cells[at] for cells in begin] for at in place.values())
    if users and {*map(len, users)} == {10} and {*map(len, items)} != {10}:
        other = "2014" if generation == "2018" else "2018"
        raise UserError(
            f"{path}: found the user {short(users[0])} and the item {short(items[0])}, which look "
            f"like an item and a user, expected the order of --generation={generation} (it is "
            f"that of --generation={other})"
        )


def _require(
    path: Path, found: Sequence[str], generation: str, known: Mapping[str, Sequence[str]]
) -> None:
    """Refuses a file that lacks a generation's fields, and says whose fields it has."""
    missing = [name for name in known[generation] if name not in found]
    if not missing:
        return
    fit = [year for year, names in known.items() if set(names) <= set(found)]
    hint = f" (the fields are those of --generation={fit[0]})" if fit else ""
    raise UserError(f"{path}: found fields {shown(found)}, expected {', '.join(missing)}{hint}")
