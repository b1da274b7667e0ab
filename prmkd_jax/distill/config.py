"""Which distillation, and the readings of the paper's eq. 1–6 that can be chosen."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.columns import SEEN, Seen

# Names of what needs jax, which a command line does without; tests compare them.
NORMALIZATIONS = ("zscore_softmax", "sum", "minmax", "l2")
KL_DIRECTIONS = ("reverse", "forward", "js")
MethodLoss = Literal["divergence", "label", "rd", "rrd", "unkd"]
Redistribution = Literal["equal", "proportional"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to distil, described at the five places where the ways differ.

    Attributes:
        label: display name in tables and figures.
        scores: the teachers' contributions to the joint scores: each teacher's `softened` scores
            (eq. 1), or exp(−rank / T) of its `ranks`, the importance that HetComp (Kang et al.,
            2023) adds up.
        weights: the teachers' default weights: as `configured`, `uniform`, or all on the `best`
            one on validation.
        exclusion: whether the consistency rule (eq. 2–3) may exclude a teacher.
        loss: the loss that the student minimises: its `divergence` from the joint distribution (eq.
            5), from a `label` of equal entropy, or a loss of the joint order: `rd`, `rrd`, `unkd`.
            These order unobserved items only, as in their papers, so the row's own target is left
            out.
        permuted: whether each teacher's scores are shuffled over the items beforehand.
    """

    label: str
    scores: Literal["softened", "ranks"] = "softened"
    weights: Literal["configured", "uniform", "best"] = "configured"
    exclusion: bool = True
    loss: MethodLoss = "divergence"
    permuted: bool = False

    @property
    def lists(self) -> bool:
        """Whether the student learns an order instead of a distribution."""
        return self.loss in ("rd", "rrd", "unkd")


def _ranked(label: str, loss: MethodLoss) -> Method:
    return Method(label, scores="ranks", weights="uniform", exclusion=False, loss=loss)


METHODS = {
    "prmkd": Method("PRM-KD"),
    "best_teacher": Method("best teacher alone", weights="best", exclusion=False),
    "rank_ensemble": _ranked("rank ensemble", "divergence"),
    "rd": _ranked("RD", "rd"),
    "rrd": _ranked("RRD", "rrd"),
    "unkd": _ranked("UnKD", "unkd"),
    "label_smoothing": Method("smoothed label", loss="label"),
    "permuted": Method("permuted teachers", permuted=True),
}


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Distillation options; the defaults are this project's readings of the paper."""

    method: str = option(
        "prmkd",
        "How the student learns from the teachers: PRM-KD; its rivals best_teacher, "
        "rank_ensemble, rd, rrd and unkd; or the controls label_smoothing (a smoothed label as "
        "uncertain as PRM-KD's target) and permuted.",
        choices=tuple(METHODS),
    )
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
        None, "The threshold epsilon itself; replaces the quantile.", low=0, flag=False
    )
    redistribute: Redistribution = option(
        "equal",
        "How an excluded teacher's weight goes to the others.",
        choices=get_args(Redistribution),
    )
    teacher_weights: str = option(
        "validation",
        "The teachers' weights: validation (in proportion to NDCG@10), uniform, or one number a "
        "teacher, separated by commas, in the order of --teachers. One of weight 0 still has a "
        "say in whom the consistency rule leaves out, and a share of that one's weight.",
    )
    teacher_weight_power: float = option(
        1.0, "Under validation, NDCG@10 to this power; 0 is uniform.", low=0, flag=False
    )
    negatives: str = option(
        "in_batch",
        "The columns of the distillation: in_batch targets; closed, with them the best items of "
        "the teachers together and of the student at that moment; or the whole catalogue, whose "
        "scores take about 4 * batch_size * (teachers + 5) bytes an item: 70 MiB for 4,385 items, "
        "three teachers and a batch of 512, 330 MiB for 21,000; the joint scores of all instances "
        "are kept besides, in 4 GiB at most.",
        choices=("in_batch", "closed", "catalogue"),
    )
    closed_top: int = option(
        10, "closed: items that each row adds, for the teachers and the student.", low=1, flag=False
    )
    closed_columns: int = option(
        2048, "closed: number of columns; the items that few rows add give way.", low=1, flag=False
    )
    deduplicate_columns: bool = option(
        True,
        "Give an item that is the target of several rows one column; off, every row's target is "
        "a column of its own.",
    )
    teacher_history: str = option(
        "prefix",
        "What the teachers have read of a user: the instance's prefix, or the whole training "
        "history, for a student whose user vector doesn't depend on the prefix.",
        choices=("prefix", "whole"),
    )
    kd_include_positive: bool = option(True, "Keep the row's own target among the KD columns.")
    seen_items: Seen = option(
        "out",
        "The user's other items as columns: those of the training part are taken out; those of "
        "the prefix are unwanted, the teachers give them nothing, so that the student learns not "
        "to repeat them; or they are scored by the teachers as all others.",
        choices=SEEN,
    )
    student_temperature: float = option(
        1.0, "Temperature of the student in eq. 5.", above=0, flag=False
    )
    smoothing: float = option(
        1e-3, "Share of a uniform distribution mixed into the teachers' target.", low=0, below=1
    )
    # The rivals' constants, as their papers and code have them.
    rank_temperature: float = option(
        10.0, "T of exp(-rank/T) under rank_ensemble, rd, rrd, unkd.", above=0, flag=False
    )
    rd_top: int = option(10, "RD: length K of the teachers' ranking.", low=1, flag=False)
    rd_position: float = option(
        1.0, "RD: lambda of the position weight exp(-r/lambda).", above=0, flag=False
    )
    rd_discrepancy: float = option(
        0.1, "RD: mu of tanh(mu * (student's rank - teachers' rank)).", above=0, flag=False
    )
    rrd_top: int = option(40, "RRD: number K of interesting items.", low=1, flag=False)
    unkd_groups: int = option(2, "UnKD: groups of similar popularity.", low=1, flag=False)
    unkd_temperature: float = option(
        20.0, "UnKD: T of the chance exp(-rank/T) that an item is in a pair.", above=0, flag=False
    )
    permutation_seed: int = option(
        0, "permuted: seed of the teachers' permutations.", low=0, flag=False
    )

    def __post_init__(self):
        validate(self)
        given_weights(self.teacher_weights)
        if METHODS[self.method].loss == "label" and not self.kd_include_positive:
            raise UserError(
                f"--kd_include_positive: found False, expected True with --method={self.method}"
            )
        own_apart = METHODS[self.method].loss != "divergence" or not self.kd_include_positive
        several = self.negatives == "in_batch" and not self.deduplicate_columns
        if several and own_apart:
            raise UserError(
                "--deduplicate_columns: found False, expected True where a row's own target is "
                "treated apart: other rows' columns may show the same item"
            )


