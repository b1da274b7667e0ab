"""The data sheet: what a data set holds, and what in it is likely a mistake.

Pure, and of numpy alone: a run makes it of the data set in memory (`Task.sheet`), `prepare` of
what it is about to write.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import (
    STATISTICS,
    TEXT_FIELDS,
    Dataset,
    Interactions,
    table_statistics,
)
from prmkd_jax.data.splits import PARTS, Split

TEXT_LIMIT = 256
"""Words of all of an item's texts that an encoder is taken to read, unless said otherwise."""

TABLE_2 = tuple(name.replace("_", " ") for name in STATISTICS)
"""The lines that the paper's Table 2 has."""

# What libraries write where a value is missing.
MISSING = frozenset({"nan", "none", "null", "<na>", "na", "n/a", "nat", "undefined", "\\n"})
# 4.00638E+12 stands for every number that begins so.
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
# Shares above which a figure is a warning.
_MANY_TIES = 0.1
_MANY_SHORT = 0.5
_MANY_UNTRAINED = 0.2
_FEW_TITLES = 0.5
# Times outside are likelier a missing value's stand-in than a moment: 1973 to 2100.
_EARLIEST, _LATEST = 94_694_400_000_000, 4_102_444_800_000_000


@dataclasses.dataclass(frozen=True)
class Line:
    """One figure.

    Attributes:
        name: the thing that is counted.
        number: how many; a mean or a share where the name says so.
        of: out of how many; None where it is no share.
        example: one of the things counted, in words or by its id.
        warning: why it is likely a mistake; "" where it is not.
    """

    name: str
    number: float
    of: int | None = None
    example: str = ""
    warning: str = ""

    def __str__(self) -> str:
        number = f"{self.number:,}" if isinstance(self.number, int) else f"{self.number:,.4f}"
        of = f" of {self.of:,}" if self.of is not None else ""
        example = f" (such as {self.example})" if self.example else ""
        hint = f": {self.warning}" if self.warning else ""
        return f"{self.name}: {number}{of}{example}{hint}"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The lines, in a fixed order."""

    lines: tuple[Line, ...]

    @property
    def warnings(self) -> tuple[Line, ...]:
        """The lines that are likely mistakes."""
        return tuple(line for line in self.lines if line.warning)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is no warning and no column of Table 2."""
        return tuple(
            str(line) for line in self.lines if not line.warning and line.name not in TABLE_2
        )

    def __getitem__(self, name: str) -> Line:
        """The line of this name."""
        return next(line for line in self.lines if line.name == name)

    def require_clean(self) -> None:
        """Refuses data that the sheet warns of.

        Raises:
            UserError: there is a warning; the message has the first one.
        """
        if self.warnings:
            raise UserError(
                f"--strict: found {len(self.warnings)} warnings, expected none: {self.warnings[0]}"
            )

    @classmethod
    def from_list(cls, lines: Iterable[Mapping[str, Any]]) -> "Sheet":
        """The inverse of `as_list`."""
        return cls(tuple(Line(**line) for line in lines))

    def as_list(self) -> list[dict[str, str | float | None]]:
        """The lines as JSON has them."""
        return [dataclasses.asdict(line) for line in self.lines]


@dataclasses.dataclass(frozen=True)
class Described:
    """What a sheet is made of; items are numbered as in `interactions`.

    Attributes:
        interactions: the histories.
        user_ids: ids of the users, in the order of their numbers.
        item_ids: ids of the items.
        texts: field → one text an item; "" or None where there is none.
        split: the parts.
        has_image: items with an image; None where the data set has no images.
        has_row: items with a row in the catalogue; None where that is not known.
        other_rows: ids of catalogue rows that nobody interacted with.
        times: time of every interaction, in the order of the histories; None without times.
    """

    interactions: Interactions
    user_ids: Iterable[str]
    item_ids: Sequence[str]
    texts: Mapping[str, Sequence[str | None]]
    split: Split
    has_image: Bool[np.ndarray, " items"] | None = None
    has_row: Bool[np.ndarray, " items"] | None = None
    other_rows: Collection[str] = ()
    times: Int64[np.ndarray, " interactions"] | None = None


