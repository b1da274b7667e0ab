"""Generates raw reviews and metadata as Amazon's of 2018, for measurements.

    python -m tests.data.sources.make_raw FOLDER REVIEWS ITEMS

writes Big.json.gz and meta_Big.json.gz; one in fifty reviews stands there twice. The texts are of
random words, so that gzip makes as little of them as of real ones.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np

WORDS = ("steel", "cotton", "large", "blue", "works", "great", "&amp;", "<b>pack</b>", "cable")
_LETTERS = np.array(list("etaoinshrdlcumwfgypbvk"))
# Reviews share this many texts, of so many words out of so many.
_TEXTS, _LENGTH, _VOCABULARY = 20_000, 90, 6_000


def make(folder: Path, reviews: int, items: int, seed: int = 0) -> None:
    """Writes both files; items are popular by a power law, users have four reviews or so."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    text = " ".join(generator.choice(WORDS, 60))
    words = ["".join(generator.choice(_LETTERS, 3 + size % 7)) for size in range(_VOCABULARY)]
    texts = [
        " ".join(map(words.__getitem__, generator.integers(0, _VOCABULARY, _LENGTH).tolist()))
        for _ in range(_TEXTS)
    ]

    def review(row: tuple[int, int, int]) -> str:
        # Put together by hand: json.dumps takes longer than all that is measured.
        user, item, day = row
        line = (
            f'{{"overall": {1 + (user + item) % 5}.0, "verified": true, '
            f'"reviewTime": "01 1, 2018", "reviewerID": "A{user:013d}", "asin": "B{item:09d}", '
            '"style": {"Size:": " Large"}, "reviewerName": "somebody", '
            f'"reviewText": "{texts[(user * 7 + item) % _TEXTS]}", "summary": "five stars", '
            f'"unixReviewTime": {day * 86_400}}}\n'
        )
        return line * (2 if day % 50 == 0 else 1)

    with gzip.open(folder / "Big.json.gz", "wt", compresslevel=1, encoding="utf-8") as stream:
        left = reviews
        while left > 0:
            number = min(left, 100_000)
            users = (generator.pareto(1.0, number) * reviews / 16).astype(np.int64) % (reviews // 4)
            chosen = (items * generator.random(number) ** 3).astype(np.int64)
            days = generator.integers(12_000, 17_800, number)
            rows = zip(users.tolist(), chosen.tolist(), days.tolist(), strict=True)
            stream.write("".join(map(review, rows)))
            left -= number
    with gzip.open(folder / "meta_Big.json.gz", "wt", compresslevel=1, encoding="utf-8") as stream:
        for item in range(items):
            row = {
                "category": ["Shop", f"Shelf {item % 40}", "Odds &amp; ends"],
                "description": [text, f"Item {item}."],
                "title": f"<span>Thing {item}</span> {text[:40]}",
                "brand": f"Brand {item % 500}",
                "price": f"${item % 90}.99",
                "imageURLHighRes": [f"https://images.example/{item}.jpg"],
                "asin": f"B{item:09d}",
            }
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
