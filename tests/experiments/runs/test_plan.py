"""What is read and checked before the first run begins."""

import pytest

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS
from experiments.runs.plan import plan_runs
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import SMALL
from tests.worlds import from_histories, task_of


@pytest.mark.parametrize(
    ("history", "flags", "told"),
    [
        ([0, 1, 2, 0, 0], (), True),
        # The item that is missing in training is that of the validation, which a refit trains on.
        ([0, 1, 0, 2, 0], (), False),
        ([0, 1, 0, 2, 0], ("--refit",), True),
    ],
)
def test_a_user_who_has_everything_is_told_while_runs_are_planned(history, flags, told):
    """The items of the validation count too where a refit trains on them."""
    task = task_of(from_histories([history, [2, 1, 1, 1, 2]], 3))
    configs = parse([*SMALL, "--teachers=", "--loss=bpr", *flags], GROUPS).configs
    if not told:
        assert plan_runs([configs], load=lambda settings: task)
        return
    with pytest.raises(UserError, match=r"^--loss=bpr: user 'u0': found all 3 items in the train"):
        plan_runs([configs], load=lambda settings: task)
