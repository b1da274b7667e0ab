"""`portability`: one student through all comparisons, on a world of thirty users."""

import json

import jax
import pytest

from experiments.benchmarks.portability import curves as all_curves
from experiments.benchmarks.portability import run as portability
from experiments.benchmarks.portability.ceilings import DEVICES
from experiments.benchmarks.portability.curves import Arithmetic, every_arithmetic
from experiments.benchmarks.portability.tables import least_seconds
from experiments.cli.options import PortabilityConfig
from experiments.commands.portability import COMMAND
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import SMALL, make_call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What the command wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("portability")
    flags = [*SMALL, "--students=fm", "--curve_seeds=0,1", "--curve_epochs=1"]
    call, stream = make_call(COMMAND, [*flags, f"--output_dir={folder}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portability, "_WORLD", (30, 24))
        patch.setattr(portability, "_BATCH", 64)
        portability.run(call)
    written = json.loads((folder / "portability.json").read_text())
    return written, stream.getvalue(), folder


def test_one_call_leaves_numbers_a_table_and_a_figure(content):
    """The table has this run's numbers, and the figure has numbers on its axis."""
    written, printed, folder = content
    figure = (folder / "portability.svg").read_text()
    assert "<svg" in figure
    assert "mathdefault" not in figure  # numbers on its axis, and no formulas
    text = (folder / "portability.md").read_text()
    for title in ("Programs", "Least milliseconds", "Memory", "Distance", "Trainings"):
        assert f"## {title}" in text
        assert title in printed
    student = written["students"][0]
    assert f"{1e3 * least_seconds(student, 'TPU v5e', 'default'):.3f}" in text


def test_every_program_is_counted_for_every_platform_and_device(content):
    """No platform is left out, and every program has a cost."""
    (student,) = content[0]["students"]
    assert set(student["programs"]) == {"forward", "step"}
    for program in student["programs"].values():
        assert set(program["operations"]) == {"cpu", "cuda", "tpu"}
        assert all(count > 0 for count in program["operations"].values())
        assert program["exported_bytes"] > 0
        assert set(program["seconds"]) == {device.name for device in DEVICES}
        assert all(0 < share < 1 for share in program["memory_share"].values())
        assert program["work"]["products"] > 0
    steps, forward = (student["programs"][name]["work"] for name in ("step", "forward"))
    assert steps["products"] > 2 * forward["products"]


def test_float32_is_near_float64_and_what_other_machines_do_is_not(content):
    """The float64 reference doesn't round, and the imitations do."""
    found = {each["arithmetic"]: each for each in content[0]["students"][0]["precision"]}
    for precision in ("default", "high", "highest"):
        exact = found[f"float32, {precision}"]
        assert exact["scores"] < 1e-5
        assert exact["gradient"] < 1e-5
        assert exact["top_10"] > 0.99
        assert not exact["imitated"]
    assert found["bf16"]["imitated"]
    assert found["bf16"]["scores"] > 10 * found["bf16_3x"]["scores"]
    assert found["bfloat16, default"]["scores"] > 100 * exact["scores"]


def test_curves_of_all_arithmetics_have_a_value_a_seed_and_epoch(content):
    """No two seeds share a curve, and bfloat16 isn't float32 under another name."""
    (student,) = content[0]["students"]
    curves = {each["arithmetic"]: each for each in student["curves"]}
    assert list(curves) == list(every_arithmetic(jax.devices()[0]))
    for curve in curves.values():
        assert [len(losses) for losses in curve["losses"]] == [1, 1]
        assert curve["losses"][0] != curve["losses"][1]
    assert curves["bfloat16"]["losses"] != curves["float32"]["losses"]
    assert [gap["arithmetic"] for gap in student["gaps"]] == list(curves)[1:]


def test_a_device_with_two_precisions_is_trained_in_its_own_too(monkeypatch):
    """A GPU's own TF32 is trained, not only its imitation."""
    cpu = jax.devices("cpu")[0]
    assert list(every_arithmetic(cpu)) == ["float32", "tf32", "bf16", "bfloat16"]
    rounds = {"default": "default", "high": "default", "highest": "highest"}
    monkeypatch.setattr(all_curves, "same_products", lambda device, dtype: rounds)
    assert every_arithmetic(cpu)["float32, default"] == Arithmetic(precision="default")


def test_what_is_finished_is_kept_and_one_that_fails_is_one_row(content, monkeypatch):
    """The other students' results and tables stay, and the status names the failed one."""
    written, _, folder = content

    def fails(settings, config, name):
        assert name == "lightgcn", "it was finished"
        raise TypeError("(bfloat16 | float32)\nsecond line")

    monkeypatch.setattr(portability, "_compared", fails)
    monkeypatch.setattr(portability, "_at_once", lambda students: 1)
    flags = [*SMALL, "--curve_seeds=0,1", "--curve_epochs=1", f"--output_dir={folder}"]
    call, stream = make_call(COMMAND, [*flags, "--students=lightgcn,fm"])
    with pytest.raises(SystemExit, match="error: 1 of 2 students failed: lightgcn"):
        portability.run(call)
    again = json.loads((folder / "portability.json").read_text())
    assert again["students"][1] == written["students"][0]
    failed = again["students"][0]
    assert failed["failed"] == "TypeError: (bfloat16 | float32)"
    assert any("in fails" in line for line in failed["traceback"])
    text = (folder / "portability.md").read_text()
    assert "| lightgcn | TypeError: (bfloat16 / float32) |" in text
    assert "| fm | forward |" in text
    assert "fm: compared in" in stream.getvalue()
    # Another setting's figures are not taken for these.
    other, _ = make_call(COMMAND, [*flags, "--students=fm", "--dropout=0.3"])
    with pytest.raises(SystemExit, match="1 of 1 students failed: fm"):
        portability.run(other)


def test_mistakes_are_told_before_anything_is_compiled(tmp_path):
    """No teachers or a single seed end in one line, without minutes of compiling."""
    call, _ = make_call(COMMAND, ["--teachers=", f"--output_dir={tmp_path}"])
    with pytest.raises(UserError, match="--teachers: found none, expected at least one"):
        portability.run(call)
    with pytest.raises(UserError, match="--curve_seeds: found 1 seeds, expected at least 2"):
        PortabilityConfig(curve_seeds=(0,))
