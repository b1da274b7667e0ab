"""The examples in the docstrings give what they show."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from tests.packages import ROOT

PACKAGES = ("prmkd_jax", "teachers_torch", "bridge", "experiments")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


class Finder(doctest.DocTestFinder):
    """Finds the examples of functions whose signatures are checked, too."""

    def _from_module(self, module: ModuleType, object: object) -> bool:
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)


def with_examples() -> list[str]:
    """Names of the modules that hold an example."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = [path for path in paths if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_give_what_they_show(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in Finder().find(module, name):
        runner.run(test)
    text = Path(inspect.getfile(module)).read_text(encoding="utf-8")
    assert runner.failures == 0
    assert runner.tries == text.count(">>> ")
