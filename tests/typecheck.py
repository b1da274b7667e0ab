"""Checks the types and shapes of signatures while tests run.

    python -m pytest --jaxtyping-packages=prmkd_jax,tests.typecheck.typechecked

An int counts as a float, as in Python's own type checkers.
"""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
