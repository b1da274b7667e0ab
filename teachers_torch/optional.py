"""What a teacher may do besides `Teacher`: freeze, and tell what it makes its items' vectors of."""

from typing import NamedTuple, Protocol, cast, runtime_checkable

from teachers_torch.teacher import Encodes, Teacher


@runtime_checkable
class _Freezes(Protocol):
    """A teacher that does once for many calls what its encoding needs; the method is optional."""

    def frozen(self) -> Encodes:
        """What encodes as the teacher does now; it is not asked after a further step."""
        ...


def frozen(teacher: Encodes) -> Encodes:
    """What encodes many instances in several calls, or instances and items, at one's cost."""
    if callable(getattr(teacher, "frozen", None)):
        return cast(_Freezes, teacher).frozen()
    return teacher


class Held(NamedTuple):
    """Bytes of all that a teacher makes its items' vectors of.

    Attributes:
        shared: weights that belong to no single item.
        items: what each item has of its own: features, trained rows, tokens.
    """

    shared: int
    items: int


@runtime_checkable
class _TellsHeld(Protocol):
    """A teacher that has more to say than two sums; the method is optional."""

    def held(self) -> Held:
        """See `held`."""
        ...


def held(teacher: Teacher) -> Held:
    """What a teacher makes its items' vectors of, nothing counted twice.

    Of one that doesn't tell: its parameters in float32, and its table.
    """
    if callable(getattr(teacher, "held", None)):
        return cast(_TellsHeld, teacher).held()
    return Held(4 * teacher.num_parameters, teacher.table_bytes)