def describe(dataset: Dataset, split: Split, text_limit: int = TEXT_LIMIT) -> Sheet:
    """The sheet of a data set in memory.

    Args:
        dataset: the data.
        split: the data set's training, validation and test parts.
        text_limit: words of all of an item's texts that an encoder reads.
    """
    catalogue = dataset.catalogue
    has_image = None
    if catalogue.image_rows is not None:
        has_image = catalogue.image_rows >= 0
    elif catalogue.image_paths is not None:
        has_image = np.array([bool(path) for path in catalogue.image_paths])
    return data_sheet(
        Described(
            interactions=dataset.interactions,
            user_ids=dataset.user_ids,
            item_ids=dataset.item_ids,
            texts=catalogue.texts,
            split=split,
            has_image=has_image,
            has_row=catalogue.has_row,
            other_rows=_never_interacted(dataset),
            times=dataset.interactions.timestamps,
        ),
        text_limit,
    )


def _never_interacted(dataset: Dataset) -> tuple[str, ...]:
    """Ids of catalogue rows without an interaction, candidates or not."""
    counts = np.bincount(dataset.interactions.items, minlength=dataset.num_items)
    has_row = dataset.catalogue.has_row
    idle = np.flatnonzero((counts == 0) & (True if has_row is None else has_row))
    return (*(dataset.item_ids[item] for item in idle.tolist()), *dataset.catalogue.other_rows)


def data_sheet(data: Described, text_limit: int) -> Sheet:
    """All lines of the sheet.

    Args:
        data: the data set's parts.
        text_limit: words of all of an item's texts that an encoder reads.
    """
    lines = [*_sizes(data), *_catalogue(data, text_limit), *_ids(data), *_order(data)]
    return Sheet((*lines, *_parts(data)))


def _sizes(data: Described) -> Iterable[Line]:
    """The columns of the paper's Table 2."""
    found = table_statistics(data.interactions, len(data.item_ids))
    return map(Line, TABLE_2, found.values())


def _catalogue(data: Described, text_limit: int) -> Iterable[Line]:
    items = len(data.item_ids)
    for field in TEXT_FIELDS:
        filled = sum(1 for text in data.texts.get(field, ()) if text)
        warning = ""
        if field == "title" and filled < _FEW_TITLES * items:
            warning = (
                "most items have no title for a text encoder to read; where a column of another "
                "name has them, prepare takes --title_column"
            )
        yield Line(f"items with {field}", filled, items, warning=warning)
    yield _empty_words(data)
    if data.has_image is not None:
        yield Line("items with image", int(data.has_image.sum()), items)
    if data.has_row is not None:
        yield _without_row(data, data.has_row)
        example = min(data.other_rows, default="")
        yield Line(
            "catalogue rows never interacted with", len(data.other_rows), example=_quoted(example)
        )
    words = np.zeros(items, dtype=np.int64)
    for texts in data.texts.values():
        words += np.fromiter((len((text or "").split()) for text in texts), np.int64, items)
    long = np.flatnonzero(words > text_limit)
    yield Line(
        f"items with more than {text_limit} words", len(long), items, _example(data.item_ids, long)
    )


def _without_row(data: Described, has_row: Bool[np.ndarray, " items"]) -> Line:
    missing = np.flatnonzero(~has_row)
    warning = "their texts are empty" if len(missing) else ""
    core = {_core(item): item for item in data.other_rows if item}
    for index in missing.tolist():
        found = data.item_ids[index]
        twin = core.get(_core(found))
        if twin is not None:
            lost = found.lstrip("0") == twin.lstrip("0")
            hint = "were leading zeros lost?" if lost else "are they one item, written differently?"
            warning = f"{found!r} here is {twin!r} there: {hint}"
            break
    return Line(
        "items without a catalogue row",
        len(missing),
        len(has_row),
        _example(data.item_ids, missing),
        warning,
    )


def _core(identifier: str) -> str:
    """An id without what tools add and lose: blanks, capitals, leading zeros, a `.0`."""
    return identifier.strip().lower().removesuffix(".0").lstrip("0")


def _empty_words(data: Described) -> Line:
    """Items of which a text is only a word that libraries write for nothing."""
    found = np.zeros(len(data.item_ids), dtype=bool)
    example = ""
    for field, texts in data.texts.items():
        for index, text in enumerate(texts):
            if text and text.lower() in MISSING:
                found[index] = True
                example = example or f"{field} {text!r} of {data.item_ids[index]!r}"
    number = int(found.sum())
    warning = "a missing value made into text?" if number else ""
    return Line("items with a text that stands for nothing", number, len(found), example, warning)


