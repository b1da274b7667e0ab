import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.cli.options import ReportConfig, StudyConfig, TeachConfig
from experiments.cli.settings import RunConfig
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import allowed, excess, expected, option, validate
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.serve.config import ExportConfig, RecommendConfig
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Toy:
    """Every kind of bound, and a field that is no option."""

    closed: float = option(0.0, "Closed.", low=-1, high=1)
    open: float = option(0.5, "Open.", above=0, below=1)
    free: float = option(0.0, "Unbounded.")
    choice: str = option("a", "Choice.", choices=("a", "b"))
    several: tuple[int, ...] = option((1,), "Several.", low=1, high=1e-5 + 9)
    paths: tuple[str, ...] = option((), "Paths.", path=True)
    layers: tuple[int, ...] = option((2, 2), "Layers.", repeats=True)
    maybe: float | None = option(None, "Maybe.", low=0)
    plain: float = -5.0

    def __post_init__(self):
        validate(self)


FIELDS = {field.name: field for field in dataclasses.fields(Toy)}


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("closed", -1, True),
        ("closed", 1, True),
        ("closed", 1.0000001, False),
        ("closed", -1.0000001, False),
        ("open", 0, False),
        ("open", 1, False),
        ("open", 1e-300, False),
        ("open", math.nan, False),
        ("free", -1e300, False),
        ("free", math.nan, False),
        ("free", math.inf, False),
        ("maybe", math.inf, False),
        ("maybe", None, True),
        ("maybe", 0, True),
        ("choice", "b", True),
        ("choice", "c", False),
        ("choice", "", False),
        ("several", (), True),
        ("several", (1, 9), True),
        ("several", (1, 0), False),
        ("plain", math.nan, True),
    ],
)
def test_validate_accepts_exactly_what_is_declared(name, value, valid):
    """Open and closed bounds, None, nan and each element of a tuple are checked."""
    if valid:
        assert getattr(Toy(**{name: value}), name) is value
        return
    with pytest.raises(UserError, match=rf"^--{name}: found ") as caught:
        Toy(**{name: value})
    assert repr(value) in str(caught.value)
    words = expected(FIELDS[name]) or "a finite number"
    assert str(caught.value).endswith(f"expected {words}{excess(value, FIELDS[name])}")


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (Toy, "several", (1, 2, 1)),
        (Toy, "paths", ("a", "b", "./a/")),
        (ExportConfig, "formats", ("vectors", "vectors")),
        (StudyConfig, "datasets", ("x", "x")),
        (StudyConfig, "variants", ("base", "base")),
        (ReportConfig, "fill", ("a.md", "a.md")),
        (TeachConfig, "models", ("a", "a/")),
        (PrepareConfig, "deduplicate", ("exact", "exact")),
        (PrepareConfig, "interactions", ("a.csv", "a.csv")),
        (ServeConfig, "compare", ("a", "a")),
        (RunConfig, "seeds", (0, 0)),
    ],
)
def test_a_value_that_is_there_twice_is_refused(config, name, values):
    """A repeated value is refused when the configuration is made, before any work."""
    with pytest.raises(UserError) as caught:
        config(**{name: values})
    found = ",".join(map(str, values))
    assert str(caught.value) == f"--{name}: found {found!r}, expected each value once"
    assert getattr(config(**{name: values[:1]}), name) == values[:1]


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (Toy, "layers", (1, 1)),
        (StudentConfig, "mlp_sizes", (64, 64)),
        (RecommendConfig, "history", ("a", "b", "a")),
        (RecommendConfig, "similar_to", ("a", "a")),
    ],
)
def test_a_value_may_be_there_twice_where_that_means_something(config, name, values):
    """Two layers of one width, or an item that was bought again, are accepted."""
    assert getattr(config(**{name: values}), name) == values


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("open", 1e-300, ", that float32 can hold"),
        ("free", -1e300, ", that float32 can hold"),
        ("maybe", 2**31, ", at most 2147483647"),
        ("several", (1, 2**31), ""),
        ("open", 2.0, ""),
        ("open", math.nan, ""),
        ("choice", "c", ""),
        ("maybe", None, ""),
    ],
)
def test_an_absurd_size_is_told_where_the_declared_bounds_hold(name, value, words):
    """A value that float32 can't hold gets that reason, not a bound that it keeps."""
    assert excess(value, FIELDS[name]) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("closed", "at least -1, at most 1"),
        ("open", "above 0, below 1"),
        ("free", ""),
        ("choice", "one of a, b"),
        ("maybe", "at least 0"),
    ],
)
def test_expected_says_the_limits(name, words):
    """`--help` and every refusal show these words."""
    assert expected(FIELDS[name]) == words


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_allowed_agrees_with_the_inequalities(value):
    """Each bound means its comparison: closed or open, within what float32 can hold."""
    # What float32 neither makes infinite nor 0.
    held = value == 0 or 2.0**-126 <= abs(value) <= 2.0**128 - 2.0**103
    assert allowed(value, FIELDS["closed"]) == (held and -1 <= value <= 1)
    assert allowed(value, FIELDS["open"]) == (held and 0 < value < 1)
    assert allowed((0, value), FIELDS["free"]) == held


@pytest.mark.parametrize("config", [DataConfig, DistillConfig, TrainConfig])
def test_every_option_of_the_project_is_described_and_valid_by_default(config):
    """Each option has a help text, and its default passes its own check."""
    for field in dataclasses.fields(config()):
        assert field.metadata["help"].endswith("."), field.name
        assert allowed(field.default, field), field.name


def test_a_configuration_cannot_be_changed_after_its_check():
    """No unchecked value can get into a run or its record."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().batch_size = 0  # pyright: ignore[reportAttributeAccessIssue]
