"""The tests; `typechecked` checks the types and shapes of signatures while they run.

`conftest.py` names the packages that are always checked; all of them are by

    python -m pytest --jaxtyping-packages=prmkd_jax,teachers_torch,bridge,tests.typechecked -n 0

An int counts as a float, as in Python's own type checkers.
"""

import inspect
from collections.abc import Callable

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def unchecked(function: Callable) -> Callable:
    """The function as it is outside the tests, where nobody checks its signature."""
    return inspect.unwrap(function)
