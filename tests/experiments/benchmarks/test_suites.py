"""Every suite measures on a small world; what their rows say is tested where they are made."""

import jax
import pytest

from experiments.benchmarks import (
    compiling,
    distill,
    end_to_end,
    evaluate,
    memory,
    scale,
    suites,
    tuning,
)
from experiments.benchmarks.suites import DISTILLED, MEASURED
from experiments.cli.flags import parse
from experiments.cli.options import SUITES, BenchConfig
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.bench import COMMAND
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json
from tests.experiments.calls import make_call
from tests.experiments.fake_run import fake_timing

SMALL = (
    *("--dataset=synthetic", "--synthetic_users=30", "--synthetic_items=20", "--max_seq_len=8"),
    *("--hidden_size=8", "--inner_size=8", "--num_layers=1", "--batch_size=32"),
)
SIZES = {"made_users": 40, "made_items": 30, "made_interactions": 300, "made_ranked": 20}


def settings(*flags):
    return settings_from(parse([*SMALL, *flags], GROUPS).configs)


def test_every_suite_has_a_body():
    """No choice of --suite ends in a KeyError."""
    assert set(SUITES) == {*MEASURED, "serve", "end_to_end", "peers"}


@pytest.mark.parametrize("suite", DISTILLED)
def test_columns_that_a_training_makes_are_refused_at_once(suite, tmp_path):
    """One line names the suite; there is no traceback after the plain steps."""
    flags = [f"--suite={suite}", "--negatives=closed", f"--output_dir={tmp_path}"]
    call, _ = make_call(COMMAND, flags)
    with pytest.raises(UserError, match=f"--negatives: found 'closed' with --suite={suite}, which"):
        suites.run(call)


@pytest.fixture
def few(monkeypatch):
    """Two repetitions instead of ten, and one size of each axis but one."""
    for module in (compiling, tuning):
        monkeypatch.setattr(module, "FEWEST", 2)
    monkeypatch.setattr(distill, "COUNTS", (3,))
    monkeypatch.setattr(evaluate, "SHARES", (2, 1))
    monkeypatch.setattr(scale, "ITEMS", (50,))
    monkeypatch.setattr(scale, "USERS", (20,))
    monkeypatch.setattr(scale, "HISTORIES", (5,))
    monkeypatch.setattr(scale, "WIDTHS", (8,))
    for name, size in (("BASE_USERS", 20), ("BASE_ITEMS", 30), ("BASE_HISTORY", 6), ("RANKED", 8)):
        monkeypatch.setattr(scale, name, size)


def test_a_whole_runs_seconds_are_those_of_its_trainings(tmp_path):
    """The study's own times, which lie beside its results, don't count for a training."""
    epochs = [{"train": 2.0, "evaluate": 0.5}, {"train": 1.0, "evaluate": 0.25}]
    made = {
        "unisrec": {"tune_seconds": 9.0, "test_seconds": 0.5, "encode_seconds": 1.0},
        "unim2rec": {"tune_seconds": 7.0, "encode_seconds": 2.0},
    }
    write_sealed_json(tmp_path / "timing.json", fake_timing())
    for name, seeds, teachers in (("base", 1, {}), ("prmkd", 2, made)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        content = {"seeds": {str(seed): epochs for seed in range(seeds)}, "teachers": teachers}
        write_sealed_json(tmp_path / "runs" / name / "timing.json", content)
    assert end_to_end.stages(tmp_path) == {
        "base, train": 3.0,
        "base, evaluate": 0.75,
        "teacher unisrec, tuned": 9.0,
        "teacher unisrec, tested": 0.5,
        "teacher unisrec, encoded": 1.0,
        "teacher unim2rec, tuned": 7.0,
        "teacher unim2rec, encoded": 2.0,
        "prmkd, train": 6.0,
        "prmkd, evaluate": 1.5,
    }


def test_a_large_run_tells_seconds_and_memory_of_its_stages(few):
    """Every stage is timed, and memory never falls from one stage to the next."""
    told = []
    flags = ("--loss=sampled_softmax", "--lazy_adam")
    rows = memory.measure(settings(*flags), BenchConfig(**SIZES), told.append)
    stages = [row.name for row in rows if row.unit == "s"]
    assert stages == [
        *("data", "3 teachers' vectors", "facts", "threshold", "one distilled epoch"),
        "ranking of 20 users",
    ]
    for kind in ("own memory until its end", "with mapped files"):
        held = [row.value for row in rows if row.name.endswith(kind)]
        assert len(held) == 6
        assert held == sorted(held)
    assert any("loss" in line for line in told)


def test_programs_are_read_from_the_cache_where_that_is_timed(few, monkeypatch):
    """The time isn't that of a program that JAX still holds."""
    events = []

    def heard(event, **_):
        if event.startswith("/jax/compilation_cache/cache_"):
            events.append(event.rpartition("_")[2])

    def program(_):
        shape = jax.ShapeDtypeStruct((7,), "float32")
        return jax.jit(lambda x: jax.numpy.cos(x) * 1.75).lower(shape)

    monkeypatch.setattr(compiling, "lowered", program)
    jax.monitoring.register_event_listener(heard)
    rows = compiling.measure(settings(), BenchConfig(), lambda _: events.append("told"))
    # Before the first program, what it is made with may be compiled.
    first = events.index("told") + 1
    assert events[:first][-4:] == ["misses", "hits", "hits", "told"]
    assert events[:first].count("hits") == 2
    assert events[first:] == ["misses", "hits", "hits", "told"]
    assert {row.repeats for row in rows} == {2}


@pytest.mark.slow  # two compilations of a step, three times
@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("distill", {"plain step", "distilled step, scored by torch / plain"}),
        ("evaluate", {"ranking", "user vectors", "scores, floor of the operations"}),
        ("compile", {"plain step, compiled", "distilled step, from the cache"}),
        ("scale", {"distilled step, sampled softmax, lazy Adam", "ranking 8 users"}),
    ],
)  # fmt: skip
def test_a_suite_measures_what_it_names(few, suite, names):
    """Each suite runs and gives its rows with plausible values and units."""
    flags = ("--loss=sampled_softmax",) if suite == "scale" else ()
    rows = MEASURED[suite](settings(*flags), BenchConfig(repeats=5, largest=10_000), lambda _: None)
    assert names <= {row.name for row in rows}
    assert all(row.value >= 0 and row.low <= row.value <= row.high for row in rows)
    assert all(row.unit or "/" in row.name for row in rows)


@pytest.mark.slow  # encodes texts
def test_teachers_have_their_floors(few, tmp_path):
    """Every teacher is named, and its floors are above 0 and of the right magnitude."""
    flags = (
        "--teachers=unisrec-text,unim2rec",
        "--teacher_hidden_size=8",
        "--teacher_num_experts=2",
    )
    rows = tuning.measure(
        settings(*flags, f"--cache_dir={tmp_path}"), BenchConfig(), lambda _: None
    )
    by_name = {row.name: row for row in rows}
    for name in ("unisrec-text", "unim2rec"):
        assert by_name[f"{name} step"].value > 0
        assert 0 < by_name[f"{name} step, operations"].value < 1
        assert by_name[f"{name} step, floor of the traffic"].value > 0
        assert by_name[f"{name} validation"].repeats == 2
