"""Types and shapes of signatures, checked while the tests run (beartype and jaxtyping).

`conftest.py` names the packages. An int counts as a float, as in Python's own type checkers.
"""

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep604Exception

_Found = TypeVar("_Found", bound=Callable | type)

_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
_shapes = jaxtyping.jaxtyped
# Each checked function → the one that is checked; decorators above keep their own.
_BEFORE: dict[Callable, Callable] = {}


def check_signatures(packages: Sequence[str]) -> None:
    """From now on these packages are imported with all their signatures checked."""
    # What the hook puts next to every function and above every class.
    jaxtyping.jaxtyped = lambda *, typechecker: checked
    jaxtyping.install_import_hook(packages, None)


def with_shapes(package: str) -> list[str]:
    """The modules of a package, by name, that have arrays in a signature."""
    root = Path(__file__).parent.parent
    paths = [path for path in (root / package).rglob("*.py") if "jaxtyping" in path.read_text()]
    return [".".join(path.relative_to(root).with_suffix("").parts) for path in sorted(paths)]


def unchecked(function: Callable) -> Callable:
    """The function as it is outside the tests, where nobody checks its signature."""
    return _BEFORE.get(function, function)


def uncheck(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions and classes as outside the tests, for what fits none of their types."""
    of_it = [each for each in vars(module).values() if inspect.isclass(each)]
    for owner in [module, *(each for each in of_it if each.__module__ == module.__name__)]:
        for name, found in list(vars(owner).items()):
            if isinstance(found, types.FunctionType):
                monkeypatch.setattr(owner, name, unchecked(found))


def checked(found: _Found) -> _Found:
    """The function, or the dataclass's `__init__`, checked at each call.

    A check takes milliseconds to make and most functions are not called by a test file, so each
    is made at the first call.
    """
    if isinstance(found, type):
        if dataclasses.is_dataclass(found) and not _is_tree(found):
            found.__init__ = checked(found.__init__)
        return found
    # One inside another would be made again at each call of the outer one.
    if not isinstance(found, types.FunctionType) or _is_inner(found):
        return found
    made: list[Callable] = []

    @functools.wraps(found)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(_checked(found))
        return made[0](*args, **kwargs)

    _BEFORE[call] = found
    return call


def _checked(function: types.FunctionType) -> Callable:
    # What a module imports for type checkers alone, such as PyTorch's heavier classes.
    for name, hint in function.__annotations__.items():
        try:
            get_type_hints(_with(hint), function.__globals__)
        except NameError:
            function.__annotations__[name] = Any
    try:
        of_types = _types(function)
    except (BeartypeDecorHintPep604Exception, AttributeError):
        return function  # beartype reads no union of Polars' types, and no recursive alias
    # The sizes of an array's axes are looked up for each call, which takes longer than its types.
    return _shapes(of_types, typechecker=None) if _has_arrays(function) else of_types


def _with(hint: object) -> object:
    """Something that has this hint alone."""
    return types.SimpleNamespace(__annotations__={"value": hint})


def _is_tree(found: type) -> bool:
    """Whether JAX knows it as a tree, whose leaves it replaces by whatever stands for them."""
    if "jax" not in sys.modules:
        return False
    from jax.tree_util import default_registry

    try:
        return default_registry.flatten_one_level(object.__new__(found)) is not None
    except AttributeError:  # of its fields, which it hasn't got
        return True


def _is_inner(function: Callable) -> bool:
    return "<locals>" in function.__qualname__ and not _has_arrays(function)


def _has_arrays(function: Callable) -> bool:
    hints = getattr(function, "__annotations__", {}).values()
    return any(isinstance(hint, str) or _is_array(hint) for hint in hints)


def _is_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_is_array(part) for part in get_args(hint))
