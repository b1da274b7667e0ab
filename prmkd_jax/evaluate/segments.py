"""Gains by groups of users and items: numpy and scipy alone."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from prmkd_jax.evaluate.bootstrap import change_interval, interval, resampled_means
from prmkd_jax.evaluate.metrics import per_user
from prmkd_jax.evaluate.significance import DECIMALS, holm, paired_t_test


class Segment(NamedTuple):
    """Some of the test instances.

    Attributes:
        name: the property that the instances have in common, in words.
        members: True for the test instances that belong to the segment.
    """

    name: str
    members: Bool[np.ndarray, " instances"]


class SegmentGain(TypedDict):
    """One metric of two models in a segment.

    Attributes:
        segment: the segment's name.
        instances: number of the segment's instances.
        base: mean of the model that is compared with.
        other: mean of the other.
        change: (other − base) / base, None where the base is 0.
        change_interval: confidence interval of `change` over resampled users; None where a
            resampled base is 0.
        difference_interval: confidence interval of other − base over resampled users.
        p: paired t-test over the segment's users.
        p_holm: `p`, corrected over all segments that were compared together.
    """

    segment: str
    instances: int
    base: float
    other: float
    change: float | None
    change_interval: tuple[float, float] | None
    difference_interval: tuple[float, float]
    p: float
    p_holm: float


def count_segments(counts: Int[np.ndarray, " instances"], groups: int = 4) -> list[Segment]:
    """Groups of nearly equal size by a count; 0 is a group of its own, equal counts stay together.

    Args:
        counts: each instance's count: how often its target was trained on, or the length of its
            history.
        groups: how many groups the counts above 0 are divided into; fewer where few differ.

    >>> [s.name for s in count_segments(np.array([0, 1, 1, 2, 3, 5, 8, 40]), groups=3)]
    ['0', '1–2', '3–5', '8–40']
    """
    segments = [Segment("0", counts == 0)] if (counts == 0).any() else []
    above = np.sort(counts[counts > 0])
    first = 1
    for group in range(1, groups + 1):
        if not len(above):
            break
        last = int(above[-(-group * len(above) // groups) - 1])
        members = (counts >= first) & (counts <= last)
        if members.any():
            low = int(counts[members].min())
            segments.append(Segment(str(last) if low == last else f"{low}–{last}", members))
        first = last + 1
    return segments


def segment_gains(
    base_ranks: Float[np.ndarray, "base_seeds instances"],
    other_ranks: Float[np.ndarray, "other_seeds instances"],
    segments: Sequence[Segment],
    metric: str,
) -> list[SegmentGain]:
    """A metric of two models in every segment that has instances.

    As for a table: each instance's metric is averaged over the seeds first. The p-values are
    corrected over the segments by Holm's method.

    Args:
        base_ranks: 0-based ranks, infinity where a target can't be reached.
        other_ranks: 0-based ranks of the same instances by the other model; the number of seeds may
            differ.
        segments: the groups of instances, which may overlap.
        metric: the name of a metric, from `metrics.METRICS`.
    """
    base = per_user(base_ranks, metric).mean(axis=0)
    other = per_user(other_ranks, metric).mean(axis=0)
    found = []
    for segment in segments:
        if segment.members.any():
            found.append(_gain(segment, base[segment.members], other[segment.members]))
    corrected = holm([gain["p"] for gain in found])
    for gain, p in zip(found, corrected, strict=True):
        gain["p_holm"] = p
    return found


def _gain(segment: Segment, base: np.ndarray, other: np.ndarray) -> SegmentGain:
    means = resampled_means(np.stack([base, other], axis=1))
    before, after = float(base.mean()), float(other.mean())
    p = paired_t_test(np.round(other - base, DECIMALS))
    difference = interval(means[:, 1] - means[:, 0])
    if difference is None:
        raise ValueError(f"segment {segment.name}: a metric is not finite")
    return SegmentGain(
        segment=segment.name,
        instances=len(base),
        base=before,
        other=after,
        change=after / before - 1 if before else None,
        change_interval=change_interval(means[:, 0], means[:, 1]),
        difference_interval=difference,
        p=p,
        p_holm=p,
    )
