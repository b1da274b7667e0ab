"""Finished runs: run once, read back, continued after a kill."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS
from experiments.runs import finished as trials
from experiments.runs.finished import FinishedRun
from experiments.runs.plan import plan_runs, shared_place
from experiments.stages import students
from experiments.stages.record import read_record
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.train.config import TrainConfig
from tests.experiments.calls import SMALL, finished_run


@pytest.fixture
def trained(monkeypatch) -> list[tuple]:
    """What is trained: (seed, whether there are teachers)."""
    calls, train = [], trials.train_student

    def watched(training, seed, *rest):
        calls.append((seed, training.bank is not None))
        return train(training, seed, *rest)

    monkeypatch.setattr(trials, "train_student", watched)
    return calls


def configs(folder, *flags):
    cache = f"--cache_dir={folder / 'cache'}"
    return parse([*SMALL, cache, "--teachers=", "--seeds=0", *flags], GROUPS).configs


def assert_same(one: FinishedRun, other: FinishedRun) -> None:
    """Equal results; the clock differs where a run was done twice, the epochs don't."""
    assert one.record.seeds == other.record.seeds
    np.testing.assert_equal(one.ranks, other.ranks)
    np.testing.assert_equal(one.masked, other.masked)
    for result in one.record.seeds:
        assert len(one.seconds[result.seed]) == len(other.seconds[result.seed]) == result.epochs


def test_nothing_is_run_twice(tmp_path, trained):
    """A seed is read back unless a setting that its training reads has changed."""
    runs = tmp_path / "runs"
    short = ("--max_epochs=1",)
    first = finished_run(configs(tmp_path, *short), runs)
    again = finished_run(configs(tmp_path, *short, "--seeds=1,0"), runs)
    assert trained == [(0, False), (1, False)]
    assert [result.seed for result in again.record.seeds] == [1, 0]
    assert first.record.seeds[0] == again.record.seeds[1]
    np.testing.assert_array_equal(first.ranks[0], again.ranks[1])
    assert first.record.seeds[0].validation != again.record.seeds[0].validation
    # Where things lie, and what no student alone reads, is no other setting.
    unread = ("--output_dir=elsewhere", "--distill_weight=9", "--teacher_dropout=0")
    assert_same(first, finished_run(configs(tmp_path, *short, *unread), runs))
    assert len(trained) == 2
    finished_run(configs(tmp_path, *short, "--learning_rate=0.1"), runs)
    assert len(trained) == 3
    assert not list(runs.rglob("checkpoints"))


def test_one_record_holds_all_seeds_of_a_run(tmp_path):
    """Its bytes don't depend on the order in which the seeds ran."""
    found = []
    for folder, orders in (("one", ["0,1"]), ("other", ["1", "0,1"])):
        for seeds in orders:
            finished_run(configs(tmp_path, "--max_epochs=1", f"--seeds={seeds}"), tmp_path / folder)
        (path,) = (tmp_path / folder).glob("*/record.json")
        found.append(path.read_bytes())
    assert found[0] == found[1]
    record = json.loads(found[0])
    assert record["schema_version"] == 2
    assert record["student"] == {"name": "sasrec", "label": "SASRec", "loss": "softmax"}
    assert record["method"] is None
    assert record["data"]["users"] == 40
    assert record["split"]["name"] == "leave_one_out"
    assert record["split"]["test"] == 40
    assert record["settings"]["hidden_size"] == 8
    assert record["environment"]["jax"]
    assert [result["seed"] for result in record["seeds"]] == [0, 1]
    for result in record["seeds"]:
        assert {"validation", "test", "test_masked"} < result.keys()
        assert "seconds" not in result["history"][0]


