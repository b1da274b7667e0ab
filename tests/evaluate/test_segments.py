import numpy as np
import pytest
from scipy import stats

from prmkd_jax.evaluate.metrics import METRICS
from prmkd_jax.evaluate.segments import Segment, count_segments, segment_gains
from prmkd_jax.evaluate.significance import compare, holm


def test_groups_cover_every_instance_once_and_keep_equal_counts_together():
    """No instance is in two groups or in none, and counts of 0 have their own group."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        counts = rng.geometric(0.2, rng.integers(1, 60)) - 1
        segments = count_segments(counts, groups=int(rng.integers(1, 6)))
        assert sum(segment.members.astype(int) for segment in segments).tolist() == [1] * len(
            counts
        )
        for value in np.unique(counts):
            assert sum(segment.members[counts == value].any() for segment in segments) == 1
        if (counts == 0).any():
            assert segments[0].name == "0"
            np.testing.assert_array_equal(segments[0].members, counts == 0)


def test_groups_are_nearly_equal_where_counts_allow():
    """Groups are quarters of the instances, not of the values."""
    counts = np.concatenate([np.arange(1, 101), np.full(4, 1000)])
    sizes = [int(segment.members.sum()) for segment in count_segments(counts, groups=4)]
    assert sizes == [26, 26, 26, 26]
    assert [segment.name for segment in count_segments(counts, 4)] == [
        "1–26",
        "27–52",
        "53–78",
        "79–1000",
    ]


def test_a_segments_gain_is_the_comparison_of_its_users_alone():
    """Its means, test and intervals include no other users."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 60, (3, 300)).astype(float)
    other = rng.integers(0, 40, (2, 300)).astype(float)
    some = rng.random(300) < 0.3
    none = np.zeros(300, bool)
    segments = [Segment("some", some), Segment("none", none), Segment("rest", ~some)]
    for metric in METRICS:
        gains = segment_gains(base, other, segments, metric)
        assert [gain["segment"] for gain in gains] == ["some", "rest"]
        for gain, members in zip(gains, (some, ~some), strict=True):
            expected = compare(base[:, members], other[:, members])[metric]
            assert gain["instances"] == members.sum()
            assert gain["base"] == pytest.approx(expected.base_mean, rel=1e-12)
            assert gain["other"] == pytest.approx(expected.other_mean, rel=1e-12)
            assert gain["change"] == pytest.approx(expected.improvement, rel=1e-12)
            assert gain["p"] == expected.t_p
            assert gain["change_interval"] == pytest.approx(expected.interval, rel=1e-9)
            low, high = gain["difference_interval"]
            assert low < gain["other"] - gain["base"] < high
        assert [gain["p_holm"] for gain in gains] == holm([gain["p"] for gain in gains])


def test_the_interval_of_a_difference_is_about_the_normal_one():
    """Each end is within 15 % of the half width of the normal interval."""
    rng = np.random.default_rng(2)
    base = rng.integers(0, 60, (1, 4000)).astype(float)
    other = rng.integers(0, 50, (1, 4000)).astype(float)
    (gain,) = segment_gains(base, other, [Segment("all", np.ones(4000, bool))], "MRR")
    differences = 1 / (1 + other[0]) - 1 / (1 + base[0])
    half = stats.norm.ppf(0.975) * differences.std(ddof=1) / np.sqrt(4000)
    expected = differences.mean() + half * np.array([-1, 1])
    np.testing.assert_allclose(gain["difference_interval"], expected, atol=0.15 * half)


def test_a_base_of_zero_has_no_change():
    """Cold items, which an ID model never finds, give no infinity."""
    (gain,) = segment_gains(
        np.full((1, 5), 99.0), np.zeros((1, 5)), [Segment("0", np.ones(5, bool))], "Recall@10"
    )
    assert (gain["base"], gain["other"], gain["change"], gain["change_interval"]) == (
        0.0,
        1.0,
        None,
        None,
    )
    assert gain["difference_interval"] == (1.0, 1.0)
