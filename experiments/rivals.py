"""python -m experiments.rivals --flagfile=scientific.cfg: PRM-KD against its rivals and controls.

The same student, data, budget and stopping for all. RD, RRD and UnKD have losses of another size,
and starting values for their weights; `--variant_flags` sets weights that were
chosen on validation (`experiments.choose --method=rrd --vary="distill_weight=..."`).
"""

from collections.abc import Sequence

from experiments.config import Settings
from experiments.flags import run_command
from experiments.variants import Variant, run_study
from experiments.wording import model_name


def main(argv: Sequence[str]) -> None:
    """Runs all of them and writes one table."""
    run_study(argv, "rivals", "PRM-KD, its rivals and its controls", "PRM-KD", list_variants)


def list_variants(settings: Settings) -> list[Variant]:
    """The plain student, PRM-KD, other distillations, and what only looks like one."""
    return [
        Variant("base", model_name(settings.student.label), ("--teachers=",), kind="base"),
        Variant("prmkd", "PRM-KD", ("--method=prmkd",), reference=None, kind="prmkd"),
        Variant("average", "uniform average", ("--method=average",)),
        Variant("weighted", "weighted, no exclusion", ("--method=weighted",)),
        Variant("best_teacher", "best teacher alone", ("--method=best_teacher",)),
        Variant("rank_ensemble", "rank ensemble", ("--method=rank_ensemble",)),
        Variant("rd", "RD", ("--method=rd", "--distill_weight=1")),
        Variant("rrd", "RRD", ("--method=rrd", "--distill_weight=0.001")),
        Variant("unkd", "UnKD", ("--method=unkd", "--distill_weight=1")),
        Variant("label_smoothing", "control: smoothed label", ("--method=label_smoothing",)),
        Variant("permuted", "control: permuted teachers", ("--method=permuted",)),
    ]


if __name__ == "__main__":
    run_command(main)
