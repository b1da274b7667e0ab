"""A study: a list of variants of one configuration, each compared with another."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.cli.options import StudyConfig
from experiments.cli.settings import Settings
from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.config import given_weights
from prmkd_jax.students.config import RANDOM, parse_item_init
from prmkd_jax.students.registry import label, reads

WHOLE_STUDYS = frozenset({"output_dir", "overwrite", "dataset", "datasets", "dataset_flags"})
"""Flags that no variant, and no data set of several, can have of its own."""


class Variant(NamedTuple):
    """One variant of a configuration.

    Attributes:
        name: short, as `--variants` takes it.
        label: the variant's name in tables and figures.
        flags: the flags that it changes, as on the command line.
        reference: the name of the variant that it is compared with, None for none.
        kind: "base", "distilled" or "other": its colour in figures.
        needs_texts: left out where the data set has no texts.
    """

    name: str
    label: str
    flags: tuple[str, ...]
    reference: str | None = "prmkd"
    kind: str = "other"
    needs_texts: bool = False


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared; how is `experiments.runs.study`.

    Attributes:
        name: name of the study and of its files.
        title: title of its table.
        versus: the reference of the comparison, in words.
        variants: the variants of a configuration, in the table's order.
    """

    name: str
    title: str
    versus: str
    variants: Callable[[Settings], Sequence[Variant]]


def alone(settings: Settings) -> tuple[str, ...]:
    """Flags of the student without teachers, and so without a start from their vectors."""
    begun = parse_item_init(settings.student.item_init).source
    return ("--teachers=", f"--item_init={RANDOM}") if begun == "teachers" else ("--teachers=",)


def other_starts(settings: Settings, prefix: str = "") -> list[Variant]:
    """The student alone from the start that the study's own doesn't have: a rival that is cheap.

    From the principal components of the items' texts it is nearly as good as a distilled one
    (docs/choices.md); where the study begins from them itself, from a random table. Trained
    weights, and a student that names no item table, have no other start.

    Args:
        settings: the study's.
        prefix: put before the name "base-text" or "base-random".
    """
    student = label(settings.student)
    if settings.run.student_init or not reads(settings.student, "item_init"):
        return []
    if parse_item_init(settings.student.item_init).source == "text":
        flags = ("--teachers=", f"--item_init={RANDOM}")
        name = f"{prefix}base-random"
        return [Variant(name, f"{student} from random vectors", flags, kind="base")]
    flags = ("--teachers=", "--item_init=text")
    name = f"{prefix}base-text"
    return [Variant(name, f"{student} from texts", flags, kind="base", needs_texts=True)]


def taught_by(settings: Settings, names: Sequence[str]) -> tuple[str, ...]:
    """Flags for fewer teachers, who keep the weights that were given them by number."""
    flags = (f"--teachers={','.join(names)}",)
    given = given_weights(settings.distill.teacher_weights)
    if given is None:
        return flags
    weights = [w for t, w in zip(settings.run.teachers, given, strict=True) if t in names]
    kept = ",".join(map(str, weights)) if any(weights) else "uniform"
    return (*flags, f"--teacher_weights={kept}")


def named_flags(text: str, names: Sequence[str], option: str) -> dict[str, tuple[str, ...]]:
    """Reads flags that are given for some names.

    >>> named_flags("a,b: dropout=0.1; b: seeds=1", ["a", "b"], "--variant_flags")
    {'a': ('--dropout=0.1',), 'b': ('--dropout=0.1', '--seeds=1')}

    Args:
        text: name: flag=value flag=value; name,name: flag=value.
        names: those that there are.
        option: the flag, for the error.

    Raises:
        UserError: a name is unknown, or the flags aren't written as they should be.
    """
    more: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        before, colon, after = part.partition(":")
        some = [name.strip() for name in before.split(",")]
        flags = tuple(f"--{flag.removeprefix('--')}" for flag in after.split())
        written = flags and all("=" in flag[3:] for flag in flags)
        if not colon or not set(some) <= set(names) or not written:
            raise UserError(
                f"{option}: found {part!r}, expected name: flag=value, "
                f"the name one of {', '.join(names)}"
            )
        for flag in flags:
            name = flag.removeprefix("--").partition("=")[0]
            if name in WHOLE_STUDYS:
                raise UserError(
                    f"{option}: found {name} in {part!r}, which the whole study has in common, "
                    "expected other flags"
                )
        for name in some:
            more[name] = (*more.get(name, ()), *flags)
    return more


def choose_variants(variants: Sequence[Variant], study: StudyConfig) -> list[Variant]:
    """The variants that `--variants` names and their references, with `--variant_flags`.

    Raises:
        UserError: if a name is unknown, or the flags aren't written as they should be.
    """
    names = [variant.name for variant in variants]
    more = named_flags(study.variant_flags, names, "--variant_flags")
    for name in study.variants:
        if name not in names:
            raise UserError(f"--variants: found {name!r}, expected some of {', '.join(names)}")
    wanted = {*(study.variants or names)}
    wanted |= {v.reference for v in variants if v.name in wanted and v.reference is not None}
    return [
        variant._replace(flags=variant.flags + more.get(variant.name, ()))
        for variant in variants
        if variant.name in wanted
    ]
