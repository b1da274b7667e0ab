"""What is prepared, from which files, and what is left out."""

import dataclasses
import datetime
import os
import urllib.parse

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.config import data_dir_option
from prmkd_jax.data.sources.files import expanded

SOURCES = ("table", "recbole", "lcrec", "recformer", "amazon")
GENERATIONS = ("2014", "2018", "2023")
UNITS = ("s", "ms", "us", "ns")
DEDUPLICATIONS = ("exact", "consecutive", "pairs")


# What changes no row of the result.
_CHANGES_NO_ROW = (
    *("name", "data_dir", "overwrite", "strict", "download", "base_url"),
    *("download_images", "image_hosts", "image_connections", "encode_images"),
)


# Columns that can't be one.
_APART = ("user_column", "item_column", "timestamp_column", "position_column")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Options of `prepare`: a foreign format becomes a canonical data set.

    The filters are declared, and applied, in this order: `events`, `min_rating`, `date_from` and
    `date_until`, `need_title`, `deduplicate`, `max_history`, `user_core` with `item_core`,
    `min_history`.
    """

    source: str = option("table", "Format of the files.", choices=SOURCES)
    name: str = option("", "Name of the data set: the folder that is made in --data_dir.")
    data_dir: str = data_dir_option()
    overwrite: bool = option(False, "Replace the data set of this name.")
    strict: bool = option(False, "Make an error of every warning; nothing is written then.")

    interactions: tuple[str, ...] = option(
        (),
        "For --source=table: csv, tsv, jsonl or parquet, also gzipped; a file, a folder of part "
        "files, or a pattern such as part-*.csv.gz.",
        path=True,
    )
    items: tuple[str, ...] = option(
        (), "The catalogue, in the same formats; none without.", path=True
    )
    raw_dir: str = option("", "Folder of the files, for every source but table.", path="folder")
    generation: str = option("2018", "Amazon: which release.", choices=GENERATIONS)
    category: str = option("", "Amazon: name of the category, as in the file names.")
    reviews: str = option(
        "full",
        "Amazon: all reviews, those of the published 5-core, or the ratings without texts.",
        choices=("full", "5core", "ratings"),
    )
    download: bool = option(False, "Amazon: fetch into --raw_dir what is not there.")
    base_url: str = option("", "Amazon: another address to fetch from; by default the public site.")

    download_images: bool = option(
        False,
        "Fetch the images that the items name by address; the same command goes on with those "
        "that are missing.",
    )
    image_hosts: tuple[str, ...] = option(
        (), "Hosts that images may come from; empty for any, over https."
    )
    image_connections: int = option(16, "Images fetched at once.", low=1, high=64)
    encode_images: bool = option(
        False, "Encode the items' images into image_features.npy, which teachers read."
    )

    user_column: str = option("user_id", "Column of the user.")
    item_column: str = option("item_id", "Column of the item, in both tables.")
    timestamp_column: str = option(
        "timestamp", "Column of the time; empty where the order of one file's rows is the time."
    )
    position_column: str = option("", "Column of the rank in the history, instead of a time.")
    time_unit: str = option(
        "auto", "Unit of numeric times; auto tells it by their size.", choices=("auto", *UNITS)
    )
    rating_column: str = option("rating", "Column of the rating, for --min_rating.")
    event_column: str = option("event", "Column of the event's type, for --events.")
    title_column: str = option("title", "Column of the item's title.")
    brand_column: str = option("brand", "Column of the brand.")
    categories_column: str = option("categories", "Column of the categories.")
    description_column: str = option("description", "Column of the description.")
    price_column: str = option("price", "Column of the price.")
    image_column: str = option("image_path", "Column of the image's file.")

    events: tuple[str, ...] = option((), "Keep only these types of event.")
    min_rating: float | None = option(None, "Keep only ratings of at least this.")
    date_from: str = option("", "Keep only what is at or after this date (UTC).")
    date_until: str = option("", "Keep only what is before this date (UTC).")
    need_title: bool = option(False, "Keep only items that have a title in the catalogue.")
    deduplicate: tuple[str, ...] = option(
        (),
        "Keep one of several: exact = same user, item, time, rating and event; consecutive = the "
        "same item twice in a row; pairs = each item once a user, the first time.",
        choices=DEDUPLICATIONS,
    )
    max_history: int | None = option(None, "Leave out users with more interactions.", low=1)
    user_core: int = option(0, "Fewest interactions of a user, together with --item_core.", low=0)
    item_core: int = option(0, "Fewest interactions of an item; both are repeated.", low=0)
    min_history: int = option(0, "Leave out users with fewer interactions, at the end.", low=0)

    ties: str = option(
        "auto",
        "Order at equal times: as in the file (one file only), or by item id; auto is the first "
        "for one file and the second for several.",
        choices=("auto", "file", "item"),
    )
    keep_items: str = option(
        "interacted",
        "Which rows of the catalogue stay: those of the interactions, or all.",
        choices=("interacted", "all"),
    )
    text_limit: int = option(
        256, "A text with more words is counted as longer than an encoder reads.", low=1
    )

    def __post_init__(self):
        validate(self)
        if self.name and not _is_plain(self.name):
            raise UserError(f"--name: found {self.name!r}, expected a plain folder name")
        if self.name.partition("-")[0] == "synthetic":
            raise UserError(
                f"--name: found {self.name!r}, expected another name: synthetic and synthetic-… "
                "are of the synthetic world"
            )
        first = moment("date_from", self.date_from)
        end = moment("date_until", self.date_until)
        if first is not None and end is not None and first >= end:
            raise UserError(
                f"--date_until: found {self.date_until!r}, expected a later date than "
                f"--date_from={self.date_from}"
            )
        for flag in ("user_column", "item_column"):
            if not getattr(self, flag):
                raise UserError(f"--{flag}: found nothing, expected the name of a column")
        used: dict[str, str] = {}
        for flag in _APART:
            column = getattr(self, flag)
            if column and used.setdefault(column, flag) != flag:
                raise UserError(
                    f"--{flag}: found {column!r}, the column of --{used[column]}, expected another"
                )
        if self.base_url and not safe_address(self.base_url):
            raise UserError(f"--base_url: found {self.base_url!r}, expected https://…")

    @property
    def decisive(self) -> dict[str, object]:
        """The flags that decide which rows a data set has; images come after them."""
        settings = dataclasses.asdict(self)
        for name in ("interactions", "items"):
            settings[name] = [os.path.abspath(expanded(path)) for path in settings[name]]
        settings["raw_dir"] = self.raw_dir and os.path.abspath(expanded(self.raw_dir))
        return {name: settings[name] for name in settings if name not in _CHANGES_NO_ROW}

    def unread(self) -> dict[str, str]:
        """Fields that nothing reads, and why."""
        why: dict[str, str] = {}
        if self.source == "table":
            why["raw_dir"] = "--source=table reads --interactions"
        else:
            own = ["interactions", "items"]
            if self.source != "recbole":
                own += [name for name in vars(self) if name.endswith("_column")]
            why |= dict.fromkeys(own, f"--source={self.source} knows its own")
        if self.source != "amazon":
            amazon = ("generation", "category", "reviews", "download", "base_url")
            why |= dict.fromkeys(amazon, f"--source={self.source} is not Amazon's")
        elif not self.download:
            why["base_url"] = "there is no --download"
        if self.source == "table" and not self.items:
            texts = ("title", "brand", "categories", "description", "price", "image")
            why |= dict.fromkeys((f"{name}_column" for name in texts), "there are no --items")
        if not self.download_images:
            why |= dict.fromkeys(("image_hosts", "image_connections"), "no --download_images")
        return why

    def require(self) -> None:
        """Refuses settings that name no data, before anything is read.

        Raises:
            UserError: naming the flag that is missing.
        """
        if not self.name:
            raise UserError("--name: found nothing, expected the name of the data set to make")
        if self.source == "table" and not self.interactions:
            raise UserError("--interactions: found nothing, expected files for --source=table")
        if self.source != "table" and not self.raw_dir:
            raise UserError(
                f"--raw_dir: found nothing, expected the folder of --source={self.source}"
            )
        if self.source == "amazon" and self.download and not self.category:
            raise UserError("--category: found nothing, expected it with --download")


# With these a folder is no element of a list of names, or no name on some system.
_ODD = frozenset(',;:"|?*<>\\/')
_LONGEST_NAME = 200  # bytes


def _is_plain(name: str) -> bool:
    """Whether a name is a folder's everywhere, and an element of --domains.

    A comment behind it in a flagfile is no part of it.

    >>> [_is_plain(name) for name in ("Games-5core", "a/b", ".hidden", "a,b", "Ü ber", "a # b")]
    [True, False, False, False, True, False]
    """
    odd = " #" in name or not name.isprintable() or name.startswith(".") or name != name.strip()
    return not odd and not _ODD & {*name} and len(name.encode()) <= _LONGEST_NAME


def moment(flag: str, text: str) -> int | None:
    """A date, or a date and a time, in microseconds since 1970 UTC; None for no text.

    >>> moment("date_from", "1970-01-02")
    86400000000

    Raises:
        UserError: it is not an ISO date.
    """
    if not text:
        return None
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--{flag}: found {text!r}, expected a date such as 2018-10-01") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return (parsed - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(
        microseconds=1
    )


def safe_address(address: str) -> bool:
    """Whether an address is https, or of this machine, and names nobody.

    >>> [safe_address(f"http://{rest}") for rest in ("[::1]:80/x", "127.0.0.1:80@evil.example/x")]
    [True, False]
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    # What urlsplit leaves out others may read.
    odd = not address.isprintable() or {*" \\"} & {*address} or "@" in parts.netloc
    local = parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")
    return bool(host) and not odd and (parts.scheme == "https" or local)
