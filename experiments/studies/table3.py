"""python -m experiments study table3 --flagfile=table3.cfg: the paper's Table 3.

The conventional models and PRM-KD, next to the teachers and to what is cheap and beyond the paper:
untrained models and SASRec from the texts. `--datasets` names the data sets, `--dataset_flags` and
`--variant_flags` the settings that were chosen on validation for one of them or for one model.
"""

import dataclasses

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts
from prmkd_jax.students.config import RANDOM
from prmkd_jax.students.registry import label, reads

CONVENTIONAL = ("gru4rec", "bert4rec", "recguru")
"""The paper's conventional models besides the base."""


def list_variants(settings: Settings) -> list[Variant]:
    """The base, what it is compared with, and PRM-KD on it."""
    student = label(settings.student)
    base = Variant("base", student, alone(settings), reference=None, kind="base")
    others = [
        _conventional(settings, name) for name in CONVENTIONAL if name != settings.student.student
    ]
    starts = [other._replace(reference="base") for other in other_starts(settings)]
    distilled = Variant(
        "prmkd", f"PRM-KD ({student})", ("--method=prmkd",), reference="base", kind="distilled"
    )
    return [*others, base, *starts, distilled]


def _conventional(settings: Settings, name: str) -> Variant:
    student = dataclasses.replace(settings.student, student=name)
    flags = (f"--student={name}", "--teachers=")
    # Without a table that can begin elsewhere, or from teachers that it doesn't have.
    if not reads(student, "item_init") or settings.student.item_init.startswith("teachers"):
        flags = (*flags, f"--item_init={RANDOM}")
    return Variant(name, label(student), flags, reference="base")


STUDY = Study("table3", "The main comparison", "the base alone", list_variants)
