"""The kill test's commands start in a process that has torch already: nothing is left to settle."""

from bridge.runtime import _settings
from tests.reliability.kill_child import _ENVIRONMENT


def test_the_children_find_everything_settled():
    """Each variable that settling would set, or one that replaces it, is already there."""
    for setting in _settings(1, None):
        assert {setting.variable, *setting.unless} & set(_ENVIRONMENT), setting.variable
