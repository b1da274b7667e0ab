"""What the suite `devices` tells of simulated devices, by hand."""

import pytest

from experiments.benchmarks.devices import measure
from experiments.benchmarks.report import figure
from experiments.benchmarks.timing import BenchRow
from experiments.cli.flags import parse
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS, settings_from
from prmkd_jax.common.errors import UserError
from tests.devices import run_on_devices

# In a process of its own: the number of devices is fixed when JAX starts. Two shapes are all that
# the test reads, and each compiles two steps.
PROGRAM = """
import json
from experiments.benchmarks import devices
from tests.experiments.benchmarks.test_devices import told
devices.COUNTS = (1, 4)
print(json.dumps(told()))
"""
# 43 items, which four devices don't divide, and batches of two rows, as they don't either.
FLAGS = (
    *("--dataset=synthetic", "--synthetic_users=60", "--synthetic_items=43", "--max_seq_len=8"),
    *("--hidden_size=12", "--inner_size=10", "--num_layers=1", "--num_heads=2"),
    *("--batch_size=62", "--teachers=unisrec,unim2rec"),
)


def told(*flags: str) -> tuple[list[BenchRow], list[str]]:
    """The suite's rows, and what it says meanwhile."""
    said: list[str] = []
    settings = settings_from(parse([*FLAGS, *flags], GROUPS).configs)
    return measure(settings, BenchConfig(repeats=5), said.append), said


def test_what_four_devices_send_and_hold_is_what_was_planned():
    """Each device's shapes and bytes are those of the plan, and no seconds are given.

    The plan is that of docs/accelerators.md for 62 slots, instances and columns, vectors of 12
    in float32 and two teachers' of 12 in float16; two more rows cross than batches have slots.
    """
    given, said = run_on_devices(4, "-c", PROGRAM)
    rows = [BenchRow(*each) for each in given]
    assert said[0] == "4x1 is left out: a batch's rows can't be divided by 4"
    assert {tuple(row.of.items()) for row in rows} == {
        (("data", 1), ("model", 1)),
        (("data", 1), ("model", 4)),
    }
    assert not [row for row in rows if row.unit == "s"]
    found = {(row.name, row.of["model"]): row.value for row in rows}
    assert found["plain step, sent", 1] == found["distilled step, sent", 1] == 0
    ring, count, vector, taught = 2 * 3 / 4, 62, 4 * 12, 2 * 2 * 12
    scores = count * (vector + 3 * 4)
    plain = ring * ((count + 2) * vector + scores)
    both = ring * ((2 * count + 2) * vector + 2 * count * taught + scores + 3 * count)
    assert found["plain step, sent", 4] * 1e6 == pytest.approx(plain, rel=0.02)
    assert found["distilled step, sent", 4] * 1e6 == pytest.approx(both, rel=0.02)
    assert found["plain step, largest table", 1] == 43
    assert found["plain step, largest table", 4] == 11
    for name in ("plain", "distilled"):
        for what in ("operations", "arguments", "temporaries"):
            assert 0 < found[f"{name} step, {what}", 4] < found[f"{name} step, {what}", 1]
    # Nothing was timed: bars of operations.
    assert "plain step, operations, 1 data, 4 model" in figure(rows)


@pytest.mark.slow  # compiles two more steps, for their seconds alone
def test_one_real_device_is_timed_too():
    """Both the plain and the distilled step have seconds, over five repetitions."""
    rows, said = told("--batch_size=16")
    assert len(said) == 2
    timed = [row for row in rows if row.unit == "s"]
    assert [row.name for row in timed] == ["plain step, seconds", "distilled step, seconds"]
    assert all(row.repeats == 5 and 0 < row.low <= row.value for row in timed)


def test_without_teachers_it_is_refused():
    """One line asks for at least one teacher."""
    with pytest.raises(UserError, match="--teachers: found none, expected at least one"):
        told("--teachers=")
