"""python -m experiments study sources --flagfile=sources.cfg: what each source of knowledge gives.

A configuration with several sources, and each of them added after the other and left out alone:
the start from texts, the trained teachers, the untrained ones, columns beyond the batch, and what
a user has seen as unwanted. A source that the configuration doesn't have has no rows. What
`--refit` gives is in every row's record: the test before and after.
"""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts, taught_by
from prmkd_jax.students.config import RANDOM, parse_item_init
from prmkd_jax.students.registry import label
from teachers_torch.registry import UNTRAINED


class _Source(NamedTuple):
    """One source.

    Attributes:
        name: short, for a variant's name.
        label: the source's name in tables.
        without: the flag that takes it out; "" for teachers.
        teachers: the teachers that it is made of.
    """

    name: str
    label: str
    without: str = ""
    teachers: tuple[str, ...] = ()


def list_variants(settings: Settings) -> list[Variant]:
    """All sources; the student alone; the sources one after the other, and without each.

    Without the last one is what the path ends with.
    """
    student = label(settings.student)
    sources = _sources(settings)
    path = [
        Variant(f"plus_{last.name}", f"+ {last.label}", _flags(settings, sources[: n + 1]))
        for n, last in enumerate(sources[:-1])
        if _teaches(sources[: n + 1])
    ]
    without = [
        Variant(f"without_{one.name}", f"without {one.label}", _flags(settings, rest))
        for one in sources[:-1]
        for rest in [[other for other in sources if other != one]]
        if _teaches(rest)
    ]
    return [
        Variant("prmkd", "all", ("--method=prmkd",), reference=None, kind="distilled"),
        Variant("base", student, alone(settings), kind="base"),
        *other_starts(settings),
        *path,
        *without,
    ]


def _teaches(sources: Sequence[_Source]) -> bool:
    """Whether there is more than a student alone, which has rows of its own."""
    return any(source.teachers for source in sources)


def _sources(settings: Settings) -> list[_Source]:
    """The sources that a configuration has, in the order in which they are added."""
    teachers = settings.run.teachers
    trained = tuple(name for name in teachers if name not in UNTRAINED)
    untrained = tuple(name for name in teachers if name in UNTRAINED)
    distill = settings.distill
    begun = parse_item_init(settings.student.item_init).source
    sources = [
        _Source("start", "the start from texts", f"--item_init={RANDOM}")
        if begun == "text"
        else None,
        _Source("teachers", "trained teachers", teachers=trained) if trained else None,
        _Source("untrained", "untrained teachers", teachers=untrained) if untrained else None,
        _Source("columns", f"{distill.negatives} columns", "--negatives=in_batch")
        if distill.negatives != "in_batch"
        else None,
        _Source("seen", "seen items unwanted", "--seen_items=out")
        if distill.seen_items == "unwanted"
        else None,
    ]
    return [source for source in sources if source]


def _flags(settings: Settings, kept: Sequence[_Source]) -> tuple[str, ...]:
    """The flags of a configuration with some of its sources."""
    names = [name for source in kept for name in source.teachers]
    teachers = tuple(name for name in settings.run.teachers if name in names)
    flags = taught_by(settings, teachers)
    absent = [each for each in _sources(settings) if each not in kept]
    return (*flags, *(each.without for each in absent if each.without))


STUDY = Study("sources", "What each source gives", "all sources", list_variants)
