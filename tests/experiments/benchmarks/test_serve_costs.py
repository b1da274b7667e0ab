"""`bench --suite=serve`: counts by hand, equal students, bounded calls, a table of all of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import serve_costs
from experiments.benchmarks.serve_costs import DISTILLED, PLAIN, measure, time_in_turns
from experiments.benchmarks.serve_models import (
    MeasuredTeacher,
    Requests,
    measure_teacher,
    requests,
    serve_student,
    serve_teacher,
)
from experiments.benchmarks.serve_tables import markdown
from experiments.cli.flags import parse
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.data import load_task
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import read_exported
from teachers_torch.registry import kind
from tests.serve.exports import export
from tests.teachers_torch.recformer_worlds import make_teacher
from tests.teachers_torch.worlds import ring_world
from tests.worlds import MAX_SEQ_LEN, random_world

WIDTH, ITEMS = 8, 20
FLAGS = (
    "--teachers=unisrec-text",
    "--synthetic_users=30",
    f"--synthetic_items={ITEMS}",
    f"--hidden_size={WIDTH}",
    "--inner_size=8",
    "--num_layers=1",
    "--teacher_hidden_size=8",
    "--batch_size=32",
    "--max_seq_len=8",
)
CONFIG = BenchConfig(suite="serve", catalogues=(ITEMS, 50), batches=(1, 4), seconds=0.01)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    parsed = parse(["--flagfile=demo.cfg", *FLAGS, f"--cache_dir={cache}"], GROUPS)
    return settings_from(parsed.configs)


@pytest.fixture(scope="module")
def measured(settings):
    return measure(settings, CONFIG, lambda _: None)


def test_teachers_are_timed_on_what_they_say_of_these_histories(settings):
    """Rows made beforehand give the vectors that the teacher gives of the instances."""
    task = load_task(settings)
    asked = requests(task, 7, 0)
    assert len(set(asked.instances)) == 7
    for name in ("unisrec-text", "unim2rec"):
        cache = Cache(Path(settings.run.cache_dir))
        teacher = kind(name).build(task, settings.teachers, cache, lambda _: None)
        found = measure_teacher(teacher, name, asked).prepare(asked)()
        expected = teacher.encode_instances(asked.instances)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_distilled_student_costs_what_the_plain_one_costs(measured):
    """Sizes, parameters, bytes read and operations are equal at every catalogue size."""
    by_place = {}
    for row in measured["models"]:
        by_place.setdefault((row["items"], row["item_vectors"]), {})[row["model"]] = row
    for items in CONFIG.catalogues:
        rows = by_place[items, "cached"]
        plain, distilled = (
            {name: value for name, value in rows[model].items() if name != "model"}
            for model in (PLAIN, DISTILLED)
        )
        assert plain == distilled
        assert plain["parameters"] > ITEMS * WIDTH
    assert [row["items"] for row in measured["ratios"]] == [ITEMS, ITEMS, 50, 50]
    for row in [*measured["ratios"], measured["ratio"]]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]


def test_every_model_has_every_batch_and_catalogue(measured):
    """A teacher has a row with its items' vectors and one without, which takes longer."""
    names = {row["model"] for row in measured["models"]}
    assert {PLAIN, DISTILLED} < names
    assert len(names) == 3
    (teacher,) = names - {PLAIN, DISTILLED}
    assert len(measured["latencies"]) == 2 * 2 * (2 + 2)
    for row in measured["latencies"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["calls"] >= 5
    times = {
        (row["item_vectors"], row["items"], row["batch"]): row["p50_ms"]
        for row in measured["latencies"]
        if row["model"] == teacher
    }
    for items in CONFIG.catalogues:
        for batch in CONFIG.batches:
            assert times["recomputed", items, batch] > times["cached", items, batch]
    costs = {
        (row["item_vectors"], row["items"]): row
        for row in measured["models"]
        if row["model"] == teacher
    }
    # One more item costs its product with the user's vector; recomputed, its own vector too.
    cached = costs["cached", 50]["flops_per_request"] - costs["cached", ITEMS]["flops_per_request"]
    assert cached == 2 * 8 * (50 - ITEMS)
    assert costs["recomputed", 50]["flops_per_request"] > costs["cached", 50]["flops_per_request"]


def held_bytes(teacher, catalogue):
    """With the items' vectors at hand, and without."""
    width = teacher.encode_items().shape[1]
    made = MeasuredTeacher(teacher, "any", lambda asked: np.zeros, width, 1.0, 1.0, 0.0)
    cached, recomputed = serve_teacher(made, catalogue)
    return cached.bytes, recomputed.bytes


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_a_teacher_that_recomputes_holds_each_of_its_tables_once(settings, name):
    """Every tensor once; trained rows of items, like their features, grow with the catalogue."""
    task, cache = load_task(settings), Cache(Path(settings.run.cache_dir))
    teacher = kind(name).build(task, settings.teachers, cache, lambda _: None)
    model = teacher.model
    tensors = [*model.parameters(), *model.buffers()]
    ids = [] if model.item_embedding is None else [model.item_embedding.weight]
    of_items = [*model.buffers(), *ids]
    every, rows = (sum(each.nbytes for each in some) for some in (tensors, of_items))
    vectors = 4 * WIDTH * ITEMS
    assert held_bytes(teacher, ITEMS) == (every - rows + vectors, every)
    assert held_bytes(teacher, 3 * ITEMS) == (every - rows + 3 * vectors, every + 2 * rows)


def test_recformers_vectors_are_made_of_tokens():
    """Recomputed, it holds its weights and the items' tokens, and no finished table."""
    teacher = make_teacher(ring_world())
    weights = sum(each.nbytes for each in teacher.model.longformer.parameters())
    tokens = sum(each.nbytes for each in teacher.reader.tokens)
    items = len(teacher.item_table)
    assert tokens != teacher.item_table.nbytes
    expected = (weights + teacher.item_table.nbytes, weights + tokens)
    assert held_bytes(teacher, items) == expected


def test_the_tables_hold_every_row(measured):
    """Sizes, latencies and ratios are Markdown; the plain student is 1.00 times itself."""
    sizes, latencies, ratios = markdown(measured).split("\n\n")
    for table, rows in (
        (sizes, measured["models"]),
        (latencies, measured["latencies"]),
        (ratios, [*measured["ratios"], measured["ratio"]]),
    ):
        lines = table.splitlines()
        assert len(lines) == len(rows) + 2
        assert len({line.count("|") for line in lines}) == 1
    first = next(line for line in latencies.splitlines() if line.startswith(f"| {PLAIN}"))
    assert first.endswith("| 1.00× |")


def test_a_larger_catalogue_answers_from_all_of_its_items(tmp_path):
    """Items beyond the student's own can come back, and none of the history does."""
    exported = read_exported(export(tmp_path / "s", random_world(), 1))
    served = serve_student("s", exported, 1, 300)
    table = np.asarray(exported.items)
    assert served.bytes > 300 * table.shape[1] * 4
    found, scores = served.ask(Requests(np.array([0]), [np.array([1, 2])]))()
    assert found.shape == scores.shape == (1, 10)
    assert found.max() >= 40
    assert not {1, 2} & set(found[0].tolist())
    with pytest.raises(UserError, match=r"--catalogues: found 30, expected at least s's 40 items"):
        serve_student("s", exported, 1, 30)


def test_a_students_answer_has_nothing_of_the_whole_history(tmp_path):
    """Not even what is older than the window that it reads."""
    served = serve_student("s", read_exported(export(tmp_path / "s", random_world(), 1)), 1, 40)
    history = np.random.default_rng(0).permutation(40)[:30]
    assert len(history) > MAX_SEQ_LEN
    found, _ = served.ask(Requests(np.array([0]), [history]))()
    assert set(found[0].tolist()) == set(range(40)) - set(history.tolist())


def test_calls_take_turns_and_are_bounded(monkeypatch):
    """A, B, B, A, …: what slows the machine meets both; one call before isn't counted."""
    called = []
    calls = [lambda name=name: called.append(name) for name in "ab"]
    monkeypatch.setattr(serve_costs, "_MOST_CALLS", 6)
    times = time_in_turns(calls, 1e9)
    assert "".join(called) == "ab" + "abba" * 3
    assert [len(each) for each in times] == [6, 6]
    assert [len(each) for each in time_in_turns(calls, 0.0)] == [5, 5]


def test_one_student_alone_is_refused():
    with pytest.raises(UserError, match="--plain, --distilled: found one of them"):
        dataclasses.replace(BenchConfig(), plain="somewhere")
