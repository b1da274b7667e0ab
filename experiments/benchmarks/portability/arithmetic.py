"""A program evaluated in another arithmetic than it was written for.

`in_float64` is the reference that rounding is measured against: the same operations on the same
random draws, in float64. `rounded_products` is what another machine's matrix unit does to float32:
it rounds the factors, multiplies them exactly and adds in float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.typing import ArrayLike

from prmkd_jax.common.jaxprs import scan_counts
from prmkd_jax.ops.arrays import Array

Values = list[Array]
Rule = Callable[[core.JaxprEqn, Values], Values]
T = TypeVar("T")

Atom = core.Var | core.Literal

_MANTISSA = 23


class Rounding(NamedTuple):
    """What a matrix unit keeps of a float32 factor: numbers, so that one program serves all units.

    Attributes:
        mantissa: number of mantissa bits; 23 are all. The exponent keeps its eight, as in every
            unit here.
        rest: 1 where what was rounded away is rounded too and multiplied as well, else 0.
    """

    mantissa: int
    rest: float = 0.0


EXACT = Rounding(_MANTISSA)
UNITS = {
    # A GPU's float32 products but at `highest`.
    "tf32": Rounding(10),
    # A TPU's at `default`.
    "bf16": Rounding(7),
    # A TPU's at `high`.
    "bf16_3x": Rounding(7, 1.0),
}


def in_float64(function: Callable[..., T]) -> Callable[..., T]:
    """The function in float64; call it under `jax.enable_x64(True)`.

    It is traced in float32, so that what it draws at random stays the same; so do constants, which
    are float32's, such as the root of two in a GELU.
    """

    def evaluated(*arguments: object) -> T:
        with jax.enable_x64(False):
            closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = [_wide(leaf) for leaf in jax.tree.leaves(arguments)]
        consts = [_wide(const) for const in closed.consts]
        results = _evaluate(closed.jaxpr, consts, leaves, _wide_rule)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return evaluated


def rounded_products(function: Callable[..., T], *, rests: bool) -> Callable[..., T]:
    """The function with every matrix product of float32 made as another machine makes it.

    Args:
        function: a function of arrays.
        rests: whether a unit may multiply rests too; without them there is one product for one.

    Returns:
        A function of the `Rounding` and the arrays.
    """

    def evaluated(rounding: Rounding, *arguments: object) -> T:
        rule = functools.partial(_rounding_rule, rounding, rests)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), rule)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return evaluated


def _evaluate(jaxpr: core.Jaxpr, consts: Values, arguments: Values, rule: Rule) -> Values:
    """Every operation by a rule; what holds programs is taken apart."""
    known: dict[core.Var, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def value(var: Atom) -> Array:
        return var.val if isinstance(var, core.Literal) else known[var]

    for equation in jaxpr.eqns:
        values = [value(var) for var in equation.invars]
        holder = _HOLDERS.get(equation.primitive.name)
        found = holder(equation, values, rule) if holder else rule(equation, values)
        known.update(zip(equation.outvars, found, strict=True))
    return [value(var) for var in jaxpr.outvars]


def _bind(equation: core.JaxprEqn, values: Values, **changes: object) -> Values:
    found = equation.primitive.bind(*values, **{**equation.params, **changes})
    return list(found) if equation.primitive.multiple_results else [found]


def _rounding_rule(
    rounding: Rounding, rests: bool, equation: core.JaxprEqn, values: Values
) -> Values:
    product = equation.primitive.name == "dot_general"
    if not product or any(value.dtype != jnp.float32 for value in map(jnp.asarray, values)):
        return _bind(equation, values)
    left, right = (rounded(value, rounding.mantissa) for value in values)
    products = _bind(equation, [left, right])
    if not rests:
        return products
    # Without the product of the two rests, as the machines do; the small ones are added first.
    first, second = (
        rounded(value - part, rounding.mantissa) * rounding.rest
        for value, part in zip(values, (left, right), strict=True)
    )
    small = _bind(equation, [left, second])[0] + _bind(equation, [first, right])[0]
    return [small + products[0]]


def rounded(value: Array, mantissa: int | Array) -> Array:
    """Float32 numbers to the nearest with so many bits of mantissa, ties to the even one.

    `lax.reduce_precision` with a number of bits that a compiled program is given.

    >>> float(rounded(jnp.float32(1.01), 7)), float(rounded(jnp.float32(1.01), 23))
    (1.0078125, 1.0099999904632568)
    """
    dropped = jnp.asarray(_MANTISSA - mantissa, jnp.uint32)
    bits = lax.bitcast_convert_type(value, jnp.uint32)
    unit = jnp.uint32(1) << dropped
    up = jnp.where(dropped > 0, (unit >> 1) - 1 + (bits >> dropped & 1), 0)
    near = lax.bitcast_convert_type((bits + up) & ~(unit - 1), jnp.float32)
    return jnp.where(jnp.isfinite(value), near, value)


# Their results are float32's bits, or are made of them.
_BITS = ("bitcast_convert_type", "random_", "threefry")


def _wide_rule(equation: core.JaxprEqn, values: Values) -> Values:
    name, changes = equation.primitive.name, {}
    for key in ("new_dtype", "preferred_element_type", "dtype"):
        if equation.params.get(key) == jnp.float32:
            changes[key] = jnp.dtype("float64")
    if name.startswith(_BITS):
        narrow = [_cast_back(v, var) for v, var in zip(values, equation.invars, strict=True)]
        return [_wide(value) for value in _bind(equation, narrow)]
    if name == "reduce_precision":
        return values
    if equation.params.get("update_jaxpr") is not None:
        changes["update_jaxpr"] = _wide_update(name, equation.params["update_jaxpr"])
    return _bind(equation, [_wide(value) for value in values], **changes)


_UPDATES = {
    "scatter-add": lax.add,
    "scatter-sub": lax.sub,
    "scatter-mul": lax.mul,
    "scatter-min": lax.min,
    "scatter-max": lax.max,
    "scatter": lambda old, new: new,
}


def _wide_update(name: str, given: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr | core.ClosedJaxpr:
    """How a scatter joins two numbers: a program of its own, which is float32's."""
    number = jnp.zeros((), "float64")
    made = jax.make_jaxpr(_UPDATES[name.replace("_", "-")])(number, number)
    return made if isinstance(given, core.ClosedJaxpr) else made.jaxpr


