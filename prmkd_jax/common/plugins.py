"""Users' own classes, found by the entry points of the packages that are installed."""

import contextlib
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from prmkd_jax.common.errors import UserError, first_line


def own_names(group: str, built_in: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a group's entry points, sorted, but for those that are built in."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)} - set(built_in)))


def own_entry(group: str, name: str) -> EntryPoint:
    """The entry point of a name that `own_names` gave."""
    return next(entry for entry in entry_points(group=group) if entry.name == name)


def own_class(group: str, name: str, flag: str) -> Any:
    """The class registered under a name.

    Args:
        group: group of the entry points.
        name: a name that `own_names` gave.
        flag: the option that an error names.

    Raises:
        UserError: it can't be imported.
    """
    entry = own_entry(group, name)
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a module may fail in any way while it is imported
        raise UserError(
            f"--{flag}: {name}: {entry.value} can't be imported ({_kind(error)}{first_line(error)})"
        ) from error


@contextlib.contextmanager
def own_code(told: str, module: str) -> Iterator[None]:
    """Runs what a user wrote; whatever it raises is told in one line, with its place.

    Args:
        told: the code that runs, for an error: a flag, a class and a method.
        module: the module that defines the class.

    Raises:
        UserError: it raised something.

    >>> with own_code("own:Mine.queries", __name__):  # doctest: +ELLIPSIS
    ...     raise ValueError("no such thing")
    Traceback (most recent call last):
    prmkd_jax.common.errors.UserError: own:Mine.queries raised ValueError: no such thing...
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit(0) would look like a run that ended well
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = getattr(sys.modules.get(module), "__file__", None)
        places = [frame for frame in frames if frame.filename == own] or frames
        where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
        raise UserError(
            f"{told} raised {type(error).__name__}: {first_line(error)}{where}"
        ) from error


def _kind(error: BaseException) -> str:
    """The name of an error whose text doesn't say what is wrong by itself."""
    plain = isinstance(error, ImportError | AttributeError)
    return "" if plain else f"{type(error).__name__}: "


def own_identity(group: str, name: str) -> dict[str, str]:
    """What tells one version of a user's class from another: class, package, version."""
    entry = own_entry(group, name)
    package = (entry.dist.name, entry.dist.version) if entry.dist is not None else ("", "")
    return {"class": entry.value, "package": package[0], "version": package[1]}
