import numpy as np
import pytest

from prmkd_jax.evaluate.calibration import calibration


def test_equals_its_definition_in_float64():
    """Users fall into ten groups of nearly equal size, and none is left out."""
    rng = np.random.default_rng(0)
    confidence = rng.random(103) ** 3
    hits = rng.random(103) < 0.4
    order = sorted(range(103), key=lambda user: confidence[user])
    sizes = [11, 11, 11, 10, 10, 10, 10, 10, 10, 10]
    error, first = 0.0, 0
    for size in sizes:
        group = order[first : first + size]
        first += size
        error += abs(sum(confidence[u] for u in group) - sum(bool(hits[u]) for u in group))
    found = calibration(confidence, hits)
    assert found["calibration_error"] == pytest.approx(error / 103, rel=1e-12)
    assert found["confidence"] == pytest.approx(sum(confidence) / 103, rel=1e-12)


def test_honest_scores_have_nearly_no_error_and_boasting_ones_have():
    """The error is below 0.01 for the true chances and above 0.1 for their square roots."""
    rng = np.random.default_rng(1)
    chance = rng.random(50_000)
    hits = rng.random(50_000) < chance
    assert calibration(chance, hits)["calibration_error"] < 0.01
    assert calibration(np.sqrt(chance), hits)["calibration_error"] > 0.1


def test_of_few_users_each_is_a_group_of_their_own():
    """Empty groups don't make the error nan."""
    found = calibration(np.array([0.75, 0.25, 0.5]), np.array([True, False, True]))
    assert found == {"confidence": 0.5, "calibration_error": (0.25 + 0.25 + 0.5) / 3}


def test_what_is_no_confidence_is_refused():
    """A logit isn't taken for a probability, and an empty list is an error."""
    with pytest.raises(ValueError, match=r"a confidence of 3.0"):
        calibration(np.array([0.1, 3.0]), np.array([True, False]))
    with pytest.raises(ValueError, match="0 confidences"):
        calibration(np.zeros(0), np.zeros(0, bool))
