import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_numbers, require_weights


def test_all_that_does_not_fit_is_listed_in_one_line():
    """The line lists every problem, and a name that may be missing isn't one."""
    wanted = {"b": (2, 3), "a": (4,), "c": (1,), "new.a": (7,)}
    require_weights({"a": (4,), "b": [2, 3], "c": (1,)}, wanted, "x.pth", fresh=("new.",))
    with pytest.raises(UserError) as error:
        require_weights({"z": (1,), "b": (3, 2), "y": ()}, wanted, "x.pth", fresh=("new.",))
    assert str(error.value) == (
        "x.pth: found weights that don't fit (missing: a, c; surplus: y, z; of another shape: "
        "b [3, 2] in place of [2, 3]), expected this model's"
    )


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.array([1, 2]), "x.pth: w: found weights of int64, expected floats"),
        (
            np.array([[1, np.nan], [np.inf, 0]], np.float16),
            "x.pth: w: found 2 of 4 weights that are not finite, expected finite numbers",
        ),
    ],
)
def test_weights_that_nothing_can_be_computed_with_are_named(array, line):
    """A training doesn't start from weights that aren't finite floats."""
    require_numbers({"v": np.zeros(2, np.float32)}, "x.pth")
    with pytest.raises(UserError) as error:
        require_numbers({"v": np.zeros(2), "w": array}, "x.pth")
    assert str(error.value) == line
