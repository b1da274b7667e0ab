"""The kill test's commands start in a process that has torch already: nothing is left to settle."""

from bridge.runtime import _settings
from tests.reliability.kill_child import _ENVIRONMENT


def test_the_children_find_everything_settled():
    """A variable that commands set too late for torch: every trial would end in its line."""
    for setting in _settings(1, None):
        assert {setting.variable, *setting.unless} & set(_ENVIRONMENT), setting.variable
