"""What the signatures of `ops`, `distill`, `evaluate` and `train` call an array.

Everything here runs on JAX arrays, traced ones inside a jitted function. Called from outside, a
function takes NumPy arrays just as well, as JAX's own functions do; so `Array` means either at run
time, where the tests check it, and a JAX array to the type checker.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    Array = jax.Array
    Scalar = float | jax.Array
else:
    Array = jax.Array | np.ndarray
    Scalar = float | Float[Array | np.floating, ""]
    """A number: a Python float, static in a jitted function, or an array without axes."""
