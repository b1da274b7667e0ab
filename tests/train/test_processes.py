"""Several processes train as one does; where one ends all end, and any number goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.train.launch import Given, asked, own_devices
from prmkd_jax.train.processes import LOST, the_first_says
from tests.devices import by_slurm, end_together, run_on_devices, run_together, start_together
from tests.train.test_meshes import require_same

SHAPES = ("4x1", "2x2", "1x4")
"""Two processes with two devices each: each table complete, in halves of one process, in four."""
SHORT = (
    *("--flagfile=demo.cfg", "--teachers=", "--seeds=0", "--synthetic_users=150"),
    *("--synthetic_items=100", "--hidden_size=16", "--batch_size=128", "--max_seq_len=20"),
)
LONG = (*SHORT, "--max_epochs=25", "--patience=25")
PROGRAM = """
from experiments.__main__ import main
from prmkd_jax.train.config import TrainConfig
from tests.reliability.kill_child import set_default

set_default(TrainConfig, "checkpoint_seconds", 0)
main()
"""
"""The command line, with a state after every epoch."""


def meshes(folder: Path, student: str, kind: str, *shapes: str) -> tuple[str, ...]:
    return ("-m", "tests.train.meshes", str(folder), student, kind, *shapes)


def require_as_one_process(folder: Path, student: str, kind: str, *shapes: str) -> None:
    one = run_on_devices(1, *meshes(folder, student, kind, "1x1"), seconds=900)
    first, second = run_together(2, 2, *meshes(folder, student, kind, *shapes))
    assert first == second
    require_same({**one, **first}, student)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "distilled", "closed", "catalogue"])
def test_sasrec_learns_the_same_in_two_processes(tmp_path, kind):
    """Plain, distilled, closed and catalogue runs end as in one process."""
    require_as_one_process(tmp_path, "sasrec", kind, *SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "distilled"])
@pytest.mark.parametrize("student", sorted({*BUILT_IN} - {"sasrec"}))
def test_every_student_does(tmp_path, student, kind):
    """Plain and distilled, the other students end as in one process too."""
    require_as_one_process(tmp_path, student, kind, "2x2")


@pytest.mark.slow
def test_another_number_of_processes_goes_on(tmp_path):
    """A state of two processes goes on in one, a state of one in two."""
    one = run_on_devices(1, *meshes(tmp_path, "sasrec", "distilled", "1x1"))
    run_together(2, 2, *meshes(tmp_path, "sasrec", "distilled", "2x2!"))
    alone = run_on_devices(4, *meshes(tmp_path, "sasrec", "distilled", "2x2"))
    run_on_devices(4, *meshes(tmp_path, "sasrec", "distilled", "4x1!"))
    two, _ = run_together(2, 2, *meshes(tmp_path, "sasrec", "distilled", "4x1"))
    for found in (alone["2x2"], two["4x1"]):
        assert found["went_on"]
        assert found["epochs"] == 1
    require_same({**one, **alone, **two})


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_one_process_goes_on(tmp_path, killed):
    """Nobody waits for the killed one, and only what follows the last state is repeated."""
    output = tmp_path / "run"
    words = ["-c", PROGRAM, "train", *LONG, f"--output_dir={output}"]
    words.append(f"--cache_dir={tmp_path / 'cache'}")
    with start_together(2, words, words) as processes:
        state = output / "checkpoints" / "sasrec-base-seed0" / "epoch_2" / "digests.json"
        wait_for(state, 400, processes[killed])
        processes[killed].send_signal(signal.SIGKILL)
        require_end(processes[1 - killed])
    subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=400)
    trained = [event["epoch"] for event in learned(output)]
    assert trained[0] == 1
    assert trained[-1] == 25
    # What was trained after the last state is trained once more, and nothing before it.
    assert len(trained) <= 26


@pytest.mark.slow
def test_processes_that_slurm_starts_find_each_other_and_train_as_one_does(tmp_path):
    """Only the first process writes, and losses and metrics agree."""
    words = ("-m", "experiments", "train", *SHORT, "--max_epochs=3")
    words = (*words, f"--cache_dir={tmp_path / 'cache'}")
    outputs = tmp_path / "one", tmp_path / "two"
    one, two = [(*words, f"--output_dir={output}") for output in outputs]
    subprocess.run([sys.executable, *one], check=True, capture_output=True, timeout=400)
    end_together(2, two, two, launch=by_slurm)
    # The first one's alone: a second that writes would tell each epoch again.
    expected, found = map(learned, outputs)
    assert [each["epoch"] for each in found] == [each["epoch"] for each in expected] == [1, 2, 3]
    for one_process, slurm in zip(expected, found, strict=True):
        assert slurm["loss"] == pytest.approx(one_process["loss"], rel=1e-5)
        assert slurm["validation"] == pytest.approx(one_process["validation"], abs=1e-3)
    tested = [
        json.loads((output / "results.json").read_text("utf-8"))["variants"][0]["test"]
        for output in outputs
    ]
    assert tested[1] == pytest.approx(tested[0], abs=1e-3)


def learned(output: Path) -> list[dict]:
    """What the student's epochs gave, as the log tells it."""
    events = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
    return [event for event in events if event["stage"] == "student"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_a_mistake_in_one_process_ends_the_other_too(tmp_path, wrong):
    """The mistake is told in one line, and the other process doesn't wait for ever."""
    words = ["-m", "experiments", "train", *LONG, f"--output_dir={tmp_path / 'run'}"]
    commands = [words, words]
    commands[wrong] = [*words, "--data_dir=nowhere", "--dataset=Nowhere"]
    with start_together(2, *commands) as processes:
        _, told = processes[wrong].communicate(timeout=300)
        assert processes[wrong].returncode == 2
        assert told.startswith("error: ")
        assert told.count("\n") == 1, told
        require_end(processes[1 - wrong])


def require_end(process: subprocess.Popen[str]) -> None:
    """Whether it ends within a minute, with one line of its own."""
    _, told = process.communicate(timeout=60)
    assert process.returncode == LOST, told
    assert re.fullmatch(r"(?s).*error: another process has ended [^\n]*\n", told), told
    assert told.count("error") == 1
    assert "Traceback" not in told


def wait_for(file: Path, seconds: float, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, file
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_the_environment_says_who_is_who(monkeypatch):
    """Without variables, or with one process, there is no group; numbers become integers."""
    for name in ("COORDINATOR", "PROCESSES", "PROCESS"):
        monkeypatch.delenv(f"PRMKD_{name}", raising=False)
    assert asked() is None
    monkeypatch.setenv("PRMKD_PROCESSES", "1")
    assert asked() is None
    monkeypatch.setenv("PRMKD_PROCESSES", "auto")
    assert asked() == Given(None, None, None)
    monkeypatch.setenv("PRMKD_PROCESSES", "16")
    monkeypatch.setenv("PRMKD_PROCESS", "15")
    monkeypatch.setenv("PRMKD_COORDINATOR", "[::1]:1234")
    assert asked() == Given("[::1]:1234", 16, 15)
    assert the_first_says({"epoch": 3}) == {"epoch": 3}


SEES_ALL: list[int] = []
SLURM = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
MPI = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, None),
        (SLURM, SEES_ALL),
        ({**SLURM, "SLURM_NTASKS": "4"}, None),
        ({**SLURM, "SLURM_NTASKS": "4", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({**SLURM, "SLURM_NTASKS": "4", "CUDA_VISIBLE_DEVICES": "3"}, SEES_ALL),
        ({**SLURM, "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
        ({**SLURM, **MPI}, None),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, SEES_ALL),
    ],
)
def test_a_process_alone_on_its_machine_has_all_its_gpus(monkeypatch, variables, devices):
    """With several on a machine, or with ids that the user gave, JAX's own choice stays."""
    for name in (*SLURM, *MPI, "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert own_devices() == devices


def test_what_slurm_says_of_one_process_leaves_it_every_gpu():
    """Without this, JAX would give it only the GPU of its own number."""
    program = (
        "import jax\n"
        "from jax._src import xla_bridge\n"
        "from prmkd_jax.train.processes import together\n"
        "with together():\n"
        "    print(xla_bridge.CUDA_VISIBLE_DEVICES.value, jax.process_count())"
    )
    (shown,) = end_together(1, ("-c", program), launch=by_slurm)
    assert shown == "all 1\n"


def test_auto_where_nothing_has_started_the_processes_is_refused():
    """One line says that there are no other processes and names srun."""
    others = ("SLURM_", "OMPI_", "KUBERNETES_")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    program = "from prmkd_jax.train.processes import together\nwith together():\n    pass"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**alone, "PRMKD_PROCESSES": "auto"},
        capture_output=True,
        text=True,
    )
    line = r".*UserError: \$PRMKD_PROCESSES=auto: found no other processes \(.*\), expected .* srun"
    assert re.match(line, done.stderr.splitlines()[-1]), done.stderr


GOOD = {"COORDINATOR": "localhost:1234", "PROCESSES": "2", "PROCESS": "1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PROCESSES": ""}, r"\$PRMKD_PROCESSES: found none beside \$PRMKD_COORDINATOR"),
        ({"PROCESSES": "two"}, r"\$PRMKD_PROCESSES: found 'two', expected a whole number from 1"),
        ({"PROCESSES": "0"}, r"\$PRMKD_PROCESSES: found '0', expected a whole number from 1"),
        ({"PROCESSES": "²"}, r"\$PRMKD_PROCESSES: found '²', expected a whole number from 1"),
        ({"PROCESSES": "1" * 5000}, r"\$PRMKD_PROCESSES: found '1{60}', expected a whole number"),
        ({"PROCESS": ""}, r"\$PRMKD_PROCESS: found '', expected a whole number from 0 on"),
        ({"PROCESS": "-1"}, r"\$PRMKD_PROCESS: found '-1', expected a whole number from 0 on"),
        ({"PROCESS": "2"}, r"\$PRMKD_PROCESS: found 2, expected less than \$PRMKD_PROCESSES=2"),
        ({"COORDINATOR": ""}, r"\$PRMKD_COORDINATOR: found '', expected HOST:PORT"),
        ({"COORDINATOR": "host"}, r"\$PRMKD_COORDINATOR: found 'host', expected HOST:PORT"),
        ({"COORDINATOR": "host:http"}, r"\$PRMKD_COORDINATOR: found 'host:http', expected"),
        ({"COORDINATOR": "host:99999"}, r"\$PRMKD_COORDINATOR: found 'host:99999', expected"),
        ({"COORDINATOR": ":1234"}, r"\$PRMKD_COORDINATOR: found ':1234', expected HOST:PORT"),
    ],
)
def test_variables_that_cannot_be_are_refused(monkeypatch, change, message):
    """Each error names the variable and what is expected, for `²` and 5,000 digits too."""
    for name, value in {**GOOD, **change}.items():
        monkeypatch.setenv(f"PRMKD_{name}", value)
    with pytest.raises(UserError, match=message):
        asked()


def test_a_command_for_one_process_refuses_several():
    """One line says that one process carries a study, so none is trained twice."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "study", "ablation", "--flagfile=demo.cfg"],
        env={**os.environ, "PRMKD_PROCESSES": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: $PRMKD_PROCESSES: found '2' with study, which one process carries" in done.stderr
