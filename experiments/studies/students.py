"""python -m experiments study students --flagfile=students.cfg: the paper's Fig. 4.

Every built-in student alone, alone from texts, and with PRM-KD, under one set of teachers and
settings; not those that call themselves baselines, as RecGURU, which is one in the paper. Where a
student needs settings of its own, `--variant_flags` gives them, as configs/students.cfg does for
Scientific; `--variants=fm-prmkd,lightgcn-prmkd` runs a part.
"""

import dataclasses

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts
from prmkd_jax.students.config import RANDOM, STUDENT_NAMES
from prmkd_jax.students.registry import about, label, reads


def list_variants(settings: Settings) -> list[Variant]:
    """Three rows a student: it alone, from either start, and it with PRM-KD.

    A student that names no item table has one start only, the random one.
    """
    return [
        variant
        for name in STUDENT_NAMES
        if not about(name).baseline
        for variant in _rows(settings, name)
    ]


def _rows(settings: Settings, name: str) -> list[Variant]:
    student = dataclasses.replace(settings.student, student=name)
    own = dataclasses.replace(settings, student=student)
    flag, reference = f"--student={name}", f"{name}-base"
    base = Variant(reference, label(student), (flag, *alone(own)), reference=None, kind="base")
    others = [
        other._replace(flags=(flag, *other.flags), reference=reference)
        for other in other_starts(own, f"{name}-")
    ]
    distilled = Variant(
        f"{name}-prmkd",
        f"PRM-KD ({label(student)})",
        (flag, "--method=prmkd"),
        reference=reference,
        kind="distilled",
    )
    if reads(student, "item_init"):
        return [base, *others, distilled]
    only = f"--item_init={RANDOM}"
    return [each._replace(flags=(*each.flags, only)) for each in (base, distilled)]


STUDY = Study("students", "PRM-KD on every student", "the same student alone", list_variants)
