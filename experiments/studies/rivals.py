"""python -m experiments study rivals --flagfile=rivals.cfg: PRM-KD, its rivals and its controls.

The same student, data, budget and stopping for all. RD, RRD and UnKD have losses of another size
than a KL, so each needs a `--distill_weight` of its own, chosen on validation: give it by
`--variant_flags`, as configs/rivals.cfg does for Scientific.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts
from prmkd_jax.students.registry import label

NO_EXCLUSION = ("--consistency_quantile=1",)


def list_variants(settings: Settings) -> list[Variant]:
    """The plain student, PRM-KD, other distillations, and what only looks like one."""
    return [
        Variant("base", label(settings.student), alone(settings), kind="base"),
        *other_starts(settings),
        Variant("prmkd", "PRM-KD", ("--method=prmkd",), reference=None, kind="distilled"),
        Variant("average", "uniform average", ("--teacher_weights=uniform", *NO_EXCLUSION)),
        Variant("weighted", "weighted, no exclusion", NO_EXCLUSION),
        Variant("best_teacher", "best teacher alone", ("--method=best_teacher",)),
        Variant("rank_ensemble", "rank ensemble", ("--method=rank_ensemble",)),
        Variant("rd", "RD", ("--method=rd",)),
        Variant("rrd", "RRD", ("--method=rrd",)),
        Variant("unkd", "UnKD", ("--method=unkd",)),
        Variant("label_smoothing", "control: smoothed label", ("--method=label_smoothing",)),
        Variant("permuted", "control: permuted teachers", ("--method=permuted",)),
    ]


STUDY = Study("rivals", "PRM-KD, its rivals and its controls", "PRM-KD", list_variants)
