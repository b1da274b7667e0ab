"""The card of an exported student, and an artefact's interface, as JSON has them: keys and types.

`contents.require_card` refuses a card that has others where they are read.
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

Metrics = Mapping[str, float]
"""Metric, such as `NDCG@10` → value."""


class CardData(TypedDict):
    """The data set that the student was trained on."""

    name: str
    fingerprint: NotRequired[str]


class CardFacts(TypedDict):
    """Sizes of the student's `Facts`, and their digest."""

    users: int
    items: int
    window: int
    second_items: int | None
    digest: str


class CardMethod(TypedDict):
    """How the student was distilled."""

    name: str
    label: str


class CardTeacher(TypedDict):
    """A teacher."""

    label: str
    parameters: int
    start: NotRequired[str]
    seed: NotRequired[int]
    validation: NotRequired[Metrics]
    test: NotRequired[Metrics]


class CardSplit(TypedDict):
    """How the data were divided."""

    name: str
    cuts: Sequence[float] | None
    digest: str
    train: int
    validation: int
    test: int


class CardStatistics(TypedDict):
    """The data's size."""

    users: int
    items: int
    interactions: int
    average_length: float
    cold_targets: int


class CardRemark(TypedDict):
    """A line of the data sheet that warns."""

    name: str
    number: float
    of: int | None
    warning: str


class CardRecord(TypedDict):
    """What is known of the training.

    All of it, or nothing where no training wrote the card: whoever can't know asks with `get`.
    """

    seed: int
    validation: Metrics
    test: Metrics | None
    test_masked: Metrics | None
    best_epoch: int
    epochs: int
    method: CardMethod | None
    teachers: Mapping[str, CardTeacher] | None
    teacher_weights: Metrics | None
    teacher_keys: Mapping[str, str]
    settings: Mapping[str, object] | None
    student_init: object
    updated_from: NotRequired[object]
    data: CardStatistics
    split: CardSplit
    remarks: Sequence[CardRemark]
    license: str | None


# In this form since one key is a word of the language.
Card = TypedDict(
    "Card",
    {
        "format": int,
        "name": str,
        "label": str,
        "config": Mapping[str, object],
        "class": Mapping[str, str],
        "dataset": CardData,
        "facts": CardFacts,
        "fields": Mapping[str, Sequence[str]],
        "record": CardRecord,
        "files": Mapping[str, str],
        "digest": str,
    },
)
"""The card: which student of which data, sizes, what is known of its training, digests."""


class Explained(TypedDict):
    """What an artefact tells of others than the student."""

    explains: list[str]
    plain_digest: str | None


class ProgramInterface(TypedDict):
    """What an artefact's programs are made of, take and give."""

    format: int
    formats: list[str]
    student: str
    model_digest: str
    k: int
    window: int | None
    own_slot: bool
    inner_product: bool
    items: int
    users: int
    license: str
    jax: str
    platforms: list[str]


class Interface(ProgramInterface, Explained):
    """`artifact.json`."""
