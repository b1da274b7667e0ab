"""python -m experiments study ablation --flagfile=ablation.cfg: the paper's Fig. 3.

Its "w/o MT: only using UniSRec" names two experiments at once; both are run, `only_` each
teacher and `without_` each teacher.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts, taught_by
from prmkd_jax.students.registry import label
from teachers_torch.registry import kind


def list_variants(settings: Settings) -> list[Variant]:
    """PRM-KD, then with teachers, in-batch columns or adjusted weights taken away."""
    teachers = settings.run.teachers
    only = [
        Variant(f"only_{one}", f"only {kind(one).label}", taught_by(settings, (one,)))
        for one in teachers
    ]
    without = [
        Variant(
            f"without_{one}",
            f"without {kind(one).label}",
            taught_by(settings, tuple(other for other in teachers if other != one)),
        )
        for one in teachers
    ]
    uniform = ("--teacher_weights=uniform", "--consistency_quantile=1")
    return [
        Variant("prmkd", "PRM-KD", ("--method=prmkd",), reference=None, kind="distilled"),
        *only,
        # Of two teachers, being without the one is having only the other.
        *(without if len(teachers) > 2 else ()),
        Variant("without_in", "w/o IN: whole catalogue", ("--negatives=catalogue",)),
        Variant("without_wa", "w/o WA: average", uniform),
        Variant("base", label(settings.student), alone(settings), kind="base"),
        *other_starts(settings),
    ]


STUDY = Study("ablation", "Ablations of PRM-KD", "PRM-KD", list_variants)
