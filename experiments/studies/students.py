"""python -m experiments study students --flagfile=students.cfg: the paper's Fig. 4.

Every built-in student alone and with PRM-KD, under one set of teachers and settings; not those
that call themselves baselines, as RecGURU, which is one in the paper. Where a student needs
settings of its own, `--variant_flags` gives them, as configs/students.cfg does for Scientific;
`--variants=fm-prmkd,lightgcn-prmkd` runs a part.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant
from prmkd_jax.students.config import STUDENT_NAMES, StudentConfig
from prmkd_jax.students.registry import about, label


def list_variants(_: Settings) -> list[Variant]:
    """Two rows a student: it alone, and it with PRM-KD."""
    return [
        variant
        for name in STUDENT_NAMES
        if not about(name).baseline
        for variant in (
            Variant(
                f"{name}-base",
                label(StudentConfig(student=name)),
                (f"--student={name}", "--teachers="),
                reference=None,
                kind="base",
            ),
            Variant(
                f"{name}-prmkd",
                f"PRM-KD ({label(StudentConfig(student=name))})",
                (f"--student={name}", "--method=prmkd"),
                reference=f"{name}-base",
                kind="distilled",
            ),
        )
    ]


STUDY = Study("students", "PRM-KD on every student", "the same student alone", list_variants)
