"""The factor that makes a teacher's dot products its training logits."""

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import LARGEST, SMALLEST


def check_scale(scale: float, told: str, shown: str = "") -> float:
    """The factor from a dot product to a training logit, which is asked for above 0.

    So that the dot product alone ranks as the logit does, wherever only the order counts.

    Args:
        scale: the factor; nan stands for what is no number.
        told: the factor's name in error messages.
        shown: the factor as an error shows it, where not as a number.

    Raises:
        UserError: it isn't above 0, or float32 can't hold it.
    """
    if not SMALLEST <= scale <= LARGEST:
        raise UserError(
            f"{told} is {shown or scale}, expected a finite number above 0, that float32 can hold"
        )
    return scale
