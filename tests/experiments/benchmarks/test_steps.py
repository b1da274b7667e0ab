import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import compiling, floors
from experiments.benchmarks import steps as bench
from experiments.benchmarks.floors import Measurement, Speeds, XlaWork
from experiments.benchmarks.steps import measure, recformer_speed
from experiments.benchmarks.timing import compiling_anew
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from prmkd_jax.common.errors import UserError
from teachers_torch.config import UniM2RecConfig
from tests.teachers_torch.recformer_worlds import make_teacher
from tests.teachers_torch.worlds import ring_world


def test_recformers_speed_counts_real_tokens(monkeypatch):
    """Padding, tokens beyond the cut and held-out items don't count."""
    monkeypatch.setattr(bench, "median_seconds", lambda call, **_: 0.5 if call() is not None else 0)
    dataset = ring_world()
    teacher = make_teacher(dataset, max_tokens=12, batch_size=4)
    items, starts = dataset.interactions.items, dataset.interactions.indptr[:-1]
    train_end = starts + 1 + np.arange(len(starts)) % 6
    measured = recformer_speed(teacher, train_end, seed=0)
    sizes = np.diff(teacher.reader.tokens.indptr)
    lengths = [
        min(12, 1 + sizes[items[start:end]].sum())
        for start, end in zip(starts, train_end, strict=True)
    ]
    assert min(lengths) < 12 == max(lengths)
    first = np.random.default_rng(0).permutation(len(lengths))[:4]
    assert measured == [
        ("recformer length of an instance", np.mean(lengths), "tokens"),
        ("recformer encoding", 2 * sum(lengths), "tokens/s"),
        ("recformer tuning", 2 * sum(lengths[user] for user in first), "tokens/s"),
    ]


def test_a_bench_without_teachers_is_refused():
    """One line asks for at least one teacher."""
    with pytest.raises(UserError, match="--teachers: found none, expected at least one"):
        list(measure(settings_from(parse(["--teachers="], GROUPS).configs), 1))


def test_every_number_has_a_unit_and_each_teacher_its_own_width(tmp_path, monkeypatch):
    """No number means seconds by silence, and no teacher gets another one's width."""
    widths = []
    make = bench._random_vectors

    def watched(*arguments):
        vectors = make(*arguments)
        widths.extend((v.name, v.instances.shape[1], v.items.shape[1]) for v in vectors)
        return vectors

    monkeypatch.setattr(bench, "_random_vectors", watched)
    monkeypatch.setattr(bench, "machine_speeds", lambda: Speeds(1e9, 1e9))
    flags = [
        "--teachers=unisrec,unim2rec",
        "--synthetic_users=30",
        "--synthetic_items=20",
        "--hidden_size=8",
        "--inner_size=8",
        "--num_layers=1",
        "--teacher_hidden_size=8",
        "--batch_size=32",
        "--max_seq_len=8",
        f"--cache_dir={tmp_path}",
    ]
    settings = settings_from(parse(["--flagfile=demo.cfg", *flags], GROUPS).configs)
    wider = dataclasses.replace(settings.teachers.get(UniM2RecConfig), hidden_size=12)
    of = {**settings.teachers.of, UniM2RecConfig: wider}
    teachers = dataclasses.replace(settings.teachers, of=of)
    measured = list(measure(dataclasses.replace(settings, teachers=teachers), 5))
    assert widths == [("unisrec", 8, 8), ("unim2rec", 12, 12)]
    names = [name for name, _, _ in measured]
    assert len(set(names)) == len(names)
    for name, value, unit in measured:
        assert value >= 0
        assert unit or "/" in name
    seconds = {name: value for name, value, unit in measured if unit == "s"}
    for step in ("plain", "distilled (jax)", "distilled (torch)"):
        assert seconds[f"{step} step"] > 0
        assert seconds[f"{step} epoch"] > seconds[f"{step} step"]


def test_the_machines_speed_of_copying_is_that_of_memory_in_use(monkeypatch):
    """The copies reuse one buffer, so handing out new memory doesn't raise the floor."""
    monkeypatch.setattr(floors, "_MATRIX", {"cpu": 8, "other": 8})
    monkeypatch.setattr(floors, "_COPIED", {"cpu": 2**16, "other": 2**16})
    places = []

    def watched(call, *arguments, repeats=10):
        found = [call(*arguments) for _ in range(3)]
        places.append({each.unsafe_buffer_pointer() for each in found if not each.is_deleted()})
        places[-1] |= {call(*arguments).unsafe_buffer_pointer() for _ in range(3)}
        return 2.0

    monkeypatch.setattr(floors, "median_seconds", watched)
    assert floors.machine_speeds() == Speeds(flops=8**3, bandwidth=4 * 2**16)
    assert len(places[1]) == 1


def test_compiling_is_timed_anew_where_an_earlier_run_left_the_program(tmp_path):
    """Reading a stored program isn't told as compiling, not even from the second run on."""
    hits = []

    def heard(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def compiled():
        # Another program each time: what one was compiled to stays with it.
        jax.jit(lambda x: jnp.sin(x) * 3.25).lower(jax.ShapeDtypeStruct((7,), "float32")).compile()

    jax.monitoring.register_event_listener(heard)
    with compiling._cache(str(tmp_path)):
        compiled()
        with compiling_anew():
            compiled()
        assert hits == []
        compiled()
        assert len(hits) == 1


def test_floors_by_hand():
    """A step of 6 GFLOP and 2 GB takes 3 s of work and 0.5 s of traffic at these speeds."""
    found = XlaWork(6e9, 2e9).measurements("step", Speeds(flops=2e9, bandwidth=4e9))
    assert found == [
        Measurement("step operations", 6.0, "GFLOP"),
        Measurement("step memory traffic", 2.0, "GB"),
        Measurement("step floor of the operations", 3.0, "s"),
        Measurement("step floor of the traffic", 0.5, "s"),
    ]
