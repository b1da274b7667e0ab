"""Methods and teachers' weights: what stands in the configuration alone."""

import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.config import (
    KL_DIRECTIONS,
    METHODS,
    DistillConfig,
    default_weights,
    given_weights,
)
from prmkd_jax.distill.losses import DIVERGENCES
from prmkd_jax.distill.per_user import LOSSES

STRENGTHS = [0.06, 0.08, 0.07]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, STRENGTHS),
        ({"teacher_weight_power": 2.0}, [0.0036, 0.0064, 0.0049]),
        ({"teacher_weight_power": 0.0}, [1, 1, 1]),
        ({"teacher_weights": "uniform"}, [1, 1, 1]),
        ({"teacher_weights": "1, 0,3"}, [1, 0, 3]),
        ({"method": "rank_ensemble", "teacher_weights": "1,0,3"}, [1, 1, 1]),
        ({"method": "best_teacher"}, [0, 1, 0]),
        ({"method": "rrd"}, [1, 1, 1]),
        ({"method": "permuted", "teacher_weights": "1,0,3"}, [1, 0, 3]),
        ({"method": "label_smoothing"}, STRENGTHS),
    ],
)
def test_default_weights_by_hand(changes, expected):
    """Each rule is followed, and the controls get the weights of PRM-KD."""
    weights = default_weights(DistillConfig(**changes), STRENGTHS)
    assert weights == pytest.approx(expected)


def test_numbers_for_other_teachers_are_a_bug():
    """Two numbers for three teachers raise an error instead of going to the first two."""
    with pytest.raises(ValueError, match="2 weights for 3 teachers"):
        default_weights(DistillConfig(teacher_weights="1,2"), STRENGTHS)


@pytest.mark.parametrize("text", ["", "1,", "0,0", "-1,2", "nan,1", "inf,1", "equal", "1;2"])
def test_weights_that_are_neither_rule_nor_numbers_are_refused(text):
    """A typing error never trains with weights that nobody asked for."""
    with pytest.raises(UserError, match=r"--teacher_weights: found '.*', expected validation"):
        DistillConfig(teacher_weights=text)
    assert given_weights("2,1") == (2.0, 1.0)


def test_the_smoothed_label_needs_its_label():
    """Without it, the control's mass would fall on a masked column."""
    with pytest.raises(UserError, match="--kd_include_positive: found False, expected True"):
        DistillConfig(method="label_smoothing", kd_include_positive=False)


@pytest.mark.parametrize(
    "changes",
    [{"kd_include_positive": False}, {"method": "rrd"}, {"method": "label_smoothing"}],
)
def test_an_own_target_that_stands_apart_needs_a_column_of_its_own(changes):
    """Otherwise the target would be left out of its row and still stand there as another's."""
    with pytest.raises(UserError, match="--deduplicate_columns: found False, expected True"):
        DistillConfig(deduplicate_columns=False, **changes)
    DistillConfig(deduplicate_columns=False, negatives="catalogue", **changes)
    DistillConfig(deduplicate_columns=False)


def test_controls_differ_from_prmkd_in_one_thing():
    """A control keeps exclusion and weights, so its result is due to one change."""
    plain = vars(METHODS["prmkd"])
    for name, field in (("label_smoothing", "loss"), ("permuted", "permuted")):
        other = vars(METHODS[name])
        changed = [key for key in plain if plain[key] != other[key] and key != "label"]
        assert changed == [field]


def test_every_choice_has_its_function():
    """No name can be chosen without a function, and no function lacks a name."""
    assert tuple(DIVERGENCES) == KL_DIRECTIONS
    assert {method.loss for method in METHODS.values()} == set(LOSSES)
