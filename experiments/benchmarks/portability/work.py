"""What a program has to compute and to move, counted from its operations, the same everywhere.

XLA's own count belongs to one platform's program and counts the body of a loop once. Here a loop's
body counts as often as it runs, and the bytes are those of a compiler that fuses every operation on
single elements into its neighbours: only products, gathers, scatters, reductions, sorts and what
joins or writes arrays read their operands and write their results.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.extend import core

# Neither computed nor written: a view, or a part of what is fused.
_COSTS_NOTHING = frozenset(
    (
        *("broadcast_in_dim", "reshape", "squeeze", "transpose", "copy", "stop_gradient", "iota"),
        *("convert_element_type", "bitcast_convert_type", "slice", "select_n"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
    )
)
_MOVING = ("dot_general", "reduce_", "sort", "top_k", "cum", "concatenate", "pad", "arg", "rng")


class Work(NamedTuple):
    """What a program does.

    Attributes:
        products: operations of matrix products; a multiplication and an addition are two.
        others: floating-point operations on single elements.
        moved: bytes read and written under the module's model of fusion.
        least: bytes of the arguments and the results, each once.
        loops: loops whose number of rounds is not known, counted once.
    """

    products: float
    others: float
    moved: float
    least: float
    loops: int

    def __add__(self, other: object) -> "Work":
        """Both, one after the other."""
        if not isinstance(other, Work):
            return NotImplemented
        sums = [a + b for a, b in zip(self[:4], other[:4], strict=True)]
        return Work(*sums, loops=self.loops + other.loops)

    def times(self, rounds: int) -> "Work":
        """The same over and over."""
        return Work(*(rounds * part for part in self[:4]), loops=self.loops)


_NOTHING = Work(0.0, 0.0, 0.0, 0.0, 0)


def work_of(program: core.ClosedJaxpr) -> Work:
    """Counts a program as JAX has traced it.

    >>> import jax.numpy as jnp
    >>> work = work_of(jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((2, 3)), jnp.ones((3, 5))))
    >>> work.products, work.moved  # 2 · 2 · 3 · 5; 6 + 15 + 10 numbers of four bytes
    (60.0, 124.0)
    """
    jaxpr = program.jaxpr
    ends = sum(map(_bytes, (*jaxpr.invars, *jaxpr.constvars, *jaxpr.outvars)))
    return _body(jaxpr)._replace(least=float(ends))


def _body(jaxpr: core.Jaxpr) -> Work:
    total = _NOTHING
    for equation in jaxpr.eqns:
        total += _equation(equation)
    return total


def _equation(equation: core.JaxprEqn) -> Work:
    name = equation.primitive.name
    inner = [_body(each) for each in _inner(equation)]
    if name == "cond":
        return max(inner, key=lambda work: work.products + work.moved)
    if name == "scan":
        return inner[0].times(equation.params["length"])
    if name == "while":
        return sum(inner, _NOTHING)._replace(loops=1)
    if inner and not name.startswith(("scatter", "reduce", "cum", "sort", "arg")):
        return sum(inner, _NOTHING)
    return _single(equation, name)


def _single(equation: core.JaxprEqn, name: str) -> Work:
    """An operation that holds no program."""
    out = sum(map(_size, equation.outvars))
    written = sum(map(_bytes, equation.outvars))
    read = sum(map(_bytes, equation.invars))
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        depth = math.prod(shape[axis] for axis in contracted)
        return Work(2.0 * out * depth, 0.0, read + written, 0.0, 0)
    if name in ("gather", "dynamic_slice"):
        # Only the rows that are taken.
        return Work(0.0, 0.0, 2.0 * written + _bytes(equation.invars[1]), 0.0, 0)
    if name.startswith("scatter") or name == "dynamic_update_slice":
        return Work(0.0, 0.0, float(read + written), 0.0, 0)
    if name in _COSTS_NOTHING:
        return _NOTHING
    done = max(out, _size(equation.invars[0])) if name.startswith("reduce_") else out
    floating = any(_floats(var) for var in equation.outvars)
    moved = read + written if name.startswith(_MOVING) else 0
    return Work(0.0, float(done if floating else 0), float(moved), 0.0, 0)


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs that an operation holds."""
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _shape(var: core.Var | core.Literal) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: core.Var | core.Literal) -> int:
    return math.prod(_shape(var))


def _bytes(var: core.Var | core.Literal) -> int:
    dtype = getattr(var.aval, "dtype", None)
    return _size(var) * getattr(dtype, "itemsize", 0)


def _floats(var: core.Var | core.Literal) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jax.numpy.issubdtype(dtype, jax.numpy.floating)
