"""Types and shapes of signatures, checked while the tests run (beartype and jaxtyping).

`conftest.py` names the packages. An int counts as a float, as in Python's own type checkers.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep604Exception

_Checked = TypeVar("_Checked", bound=Callable)

_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
_shapes = jaxtyping.jaxtyped


def typechecked(function: _Checked) -> _Checked:
    """The function, the types of its signature checked at each call."""
    try:
        return _types(function)
    except BeartypeDecorHintPep604Exception:  # a union of Polars' types, which beartype can't read
        return function


def check_signatures(packages: Sequence[str]) -> None:
    """From now on these packages are imported with all their signatures checked."""
    # What the hook puts above every function and class. jaxtyping's own binds the arguments of
    # each call to look for sizes; where no array stands in a signature, their types are enough.
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(packages, "tests.checking.typechecked")


def unchecked(function: Callable) -> Callable:
    """The function as it is outside the tests, where nobody checks its signature."""
    return inspect.unwrap(function)


def _checked(found: Any = None, *, typechecker: Callable | None = None) -> Any:
    if found is None:
        return lambda decorated: _checked(decorated, typechecker=typechecker)
    if isinstance(found, types.FunctionType) and not _has_arrays(found):
        # One inside another would be decorated again at each call of the outer one.
        return found if "<locals>" in found.__qualname__ else typechecked(found)
    if dataclasses.is_dataclass(found) and not _has_arrays(found.__init__):
        found.__init__ = typechecked(found.__init__)
        return found
    return _shapes(found, typechecker=typechecker)


def _has_arrays(function: Callable) -> bool:
    hints = getattr(function, "__annotations__", {}).values()
    return any(isinstance(hint, str) or _is_array(hint) for hint in hints)


def _is_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_is_array(part) for part in get_args(hint))