def _ids(data: Described) -> Iterable[Line]:
    for kind, identifiers in (("user", data.user_ids), ("item", data.item_ids)):
        missing, fractions, blanks, rounded = [], [], [], []
        for identifier in identifiers:
            if identifier != identifier.strip() or "\n" in identifier:
                blanks.append(identifier)
            if identifier.strip().lower() in MISSING:
                missing.append(identifier)
            elif identifier.endswith(".0") and identifier[:-2].isdigit():
                fractions.append(identifier)
            elif _ROUNDED.fullmatch(identifier):
                rounded.append(identifier)
        warning = "a missing value made into text?" if missing else ""
        example = _quoted(min(missing, default=""))
        yield Line(f"{kind} ids that stand for nothing", len(missing), None, example, warning)
        warning = "whole numbers made into fractions?" if fractions else ""
        example = _quoted(min(fractions, default=""))
        yield Line(f"{kind} ids that end in .0", len(fractions), None, example, warning)
        if rounded:
            example, warning = _quoted(min(rounded)), "long numbers that a spreadsheet has rounded?"
            yield Line(f"{kind} ids with a power of ten", len(rounded), None, example, warning)
        warning = "with and without them are two ids" if blanks else ""
        example = _quoted(min(blanks, default=""))
        yield Line(f"{kind} ids with blanks around", len(blanks), None, example, warning)


def _order(data: Described) -> Iterable[Line]:
    items, users = data.interactions.items, data.interactions.users
    rows = len(items)
    pairs = users.astype(np.int64) * max(len(data.item_ids), 1) + items
    yield Line("repeated items of a user", rows - len(np.unique(pairs)), rows)
    if data.times is None:
        return
    odd = np.flatnonzero((data.times < _EARLIEST) | (data.times >= _LATEST))
    example = str(np.datetime64(int(data.times[odd[0]]), "us"))[:10] if len(odd) else ""
    warning = "a missing value made into a date?" if len(odd) else ""
    yield Line("times before 1973 or after 2099", len(odd), rows, example, warning)
    same = np.zeros(rows + 1, dtype=bool)
    same[1:-1] = (users[1:] == users[:-1]) & (data.times[1:] == data.times[:-1])
    tied = same[1:] | same[:-1]
    share = tied.mean() if rows else 0.0
    warning = ""
    if share > _MANY_TIES:
        warning = "their order within a history is the tie rule's, not time's"
    yield Line("interactions at the same time as another", int(tied.sum()), rows, "", warning)
    order = np.lexsort((data.times, pairs))
    again = pairs[order][1:] == pairs[order][:-1]
    again &= data.times[order][1:] == data.times[order][:-1]
    number = int(again.sum())
    example = ""
    if number:
        example = _quoted(data.item_ids[int(items[order[1:][again]].min())])
    warning = (
        "the same user, item and time twice; --deduplicate=pairs keeps one, exact one of equal ones"
        if number
        else ""
    )
    yield Line("repeated rows", number, rows, example, warning)


def _parts(data: Described) -> Iterable[Line]:
    users = data.interactions.num_users
    trained = np.zeros(len(data.item_ids), dtype=bool)
    ends = data.split.train_end
    in_training = np.arange(len(data.interactions.items)) < ends[data.interactions.users]
    trained[data.interactions.items[in_training]] = True
    for part in PARTS:
        instances = getattr(data.split, part)
        with_one = len(np.unique(data.interactions.users[instances]))
        short = users - with_one
        warning = (
            "most users are too short for it, or have nothing in its period"
            if short > _MANY_SHORT * users
            else ""
        )
        yield Line(f"users without a target in {part}", short, users, warning=warning)
    for part in PARTS[1:]:
        targets = data.interactions.items[getattr(data.split, part)]
        new = targets[~trained[targets]]
        warning = ""
        if len(new) > _MANY_UNTRAINED * len(targets):
            warning = "no model of ids can rank them"
        example = _quoted(data.item_ids[int(new.min())]) if len(new) else ""
        yield Line(f"{part} targets never trained on", len(new), len(targets), example, warning)


def _example(identifiers: Sequence[str], numbers: Int64[np.ndarray, " some"]) -> str:
    return _quoted(identifiers[int(numbers[0])]) if len(numbers) else ""


def _quoted(identifier: str) -> str:
    return repr(identifier) if identifier else ""
