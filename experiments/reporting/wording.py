"""How results are put into words and digits: the same on the terminal, page and figures."""

from collections.abc import Iterable, Mapping
from typing import cast

from experiments.reporting.groups import VariantGroup
from experiments.reporting.results import Timing, VariantResult

ALPHA = 0.05
MISSING = "–"
ONE_SEED = "1 seed"
NO_BREAK = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(value: float) -> str:
    """A metric.

    >>> decimals(0.10204)
    '0.1020'
    """
    return f"{value:.4f}"


def percent(fraction: float | None) -> str:
    """A signed change; a dash where there is nothing to divide by.

    >>> percent(0.1826), percent(-0.03), percent(-1e-9), percent(None)
    ('+18.3 %', '-3.0 %', '+0.0 %', '–')
    """
    # Adding zero turns the −0.0 that rounding leaves into 0.0.
    return MISSING if fraction is None else f"{round(100 * fraction, 1) + 0.0:+.1f} %"


def unbroken(fraction: float | None) -> str:
    """`percent` for running text: a true minus, and no line break before the sign.

    >>> unbroken(-0.03).replace(NO_BREAK, "~")
    '−3.0~%'
    """
    return percent(fraction).replace("-", "−").replace(" ", NO_BREAK)


def p_value(p: float) -> str:
    """At most seven characters.

    >>> p_value(2.2e-9), p_value(0.03412), p_value(1.0), p_value(0.0)
    ('2e-9', '0.0341', '1', '<1e-99')
    """
    if p < 1e-99:
        return "<1e-99"
    if p >= 1e-3:
        return f"{p:.3g}"
    mantissa, _, exponent = f"{p:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def p_value_typeset(p: float) -> str:
    """`p_value` with a power of ten.

    >>> p_value_typeset(2.2e-9), p_value_typeset(0.0), p_value_typeset(0.5)
    ('2×10⁻⁹', '<10⁻⁹⁹', '0.5')
    """
    mantissa, e, exponent = p_value(p).partition("e")
    if not e:
        return mantissa
    power = "10" + exponent.translate(_SUPERSCRIPTS)
    return "<" + power if mantissa == "<1" else f"{mantissa}×{power}"


def count(number: float | None) -> str:
    """A large count, in three digits.

    >>> count(2_783_100), count(93_712), count(999_600), count(812), count(None)
    ('2.78 M', '93.7 k', '1 M', '812', '–')
    """
    if number is None:
        return MISSING
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,600 is 1 M in three digits, not 1e+03 k.
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g} {prefix}"
    return f"{number:g}"


def size(number: float | None) -> str:
    """A number of bytes.

    >>> size(6_392_400), size(812), size(None)
    ('6.39 MB', '812 B', '–')
    """
    text = count(number)
    return text if number is None else f"{text}B" if " " in text else f"{text} B"


def seconds(duration: float | None) -> str:
    """A duration.

    >>> seconds(1734.2), seconds(7.264), seconds(0.0312), seconds(None)
    ('1,734 s', '7.26 s', '0.031 s', '–')
    """
    if duration is None:
        return MISSING
    digits = 0 if duration >= 100 else 1 if duration >= 10 else 2 if duration >= 1 else 3
    return f"{duration:,.{digits}f} s"


def seed_count(variants: Iterable[VariantResult]) -> str:
    """How many seeds variants are means of: "1 seed", "3 seeds", "1 to 3 seeds"."""
    numbers = {len(variant["seeds"]) for variant in variants}
    least, most = min(numbers, default=0), max(numbers, default=0)
    span = f"{most}" if least == most else f"{least} to {most}"
    return f"{span} seed{'s' if most > 1 else ''}"


def lookup(timing: Timing, *keys: str) -> float | None:
    """The seconds under the keys, or None: a stage taken from the cache has left no time."""
    found: object = timing
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return cast("float | None", found)


def headline(group: VariantGroup, metric: str = "Recall@10") -> str:
    """The result in one sentence, as honest about a loss or about noise as about a gain.

    Args:
        group: a variant alone, or one and what it is compared with.
        metric: the metric that the sentence is about.
    """
    reference = group.reference
    name = reference["label"]
    if not group.compared:
        alone = "" if reference["method"] else " alone"
        return f"{name}{alone} reaches a {metric} of {decimals(reference['test'][metric])}"
    if group.pair is None:
        return f"{len(group.compared)} variants against {name}"
    other = group.pair
    # The method is what makes the difference where the reference has none.
    named = other["method"] if reference["method"] is None else None
    method = (named or other)["label"]
    against = (other["against"] or {})[metric]
    change, p = against["change"], against["t_p_holm"]
    test = f"(p = {p_value_typeset(p)})".replace("= <", "< ").replace(" ", NO_BREAK)
    if change is None:
        value = decimals(other["test"][metric])
        return f"{method} reaches a {metric} of {value} where {name}’s is 0 {test}"
    if p >= ALPHA:
        change = unbroken(change)
        return f"{method} changes {name}’s {metric} by {change}: no significant difference {test}"
    amount = unbroken(abs(change)).removeprefix("+")
    if change < 0:
        return f"{method} lowers {name}’s {metric} by {amount} {test}"
    same = reference["parameters"] == other["parameters"]
    cost = ", at the same serving cost" if same else ""
    return f"{method} lifts {name}’s {metric} by {amount} {test}{cost}"