def test_another_versions_record_is_refused_in_one_line(tmp_path):
    """The line names the version found and the one expected; damage is told in one line too."""
    finished_run(configs(tmp_path, "--max_epochs=1"), tmp_path / "runs")
    (path,) = (tmp_path / "runs").glob("*/record.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 1}))
    with pytest.raises(UserError, match=r"record.json: schema_version: found 1, expected 2: it "):
        read_record(path.parent)
    path.write_text("{")
    with pytest.raises(UserError, match=r"record.json: damaged \(Expecting property name"):
        read_record(path.parent)
    path.write_text(json.dumps(content).replace("0.", "1."))
    with pytest.raises(UserError, match=r"record.json: damaged \(it differs from its digest\)"):
        read_record(path.parent)


def test_damaged_seconds_are_told_before_the_training(tmp_path, monkeypatch):
    """No seed is trained before the damaged file is told."""
    monkeypatch.setattr(trials, "train_student", None)
    flags = configs(tmp_path)
    (plan,) = plan_runs([flags])
    folder = shared_place(tmp_path / "runs", plan).folder
    folder.mkdir(parents=True)
    (folder / "timing.json").write_text("{")
    with pytest.raises(UserError, match=r"timing\.json: damaged \(Expecting property name"):
        finished_run(flags, tmp_path / "runs")


def test_ranks_that_were_damaged_are_made_again(tmp_path, trained, caplog):
    """One message names the damaged file, and the ranks equal the first ones."""
    short = configs(tmp_path, "--max_epochs=1")
    first = finished_run(short, tmp_path / "runs")
    (path,) = (tmp_path / "runs").glob("*/ranks-0.npy")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    assert_same(first, finished_run(short, tmp_path / "runs"))
    assert len(trained) == 2
    assert caplog.messages == [f"{path}: found it damaged; it is made again"]


def test_a_run_without_the_masked_ranks_is_finished(tmp_path, trained, caplog):
    """Missing or damaged masked ranks are None in the result, and no seed trains again."""
    runs = tmp_path / "runs"
    flags = configs(tmp_path, "--max_epochs=1", "--seeds=0,1")
    first = finished_run(flags, runs)
    assert first.masked.shape == first.ranks.shape == (2, 40)
    for seed, result in enumerate(first.record.seeds):
        assert ranking_metrics(first.masked[seed]) == result.test_masked
    (path,) = runs.glob("*/ranks_masked-1.npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert finished_run(flags, runs).masked is None
    assert caplog.messages == [f"{path}: found it damaged; no test with seen items masked"]
    path.unlink()
    again = finished_run(flags, runs)
    assert len(trained) == 2
    assert len(caplog.messages) == 1
    assert again.masked is None
    np.testing.assert_equal(again.ranks, first.ranks)


def test_a_run_that_chooses_never_ranks_the_test_part(tmp_path, trained):
    """Its result has no test metrics or ranks, and a run that needs them trains again."""
    runs = tmp_path / "runs"
    flags = configs(tmp_path, "--max_epochs=1")
    choosing = finished_run(flags, runs, rank_test=False)
    assert choosing.record.seeds[0].test is None
    assert choosing.ranks is None
    reporting = finished_run(flags, runs)
    assert reporting.record.seeds[0].validation == choosing.record.seeds[0].validation
    assert reporting.ranks.shape == (1, 40)
    assert len(trained) == 2


def test_a_stopped_run_goes_on_from_its_last_epoch(tmp_path, monkeypatch):
    """Only the epoch in progress is repeated, and the result equals that of a whole run."""
    whole = finished_run(configs(tmp_path), tmp_path / "whole")
    epochs, write = [], students.append_json_line

    def stopping(path, event):
        write(path, event)
        epochs.append(event["epoch"])
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(students, "append_json_line", stopping)
    parsed = configs(tmp_path)
    often = dataclasses.replace(parsed[TrainConfig], checkpoint_seconds=0)
    settings = {**parsed, TrainConfig: often}
    with pytest.raises(KeyboardInterrupt):
        finished_run(settings, tmp_path / "runs")
    resumed = finished_run(settings, tmp_path / "runs")
    # Written to the log before it is kept: there twice, and never missing.
    assert epochs == [1, 2, 2, 3]
    assert_same(whole, resumed)


def test_teachers_make_another_run_and_permuted_ones_another_still(tmp_path, trained):
    """Each of the three trains, and other vectors under the same path are another run."""
    data = configs(tmp_path)[DataConfig]
    world, rng = synthetic_dataset(data), np.random.default_rng(0)
    for name, rows in (
        ("instances", len(world.interactions.items)),
        ("items", world.num_items),
    ):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(rows, 4)).astype(np.float32))
    flags = ("--teachers=precomputed", f"--precomputed_folder={tmp_path}", "--max_epochs=1")
    found = [
        finished_run(configs(tmp_path, *flags, f"--method={method}"), tmp_path / "runs")
        for method in ("prmkd", "permuted", "prmkd")
    ]
    assert trained == [(0, True)] * 2
    assert_same(found[0], found[2])
    first, permuted, _ = (run.record for run in found)
    assert first.seeds[0].validation != permuted.seeds[0].validation
    assert first.seeds[0].threshold is None
    assert first.method == {"name": "prmkd", "label": "PRM-KD"}
    assert permuted.method["name"] == "permuted"
    assert first.teacher_weights == {"precomputed": 1.0}
    assert first.teachers["precomputed"]["label"] == "Precomputed"
    assert "seconds" not in first.teachers["precomputed"]
    # Other vectors under the same path are another teacher.
    np.save(tmp_path / "items.npy", rng.normal(size=(world.num_items, 4)).astype(np.float32))
    finished_run(configs(tmp_path, *flags, "--method=prmkd"), tmp_path / "runs")
    assert len(trained) == 3
