"""The tests; `typechecked` checks the types and shapes of signatures while they run.

    python -m pytest --jaxtyping-packages=prmkd_jax,tests.typechecked

An int counts as a float, as in Python's own type checkers.
"""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