def given_weights(text: str) -> tuple[float, ...] | None:
    """The numbers in `--teacher_weights`; None if it names a rule.

    >>> given_weights("0.5, 2"), given_weights("uniform")
    ((0.5, 2.0), None)

    Raises:
        UserError: if it is neither a rule nor usable numbers.
    """
    if text in ("validation", "uniform"):
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    usable = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not usable or not any(weights):
        raise UserError(
            f"--teacher_weights: found {text!r}, expected validation, uniform, or one number a "
            "teacher, at least 0 and not all 0"
        )
    return weights


def default_weights(config: DistillConfig, strengths: Sequence[float]) -> list[float]:
    """The teachers' default weights w, not yet divided by their sum.

    Nothing of the paper's w⟨i,j,k⟩ depends on the user or the item, so it is one number a
    teacher: its "empirical strength".

    Args:
        config: the options.
        strengths: each teacher's validation NDCG@10.

    Raises:
        ValueError: if the options give numbers for another number of teachers.
    """
    rule = METHODS[config.method].weights
    given = given_weights(config.teacher_weights)
    if rule == "best":
        best = max(range(len(strengths)), key=lambda k: strengths[k])
        return [float(k == best) for k in range(len(strengths))]
    if rule == "uniform" or config.teacher_weights == "uniform":
        return [1.0] * len(strengths)
    if given is None:
        return [strength**config.teacher_weight_power for strength in strengths]
    if len(given) != len(strengths):
        raise ValueError(f"{len(given)} weights for {len(strengths)} teachers")
    return list(given)


def unread_options(config: DistillConfig, num_teachers: int) -> dict[str, str]:
    """The options that have no effect on a distillation, and why.

    >>> unread_options(DistillConfig(method="rank_ensemble"), num_teachers=3)["temperature"]
    '--method=rank_ensemble reads ranks'

    Args:
        config: the distillation.
        num_teachers: number of teachers.
    """
    method = METHODS[config.method]
    named = f"--method={config.method}"
    rule = ("consistency_quantile", "redistribute")
    softened = ("temperature", "score_normalization")
    divergence = ("kl", "smoothing", "student_temperature", "kd_include_positive")
    reasons = [
        (num_teachers < 3, rule, "the consistency rule needs three teachers"),
        (not method.exclusion, rule, f"{named} excludes no teacher"),
        (method.scores == "ranks", softened, f"{named} reads ranks"),
        (method.lists, divergence, f"{named} learns an order of unobserved items"),
        (
            method.weights != "configured",
            ("teacher_weights",),
            f"{named} sets the teachers' weights",
        ),
        (config.negatives == "catalogue", ("deduplicate_columns",), "the catalogue has each once"),
        (config.negatives == "closed", ("deduplicate_columns",), "closed columns have each once"),
    ]
    return {name: why for unread, names, why in reasons if unread for name in names}
