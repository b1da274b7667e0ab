"""What a search tries: the combinations of `--grid`, or what `--space` lets it draw."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from experiments.cli.flags import flag_name, flags_of
from experiments.cli.kinds import FlagKind
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import Group

NO_SETTINGS = frozenset(
    [
        *("flagfile", "help", "grid", "space", "trials", "search_seed", "model"),
        *("output_dir", "cache_dir", "overwrite", "log_to"),
    ]
)
MOST_TRIALS = 10_000
WANTED = "name=low:high, name=low:high:log or name=value,value"


@dataclasses.dataclass(frozen=True)
class Axis:
    """One setting and what it may be.

    Attributes:
        name: the name of the axis's flag.
        values: some values as text, of which one is taken; empty for a range.
        low: the range's ends, both included.
        high: the upper end, as `low`.
        log: whether its logarithm is drawn evenly.
        whole: whether only whole numbers are meant.
    """

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that show whether all can be: both ends of a range, or every one."""
        return self.values or (self.text(self.low), self.text(self.high))

    def text(self, value: float | str) -> str:
        """A value as a flag's text; of a range with four digits, which tell settings apart.

        >>> Axis("temperature", low=0.1, high=2).text(0.49507143)
        '0.4951'
        """
        if isinstance(value, str):
            return value
        if self.whole:
            return str(int(value))
        number = min(max(float(f"{value:.4g}"), self.low), self.high)
        # An end may have more digits than `:g` writes.
        return text if float(text := f"{number:g}") == number else repr(number)


def combinations(grid: str) -> Iterator[list[str]]:
    """Every combination of the values as command-line flags.

    >>> list(combinations("dropout=0.1,0.5; kl=js"))
    [['--dropout=0.1', '--kl=js'], ['--dropout=0.5', '--kl=js']]

    Raises:
        UserError: if a part is not of the form name=value,value, tries something twice, or what
            is no setting of a trial.
    """
    options: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in grid.split(";"))):
        name, equals, values = part.partition("=")
        if not equals or not values or not name.strip():
            raise UserError(f"--grid: found {part!r}, expected name=value,value")
        name = name.strip().removeprefix("--")
        tried = [one.strip() for one in values.split(",")]
        if name in options or len({*tried}) < len(tried):
            raise UserError(f"--grid: found {part!r}, expected each name and each value once")
        if name in NO_SETTINGS:
            raise UserError(
                f"--grid: found {name!r}, which is no setting of a trial, expected one that is"
            )
        options[name] = [f"--{name}={value}" for value in tried]
    trials = math.prod(map(len, options.values()))
    if trials > MOST_TRIALS:
        raise UserError(f"--grid: found {trials} combinations, expected at most {MOST_TRIALS}")
    return (list(chosen) for chosen in itertools.product(*options.values()))


def tried_names(grid: str) -> frozenset[str]:
    """The settings that a grid tries.

    >>> sorted(tried_names("dropout=0.1,0.5; kl=js"))
    ['dropout', 'kl']

    Raises:
        UserError: as `combinations`.
    """
    first = next(combinations(grid))
    return frozenset(flag.removeprefix("--").partition("=")[0] for flag in first)


def parse_space(text: str, groups: Sequence[Group]) -> tuple[Axis, ...]:
    """Reads `--space`; whether a flag takes the values is seen where they are given to it.

    Args:
        text: settings apart by blanks or semicolons.
        groups: the flags that there are.

    Raises:
        UserError: a part is not of the form, names no setting of a trial or one twice, or a range
            is empty or of a flag that is no number.

    >>> [axis.name for axis in parse_space("", ())]
    []
    """
    kinds = {
        flag_name(group.prefix, field): kind
        for group in groups
        for field, kind in flags_of(group.config)
    }
    axes: dict[str, Axis] = {}
    for part in text.replace(";", " ").split():
        name, equals, values = part.partition("=")
        name = name.removeprefix("--")
        if not equals or not values or not name:
            raise UserError(f"--space: found {part!r}, expected {WANTED}")
        if name in NO_SETTINGS or name not in kinds:
            raise UserError(f"--space: found {name!r}, which is no setting of a trial")
        if name in axes:
            raise UserError(f"--space: found {part!r}, expected each name once")
        axes[name] = _axis(part, name, values, kinds[name])
    return tuple(axes.values())


def corners(space: Sequence[Axis]) -> list[dict[str, str]]:
    """Settings in which every end and every value comes up, as few as there can be."""
    most = max((len(axis.ends) for axis in space), default=1)
    return [
        {axis.name: axis.ends[min(n, len(axis.ends) - 1)] for axis in space} for n in range(most)
    ]


def as_flags(setting: Mapping[str, str]) -> list[str]:
    """A setting as words of the command line."""
    return [f"--{name}={value}" for name, value in setting.items()]


def _axis(part: str, name: str, values: str, kind: FlagKind) -> Axis:
    if "," in values:
        several = tuple(values.split(","))
        if "" in several or len(set(several)) < len(several):
            raise UserError(f"--space: found {part!r}, expected each value once")
        if kind.many:
            raise UserError(f"--space: found {part!r}, a list, expected a flag of one value")
        return Axis(name, several)
    low_text, _, rest = values.partition(":")
    high_text, _, scale = rest.partition(":")
    number = kind.element in (int, float) and not kind.many
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        raise UserError(f"--space: found {part!r}, expected {WANTED}") from None
    whole = kind.element is int
    if not number or (whole and not (low.is_integer() and high.is_integer())):
        wanted = "whole numbers" if number else f"values: --{name} is no number"
        raise UserError(f"--space: found {part!r}, expected {wanted}")
    if not -math.inf < low < high < math.inf or scale not in ("", "log"):
        raise UserError(f"--space: found {part!r}, expected low below high, and log or nothing")
    if scale and low <= 0:
        raise UserError(f"--space: found {part!r}, expected log with numbers above 0")
    return Axis(name, low=low, high=high, log=bool(scale), whole=whole)
