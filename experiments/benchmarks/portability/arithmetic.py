"""A program evaluated in another arithmetic than it was written for.

`in_float64` is the reference that rounding is measured against: the same operations on the same
random draws, in float64. `rounded_products` is what another machine's matrix unit does to float32:
it rounds the factors, multiplies them exactly and adds in float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

Values = list[Any]
Rule = Callable[[Any, Values], Values]

UNITS = {
    "tf32": ("a GPU's float32 products but at `highest`", 8, 10, 1),
    "bf16": ("a TPU's float32 products at `default`", 8, 7, 1),
    "bf16_3x": ("a TPU's float32 products at `high`", 8, 7, 2),
}
"""Name → whose products, bits of exponent and mantissa, parts that a factor is split into."""


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in float64; call it under `jax.enable_x64(True)`.

    It is traced in float32, so that what it draws at random stays the same; so do constants, which
    are float32's, such as the root of two in a GELU.
    """

    def evaluated(*arguments: Any) -> Any:
        with jax.enable_x64(False):
            closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = [_wide(leaf) for leaf in jax.tree.leaves(arguments)]
        consts = [_wide(const) for const in closed.consts]
        results = _evaluate(closed.jaxpr, consts, leaves, _wide_rule)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return evaluated


def rounded_products(function: Callable[..., Any], unit: str) -> Callable[..., Any]:
    """The function with every matrix product of float32 made as another machine makes it.

    Args:
        function: of arrays.
        unit: of `UNITS`.
    """
    _, exponent, mantissa, parts = UNITS[unit]
    rule = functools.partial(_rounding_rule, exponent, mantissa, parts)

    def evaluated(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), rule)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return evaluated


def _evaluate(jaxpr: Any, consts: Values, arguments: Values, rule: Rule) -> Values:
    """Every operation by a rule; what holds programs is taken apart."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def value(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else known[var]

    for equation in jaxpr.eqns:
        values = [value(var) for var in equation.invars]
        holder = _HOLDERS.get(equation.primitive.name)
        found = holder(equation, values, rule) if holder else rule(equation, values)
        known.update(zip(equation.outvars, found, strict=True))
    return [value(var) for var in jaxpr.outvars]


def _bind(equation: Any, values: Values, **changes: Any) -> Values:
    found = equation.primitive.bind(*values, **{**equation.params, **changes})
    return list(found) if equation.primitive.multiple_results else [found]


def _rounding_rule(
    exponent: int, mantissa: int, parts: int, equation: Any, values: Values
) -> Values:
    product = equation.primitive.name == "dot_general"
    if not product or any(value.dtype != jnp.float32 for value in map(jnp.asarray, values)):
        return _bind(equation, values)
    left, right = (_split(value, exponent, mantissa, parts) for value in values)
    # Without the product of the two remainders, as the machines do.
    pairs = [(i, j) for i in range(parts) for j in range(parts) if i + j < max(parts, 1)]
    products = [_bind(equation, [left[i], right[j]])[0] for i, j in reversed(pairs)]
    return [functools.reduce(jnp.add, products)]


def _split(value: Any, exponent: int, mantissa: int, parts: int) -> Values:
    """The value rounded, what is left of it rounded, and so on."""
    found = []
    for _ in range(parts):
        found.append(lax.reduce_precision(value, exponent, mantissa))
        value = value - found[-1]
    return found


# Their results are float32's bits, or are made of them.
_BITS = ("bitcast_convert_type", "random_", "threefry")


def _wide_rule(equation: Any, values: Values) -> Values:
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


def _wide_update(name: str, given: Any) -> Any:
    """How a scatter joins two numbers: a program of its own, which is float32's."""
    number = jnp.zeros((), "float64")
    made = jax.make_jaxpr(_UPDATES[name.replace("_", "-")])(number, number)
    return made if isinstance(given, core.ClosedJaxpr) else made.jaxpr


def _wide(value: Any) -> Any:
    array = jnp.asarray(value)
    return array.astype("float64") if array.dtype in (jnp.float32, jnp.float16) else array


def _cast_back(value: Any, var: Any) -> Any:
    """The value in the dtype that the program has there; keys have one of their own."""
    array = jnp.asarray(value)
    return array if array.dtype == var.aval.dtype else array.astype(var.aval.dtype)


def _inlined(equation: Any, values: Values, rule: Rule) -> Values:
    params = equation.params
    inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
    jaxpr = getattr(inner, "jaxpr", inner)
    return _evaluate(jaxpr, list(getattr(inner, "consts", ())), values, rule)


def _scanned(equation: Any, values: Values, rule: Rule) -> Values:
    params = equation.params
    first, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    inner, shared = params["jaxpr"], values[:first]

    def body(carry: Values, inputs: Values) -> tuple[Values, Values]:
        found = _evaluate(inner.jaxpr, inner.consts, [*shared, *carry, *inputs], rule)
        return found[: params["num_carry"]], found[params["num_carry"] :]

    carry = [_like(rule, value) for value in values[first:carried]]
    rounds = {"length": params["length"], "reverse": params["reverse"]}
    carry, stacked = lax.scan(body, carry, values[carried:], **rounds)
    return [*carry, *stacked]


def _looped(equation: Any, values: Values, rule: Rule) -> Values:
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]

    def goes_on(carry: Values) -> Any:
        return _evaluate(condition.jaxpr, condition.consts, [*values[:first], *carry], rule)[0]

    def once(carry: Values) -> Values:
        return _evaluate(body.jaxpr, body.consts, [*values[first:second], *carry], rule)

    return lax.while_loop(goes_on, once, [_like(rule, value) for value in values[second:]])


def _chosen(equation: Any, values: Values, rule: Rule) -> Values:
    branches = [
        functools.partial(_branch, branch, rule=rule) for branch in equation.params["branches"]
    ]
    return lax.switch(values[0], branches, *values[1:])


def _branch(branch: Any, *values: Any, rule: Rule) -> Values:
    return _evaluate(branch.jaxpr, branch.consts, list(values), rule)


def _like(rule: Rule, value: Any) -> Any:
    """What a loop carries has one dtype from its first round on."""
    return _wide(value) if rule is _wide_rule else jnp.asarray(value)


_HOLDERS: dict[str, Callable[[Any, Values, Rule], Values]] = {
    "scan": _scanned,
    "while": _looped,
    "cond": _chosen,
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "remat"), _inlined
    ),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"), _inlined),
}