def _wide(value: ArrayLike) -> Array:
    array = jnp.asarray(value)
    return array.astype("float64") if array.dtype in (jnp.float32, jnp.float16) else array


def _cast_back(value: Array, var: Any) -> Array:
    """The value in the dtype that the program has there; keys have one of their own."""
    array = jnp.asarray(value)
    return array if array.dtype == var.aval.dtype else array.astype(var.aval.dtype)


def _inlined(equation: core.JaxprEqn, values: Values, rule: Rule) -> Values:
    params = equation.params
    inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
    jaxpr = getattr(inner, "jaxpr", inner)
    return _evaluate(jaxpr, list(getattr(inner, "consts", ())), values, rule)


def _scanned(equation: core.JaxprEqn, values: Values, rule: Rule) -> Values:
    params = equation.params
    first, carries = scan_counts(params)
    carried = first + carries
    inner, shared = params["jaxpr"], values[:first]

    def body(carry: Values, inputs: Values) -> tuple[Values, Values]:
        found = _evaluate(inner.jaxpr, inner.consts, [*shared, *carry, *inputs], rule)
        return found[:carries], found[carries:]

    carry = [_like(rule, value) for value in values[first:carried]]
    rounds = {"length": params["length"], "reverse": params["reverse"]}
    carry, stacked = lax.scan(body, carry, values[carried:], **rounds)
    return [*carry, *stacked]


def _looped(equation: core.JaxprEqn, values: Values, rule: Rule) -> Values:
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]

    def goes_on(carry: Values) -> Array:
        return _evaluate(condition.jaxpr, condition.consts, [*values[:first], *carry], rule)[0]

    def once(carry: Values) -> Values:
        return _evaluate(body.jaxpr, body.consts, [*values[first:second], *carry], rule)

    return lax.while_loop(goes_on, once, [_like(rule, value) for value in values[second:]])


def _chosen(equation: core.JaxprEqn, values: Values, rule: Rule) -> Values:
    branches = [
        functools.partial(_branch, branch, rule=rule) for branch in equation.params["branches"]
    ]
    return lax.switch(values[0], branches, *values[1:])


def _branch(branch: core.ClosedJaxpr, *values: Array, rule: Rule) -> Values:
    return _evaluate(branch.jaxpr, branch.consts, list(values), rule)


def _like(rule: Rule, value: Array) -> Array:
    """What a loop carries has one dtype from its first round on."""
    return _wide(value) if rule is _wide_rule else jnp.asarray(value)


_HOLDERS: dict[str, Callable[[core.JaxprEqn, Values, Rule], Values]] = {
    "scan": _scanned,
    "while": _looped,
    "cond": _chosen,
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "remat"), _inlined
    ),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"), _inlined),
}
