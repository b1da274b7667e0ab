"""python -m experiments rivals --flagfile=scientific.cfg: PRM-KD against its rivals and controls.

The same student, data, budget and stopping for all. RD, RRD and UnKD have losses of another size
than a KL, so each has a weight of its own, chosen on Scientific's validation part
(docs/choices.md); `--variant_flags` sets others.
"""

from collections.abc import Sequence

from experiments.cli.flags import run_command
from experiments.cli.settings import Settings
from experiments.runs.study import Variant, run_study
from prmkd_jax.students.registry import label


def main(argv: Sequence[str]) -> None:
    """Runs all of them and writes one table."""
    run_study(argv, "rivals", "PRM-KD, its rivals and its controls", "PRM-KD", list_variants)


def list_variants(settings: Settings) -> list[Variant]:
    """The plain student, PRM-KD, other distillations, and what only looks like one."""
    return [
        Variant("base", label(settings.student), ("--teachers=",), kind="base"),
        Variant("prmkd", "PRM-KD", ("--method=prmkd",), reference=None, kind="prmkd"),
        Variant("average", "uniform average", ("--method=average",)),
        Variant("weighted", "weighted, no exclusion", ("--method=weighted",)),
        Variant("best_teacher", "best teacher alone", ("--method=best_teacher",)),
        Variant("rank_ensemble", "rank ensemble", ("--method=rank_ensemble",)),
        Variant("rd", "RD", ("--method=rd", "--distill_weight=10")),
        Variant("rrd", "RRD", ("--method=rrd", "--distill_weight=0.1")),
        Variant("unkd", "UnKD", ("--method=unkd", "--distill_weight=30")),
        Variant("label_smoothing", "control: smoothed label", ("--method=label_smoothing",)),
        Variant("permuted", "control: permuted teachers", ("--method=permuted",)),
    ]


if __name__ == "__main__":
    run_command(main)
