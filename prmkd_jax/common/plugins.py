"""Users' own classes, found by the entry points of the packages that are installed."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from prmkd_jax.common.errors import UserError


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
        name: one that `own_names` gave.
        flag: how an error calls the option that named it.

    Raises:
        UserError: it can't be imported.
    """
    entry = own_entry(group, name)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"--{flag}: {name}: {entry.value} can't be imported ({error})") from error


def own_identity(group: str, name: str) -> dict[str, str]:
    """What tells one version of a user's class from another: class, package, version."""
    entry = own_entry(group, name)
    package = (entry.dist.name, entry.dist.version) if entry.dist is not None else ("", "")
    return {"class": entry.value, "package": package[0], "version": package[1]}
