"""The readings of the paper's eq. 1–6 that can be chosen (models.md 6)."""

import dataclasses

from prmkd_jax.data.option import option, validate

NORMALIZATIONS = ("zscore_softmax", "sum", "minmax", "l2")
KL_DIRECTIONS = ("reverse", "forward", "js")


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Distillation options; every default is the reading that models.md 6 recommends."""

    distill_weight: float = option(5.0, "Weight lambda of the distillation loss, eq. 6.", low=0)
    temperature: float = option(
        0.5,
        "Temperature tau of the teachers' softmax, eq. 1: in standard deviations of a row's "
        "scores under zscore_softmax, in the teachers' logits otherwise.",
        above=0,
    )
    score_normalization: str = option(
        "zscore_softmax", "How teachers' scores are made comparable.", choices=NORMALIZATIONS
    )
    kl: str = option(
        "reverse",
        "Direction of eq. 5: reverse = KL(student || teachers) as printed.",
        choices=KL_DIRECTIONS,
    )
    consistency_quantile: float = option(
        0.5,
        "The threshold epsilon as a quantile of the rows' largest disagreement over one "
        "epoch of real batches: 0 always drops a teacher, 1 never.",
        low=0,
        high=1,
    )
    consistency_threshold: float | None = option(
        None, "The threshold epsilon itself; replaces --consistency_quantile.", low=0
    )
    redistribute: str = option(
        "equal",
        "How an excluded teacher's weight goes to the others.",
        choices=("equal", "proportional"),
    )
    teacher_weight_power: float = option(
        1.0, "Teacher weights are validation NDCG@10 to this power; 0 is uniform.", low=0
    )
    kd_include_positive: bool = option(True, "Keep the row's own target among the KD columns.")
    mask_history: bool = option(True, "Take the user's other training items out of the columns.")
    student_temperature: float = option(1.0, "Temperature of the student in eq. 5.", above=0)
    smoothing: float = option(
        1e-3, "Share of a uniform distribution mixed into the teachers' target.", low=0, below=1
    )

    def __post_init__(self):
        validate(self)
