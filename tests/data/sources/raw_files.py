"""Small raw files as they are published, for the recipes: Amazon's of 2014 and 2018, UniSRec's."""

import csv
import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Review(NamedTuple):
    """One line of a file of reviews."""

    user: str
    item: str
    rating: float
    day: int


def reviews(users: int = 40, items: int = 16, rows: int = 700, seed: int = 0) -> list[Review]:
    """Reviews in no order; some stand there twice, and some users and items are rare."""
    generator = np.random.default_rng(seed)
    made = [
        Review(
            user=f"A{int(users * generator.random() ** 2):04}",
            item=f"{int(items * generator.random() ** 3):010}",
            rating=float(generator.integers(1, 6)),
            day=int(generator.integers(15_000, 15_400)),
        )
        for _ in range(rows)
    ]
    rare = [Review(f"B{row:04}", f"{row:010}", 5.0, 15_000 + row) for row in range(3)]
    return [*made, *made[:20], *rare, Review("A0000", "9999999999", 5.0, 15_000)]


def write_json_reviews(path: Path, rows: list[Review]) -> None:
    """As the files of 2014 and 2018 have them."""
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for row in rows:
            line = {
                "overall": row.rating, "reviewerID": row.user, "asin": row.item,
                "reviewerName": "J. \u201cSmith\u201d", "reviewText": "It's [good]\nbuy!",
                "unixReviewTime": row.day * 86_400,
            }  # fmt: skip
            stream.write(json.dumps(line) + "\n")


def write_ratings(path: Path, rows: list[Review]) -> None:
    """2018's ratings without texts: item, user, rating, time, and no header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerows([row.item, row.user, row.rating, row.day * 86_400] for row in rows)


def write_metadata(path: Path, items: list[str], year: str) -> None:
    """One line an item: JSON in 2018, a Python literal in 2014."""
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for item in items:
            row: dict[str, object] = {"asin": item, "title": f"Thing &amp; {item}", "price": 5.5}
            if year == "2014":
                more = {"categories": [["Shop", "Women's"]], "imUrl": f"http://a/{item}.jpg"}
                stream.write(f"{row | more!r}\n")
            else:
                more = {"category": ["Shop", "Odds"], "brand": "", "price": "$5.50"}
                stream.write(json.dumps(row | more) + "\n")


def write_amazon(folder: Path, year: str, form: str, category: str) -> list[Review]:
    """The two files of a category under their published names; the reviews that stand there."""
    folder.mkdir(parents=True)
    rows = reviews()
    names = {
        ("2014", "5core"): f"reviews_{category}_5.json.gz",
        ("2018", "5core"): f"{category}_5.json.gz",
        ("2018", "ratings"): f"{category}.csv",
    }
    write = write_ratings if form == "ratings" else write_json_reviews
    write(folder / names[year, form], rows)
    known = sorted({row.item for row in rows if not row.item.startswith("99")})
    write_metadata(folder / f"meta_{category}.json.gz", known, year)
    return rows


def write_unisrec(folder: Path) -> None:
    """A benchmark folder: every prefix of two histories."""
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    histories = {"0": ["0", "1", "2", "3", "4"], "1": ["4", "2", "0"]}
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user, history in histories.items():
        for end in range(1, len(history)):
            part = {len(history) - 1: "test", len(history) - 2: "valid"}.get(end, "train")
            lines[part].append(f"{user}\t{' '.join(history[:end])}\t{history[end]}\n")
    for part, rows in lines.items():
        (folder / f"Scientific.{part}.inter").write_text(header + "".join(rows))
    (folder / "Scientific.user2index").write_text("A0\t0\nA1\t1\n")
    (folder / "Scientific.item2index").write_text("".join(f"B{n}\t{n}\n" for n in range(5)))
    texts = "".join(f'B{number}\t5" pipe {number}\n' for number in range(5))
    (folder / "Scientific.text").write_text("item_id:token\ttext:token_seq\n" + texts)
