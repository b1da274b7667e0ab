"""The whole command in a subprocess, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


def command(folder: Path, output: str, *flags: str) -> list[str]:
    module = [sys.executable, "-m", "experiments.main", *SMALL]
    return [*module, f"--cache_dir={folder / 'cache'}", f"--output_dir={folder / output}", *flags]


def run(folder: Path, output: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, output, *flags), cwd=ROOT, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("main")


@pytest.fixture(scope="module")
def finished(folder) -> subprocess.CompletedProcess:
    done = run(folder, "first")
    assert done.returncode == 0, done.stderr
    return done


def test_run_leaves_its_files_and_a_table(folder, finished):
    """A stage that is skipped, or a file that is not written."""
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
    results = json.loads((output / "results.json").read_text())
    assert set(results["teachers"]) == {"unisrec-text", "unisrec", "unim2rec"}
    base, prmkd = results["variants"]
    assert (base["name"], prmkd["name"], prmkd["reference"]) == ("base", "prmkd", "base")
    assert base["parameters"] == prmkd["parameters"]
    assert [one["seed"] for one in prmkd["seeds"]] == [0, 1]
    assert 0 <= prmkd["against"]["NDCG@10"]["t_p_holm"] <= 1
    # The results say what the record says.
    record = json.loads((output / "runs" / "prmkd" / "record.json").read_text())
    assert record["seeds"] == prmkd["seeds"]
    assert record["data"] == results["data"]
    assert set(record["teachers"]) == set(results["teachers"])
    for words in ("SASRec", "PRM-KD", "UniSRec text", "Recall", "results.json"):
        assert words in finished.stdout, words


def test_second_run_gives_the_same_bytes_and_repeats_no_teacher(folder, finished):
    """A clock or an unseeded draw in the results, or a cache key that depends on neither."""
    again = run(folder, "second")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("from the cache") == 3
    results = [json.loads((folder / o / "results.json").read_text()) for o in ("first", "second")]
    for one in results:
        # The commit may change while the tests run; the digest is of all, the folder included.
        del one["settings"]["output_dir"], one["environment"]["git_commit"], one["digest"]
    assert results[0] == results[1]


def test_killed_and_resumed_is_the_same_as_uninterrupted(folder, finished):
    """A part of the training state that the checkpoint lacks, or a finished seed run again."""
    output = folder / "killed"
    process = subprocess.Popen(
        command(folder, "killed"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log, deadline = output / "log.jsonl", time.monotonic() + 300
    while '"sasrec-prmkd-seed1"' not in (log.read_text() if log.is_file() else ""):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (output / "results.json").exists()
    resumed = run(folder, "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "sasrec-base-seed0: epoch" not in resumed.stdout
    results = [json.loads((folder / o / "results.json").read_text()) for o in ("first", "killed")]
    for one in results:
        del one["settings"]["output_dir"], one["environment"]["git_commit"], one["digest"]
    assert results[0] == results[1]


def test_another_runs_folder_is_refused(folder, finished):
    """Going on with a state that belongs to another configuration, or replacing it unasked."""
    done = run(folder, "first", "--dropout=0.1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: --dropout: found 0.1, expected 0.5 as in"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no_such_flag=1"], "error: unknown flag --no_such_flag"),
        (
            ["--dropout=1.5"],
            "error: --dropout: found '1.5', expected a number, at least 0, below 1",
        ),
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
    ],
)
def test_mistake_ends_in_one_line_and_status_2(folder, flags, message):
    """A traceback, a wrong status or a run that starts all the same."""
    done = run(folder, "mistake", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (folder / "mistake").exists()


def test_flags_that_nothing_reads_are_warned_about(folder, finished):
    """A setting that the user believes in and that has no effect."""
    done = run(folder, "alone", "--teachers=", "--seeds=0", "--max_epochs=1", "--distill_weight=2")
    assert done.returncode == 0, done.stderr
    assert "warning: --distill_weight has no effect" in done.stdout
    results = json.loads((folder / "alone" / "results.json").read_text())
    assert [variant["name"] for variant in results["variants"]] == ["base"]
