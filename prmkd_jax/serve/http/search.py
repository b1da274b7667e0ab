"""Items by words of their titles or by id."""

import bisect
import itertools
import re
from collections.abc import Sequence


class TitleIndex:
    """Finds the items whose title and id hold all words of a query, in the items' order.

    All titles stand in one text, which is searched for the longest word alone; the others are
    looked for in the titles found.

    Args:
        ids: the items'.
        titles: the items' titles, or None.

    >>> index = TitleIndex(["a1", "b2"], ["Oak table", "Oak lamp"])
    >>> index.find("LAMP oak", 10), index.find("a1", 10), index.find("glass", 10)
    ([1], [0], [])
    """

    def __init__(self, ids: Sequence[str], titles: Sequence[str] | None):
        known = titles if titles is not None else [""] * len(ids)
        pairs = zip(known, ids, strict=True)
        self._texts = [_plain(f"{title} {item}") for title, item in pairs]
        self._text = "\n".join(self._texts)
        lengths = (len(text) + 1 for text in self._texts)
        self._starts = list(itertools.accumulate(lengths, initial=0))

    def find(self, query: str, most: int) -> list[int]:
        """Rows of the first items that match; none for a query without a word."""
        words = sorted(set(_plain(query).split()), key=len, reverse=True)
        found: list[int] = []
        if not words:
            return found
        place = self._text.find(words[0])
        while place >= 0 and len(found) < most:
            row = bisect.bisect_right(self._starts, place) - 1
            if all(word in self._texts[row] for word in words):
                found.append(row)
            place = self._text.find(words[0], self._starts[row + 1])
        return found


def _plain(text: str) -> str:
    """Without case, on one line."""
    return re.sub(r"\s+", " ", text.casefold())
