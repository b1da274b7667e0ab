"""A study: a list of variants of one configuration, each compared with another."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.cli.settings import Settings


class Variant(NamedTuple):
    """One variant of a configuration.

    Attributes:
        name: short, as `--variants` takes it.
        label: as tables and figures call it.
        flags: what it changes, as on the command line.
        reference: the name of the variant that it is compared with, None for none.
        kind: "base", "distilled" or "other": its colour in figures.
    """

    name: str
    label: str
    flags: tuple[str, ...]
    reference: str | None = "prmkd"
    kind: str = "other"


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared; how is `experiments.runs.study`.

    Attributes:
        name: of the study and of its files.
        title: of its table.
        versus: what the variants are compared with, in words.
        variants: the variants of a configuration, in the table's order.
    """

    name: str
    title: str
    versus: str
    variants: Callable[[Settings], Sequence[Variant]]
