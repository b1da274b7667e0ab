"""The whole command, as a user runs it, in interpreters of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, Done, run_commands

SMALL = (
    "--flagfile=demo.cfg",
    "--seeds=0,1",
    "--synthetic_users=150",
    "--synthetic_items=100",
    "--hidden_size=16",
    "--max_epochs=4",
    "--batch_size=128",
    "--max_seq_len=20",
    "--teacher_hidden_size=16",
    "--teacher_max_epochs=2",
    "--teacher_batch_size=128",
)
MISTAKES = [
    (["--no_such_flag=1"], "error: unknown flag --no_such_flag"),
    (["--dropout=1.5"], "error: --dropout: found '1.5', expected a number, at least 0, below 1"),
    (["--teachers=unisrec,oracle"], "error: --teachers: found 'unisrec,oracle', expected"),
    (["--dataset=Nowhere", "--data_dir=missing"], "error: "),
    (["--num_heads=3"], "error: --num_heads: found 3, expected a divisor of --hidden_size=16"),
    (["--output_dir="], "error: --output_dir: found '', expected a path, not empty"),
    (["--cache_dir="], "error: --cache_dir: found '', expected a path, not empty"),
    (["--data_dir="], "error: --data_dir: found '', expected a path, not empty"),
    (["--dataset="], "error: --dataset: found '', expected text, not empty"),
    (["--resume"], "error: unknown flag --resume"),
    (["--log_to=mlflow"], "error: --log_to: found 'mlflow', whose package is not installed"),
    (["--batch_size=10"], "error: --batch_size: found 10, expected at least --max_seq_len=20"),
]
ALONE = ("--teachers=", "--seeds=0", "--max_epochs=1", "--distill_weight=2")


def words(folder: Path, output: str, *flags: str) -> list[str]:
    return [*SMALL, f"--cache_dir={folder / 'cache'}", f"--output_dir={folder / output}", *flags]


def command(folder: Path, output: str) -> list[str]:
    return [sys.executable, "-m", "experiments.main", *words(folder, output)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("main")


@pytest.fixture(scope="module")
def killed(folder) -> None:
    """A run that was killed while it trained its first distilled seed."""
    output = folder / "killed"
    process = subprocess.Popen(
        command(folder, "killed"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log, deadline = output / "log.jsonl", time.monotonic() + 300
    while '"sasrec-prmkd-seed0"' not in (log.read_text() if log.is_file() else ""):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (output / "results.json").exists()


@pytest.fixture(scope="module")
def later(folder, killed) -> dict[str, Done]:
    """What comes after the kill, by name, in one process; mistakes by their number.

    First the uninterrupted run, whose teachers are in the cache.
    """
    lines = {
        "first": words(folder, "first"),
        "killed": words(folder, "killed"),
        "other": words(folder, "first", "--dropout=0.1"),
        "alone": words(folder, "alone", *ALONE),
        **{str(n): words(folder, "mistake", *flags) for n, (flags, _) in enumerate(MISTAKES)},
    }
    done = run_commands([*lines.values()], timeout=600, module="experiments.main")
    return dict(zip(lines, done, strict=True))


def test_run_leaves_its_files_and_a_table(folder, later):
    """All files of two seeds are there, and the results agree with the records."""
    finished = later["first"]
    assert finished.returncode == 0, finished.stderr
    output = folder / "first"
    for name in [
        "config.json",
        "flags.cfg",
        "log.jsonl",
        "results.json",
        "timing.json",
        "report.html",
        "ranks.npz",
        "results.md",
        "runs/base/record.json",
        "runs/prmkd/record.json",
        *(
            f"students/sasrec-{variant}-seed{seed}/{file}"
            for variant in ("base", "prmkd")
            for seed in (0, 1)
            for file in ("weights.safetensors", "student.json")
        ),
    ]:
        assert (output / name).stat().st_size > 0, name
    found = json.loads((output / "results.json").read_text())
    assert set(found["teachers"]) == {"unisrec-text", "unisrec", "unim2rec"}
    base, prmkd = found["variants"]
    assert (base["name"], prmkd["name"], prmkd["reference"]) == ("base", "prmkd", "base")
    assert base["parameters"] == prmkd["parameters"]
    assert [one["seed"] for one in prmkd["seeds"]] == [0, 1]
    assert 0 <= prmkd["against"]["NDCG@10"]["t_p_holm"] <= 1
    # The results say what the record says.
    record = json.loads((output / "runs" / "prmkd" / "record.json").read_text())
    assert record["seeds"] == prmkd["seeds"]
    assert record["data"] == found["data"]
    assert set(record["teachers"]) == set(found["teachers"])
    for words in ("SASRec", "PRM-KD", "UniSRec text", "Recall", "results.json"):
        assert words in finished.stdout, words


def results(folder: Path, *outputs: str) -> list[dict]:
    """The results of runs without what may differ between equal ones."""
    found = [json.loads((folder / output / "results.json").read_text()) for output in outputs]
    for one in found:
        # The commit may change while the tests run; the digest is of all, the folder included.
        del one["settings"]["output_dir"], one["environment"]["git_commit"], one["digest"]
    return found


def test_killed_and_resumed_is_the_same_as_uninterrupted(folder, later):
    """Teachers come from the cache, and a finished seed isn't trained again.

    The second process did other work before: the results have no clock and no unseeded draw,
    and no cache key depends on either.
    """
    resumed = later["killed"]
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("from the cache") == 3
    assert "sasrec-base-seed0: epoch" not in resumed.stdout
    first, second = results(folder, "first", "killed")
    assert first == second


def test_another_runs_folder_is_refused(later):
    """The last line names the setting that differs, and the status is 2."""
    done = later["other"]
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: --dropout: found 0.1, expected 0.5 as in")


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[flags[0] for flags, _ in MISTAKES])
def test_mistake_ends_in_one_line_and_status_2(folder, later, number):
    """No traceback is printed, and no output folder is made."""
    done = later[str(number)]
    assert done.returncode == 2
    assert done.stderr.startswith(MISTAKES[number][1])
    assert done.stderr.count("\n") == 1
    assert not (folder / "mistake").exists()


def test_flags_that_nothing_reads_are_warned_about(folder, later):
    """The warning is printed, and the run finishes."""
    done = later["alone"]
    assert done.returncode == 0, done.stderr
    assert "warning: --distill_weight has no effect" in done.stdout
    alone = json.loads((folder / "alone" / "results.json").read_text())
    assert [variant["name"] for variant in alone["variants"]] == ["base"]
