"""python -m experiments study temporal --flagfile=temporal.cfg: the main comparison by one clock.

All users are divided at the same two moments (`--split_at`), so nobody is trained on what comes
after. Popularity of late is among the untrained models. Where a data set has no times, the split
is refused.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts
from prmkd_jax.students.registry import label

SPLIT = ("--split=temporal",)


def list_variants(settings: Settings) -> list[Variant]:
    """The student alone, alone from the texts, and distilled."""
    student = label(settings.student)
    base = Variant("base", student, (*SPLIT, *alone(settings)), reference=None, kind="base")
    starts = [
        other._replace(flags=(*SPLIT, *other.flags), reference="base")
        for other in other_starts(settings)
    ]
    flags = (*SPLIT, "--method=prmkd")
    name = f"PRM-KD ({student})"
    return [base, *starts, Variant("prmkd", name, flags, reference="base", kind="distilled")]


STUDY = Study(
    "temporal", "The main comparison by one clock", "the same student alone", list_variants
)
