"""Exported students out: recommendations in Python, artefacts, the HTTP service.

>>> from prmkd_jax.serve import Recommender
>>> Recommender.__module__
'prmkd_jax.serve.recommender'
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prmkd_jax.serve.recommender import Answer, Recommended, Recommender

__all__ = ["Answer", "Recommended", "Recommender"]


def __getattr__(name: str) -> object:
    # On demand: commands read this package's options before JAX may be imported.
    if name in __all__:
        return getattr(importlib.import_module("prmkd_jax.serve.recommender"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
