"""Which columns of a distillation can be timed without a training."""

from experiments.cli.settings import Settings
from prmkd_jax.common.errors import UserError


def require_columns(settings: Settings, asked: str) -> None:
    """Refuses columns that follow from a training where none is made.

    Args:
        settings: the distillation.
        asked: the value asked for, as on the command line.

    Raises:
        UserError: `--negatives` is closed, so that a student's best items are among the columns.
    """
    if settings.distill.negatives == "closed":
        raise UserError(
            f"--negatives: found 'closed' with {asked}, which trains no student whose best items "
            "could be columns, expected in_batch or catalogue"
        )
