import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_weights


def test_all_that_does_not_fit_is_listed_in_one_line():
    """The first problem alone, or a name that may be missing refused."""
    wanted = {"b": (2, 3), "a": (4,), "c": (1,), "new.a": (7,)}
    require_weights({"a": (4,), "b": [2, 3], "c": (1,)}, wanted, "x.pth", fresh=("new.",))
    with pytest.raises(UserError) as error:
        require_weights({"z": (1,), "b": (3, 2), "y": ()}, wanted, "x.pth", fresh=("new.",))
    assert str(error.value) == (
        "x.pth: found weights that don't fit (missing: a, c; surplus: y, z; of another shape: "
        "b [3, 2] in place of [2, 3]), expected this model's"
    )
