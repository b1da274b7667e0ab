"""Finished runs: run once, read back, continued after a kill."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS
from experiments.runs import finished as trials
from experiments.runs.finished import finished_runs
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.train.config import TrainConfig

SMALL = (
    "--synthetic_users=40",
    "--synthetic_items=30",
    "--hidden_size=8",
    "--num_layers=1",
    "--inner_size=8",
    "--batch_size=64",
    "--max_seq_len=8",
    "--max_epochs=3",
)


@pytest.fixture
def reporter():
    return Reporter(Console(quiet=True))


@pytest.fixture
def trained(monkeypatch) -> list[tuple]:
    """What is trained: (seed, whether there are teachers)."""
    calls, train = [], trials.train_students

    def watched(dataset, split, bank, settings, *rest, **named):
        calls.append((settings.run.seeds, bank is not None))
        return train(dataset, split, bank, settings, *rest, **named)

    monkeypatch.setattr(trials, "train_students", watched)
    return calls


def configs(folder, *flags):
    cache = f"--cache_dir={folder / 'cache'}"
    return parse([*SMALL, cache, "--teachers=", "--seeds=0", *flags], GROUPS).configs


def assert_same(one, other):
    for field in dataclasses.fields(one):
        if field.name == "epoch_seconds":
            # The clock differs where it was run twice, the epochs don't.
            assert len(one.epoch_seconds) == len(other.epoch_seconds) == one.epochs
            continue
        np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def test_nothing_is_run_twice(tmp_path, reporter, trained):
    """A finished seed that costs its hours again, or one read back for another setting."""
    runs = tmp_path / "runs"
    short = ("--max_epochs=1",)
    (first,) = finished_runs(configs(tmp_path, *short), runs, reporter, rank_test=True)
    again = finished_runs(configs(tmp_path, *short, "--seeds=0,1"), runs, reporter, rank_test=True)
    assert trained == [((0,), False), ((1,), False)]
    assert [run.seed for run in again] == [0, 1]
    assert_same(first, again[0])
    assert first.validation != again[1].validation
    # Where things lie, and what no student alone reads, is no other setting.
    unread = ("--output_dir=elsewhere", "--distill_weight=9", "--teacher_dropout=0")
    same = configs(tmp_path, *short, *unread)
    assert_same(first, finished_runs(same, runs, reporter, rank_test=True)[0])
    assert len(trained) == 2
    other = configs(tmp_path, *short, "--learning_rate=0.1")
    finished_runs(other, runs, reporter, rank_test=True)
    assert len(trained) == 3
    assert not list(runs.rglob("checkpoints"))


def test_a_run_that_chooses_never_ranks_the_test_part(tmp_path, reporter, trained):
    """A setting chosen on the test part, or a run without test ranks passed off as one with."""
    runs = tmp_path / "runs"
    flags = configs(tmp_path, "--max_epochs=1")
    (choosing,) = finished_runs(flags, runs, reporter, rank_test=False)
    assert choosing.test is None
    assert choosing.ranks is None
    (reporting,) = finished_runs(flags, runs, reporter, rank_test=True)
    assert reporting.validation == choosing.validation
    assert reporting.ranks.shape == (40,)
    assert len(trained) == 2


def test_a_stopped_run_goes_on_from_its_last_epoch(tmp_path, reporter, monkeypatch):
    """A kill that costs more than the epoch in progress, or leaves half a result behind."""
    whole = finished_runs(configs(tmp_path), tmp_path / "whole", reporter, rank_test=True)
    epochs, write = [], trials.append_json_line

    def stopping(path, event):
        write(path, event)
        epochs.append(event["epoch"])
        if event["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trials, "append_json_line", stopping)
    settings = [
        dataclasses.replace(config, checkpoint_seconds=0)
        if isinstance(config, TrainConfig)
        else config
        for config in configs(tmp_path)
    ]
    with pytest.raises(KeyboardInterrupt):
        finished_runs(settings, tmp_path / "runs", reporter, rank_test=True)
    resumed = finished_runs(settings, tmp_path / "runs", reporter, rank_test=True)
    assert epochs == [1, 2, 3]
    assert_same(whole[0], resumed[0])


def test_teachers_make_another_run_and_permuted_ones_another_still(tmp_path, reporter, trained):
    """A distilled run read back for the plain one, or a control taught by the true teacher."""
    data = configs(tmp_path)[DataConfig]
    world, rng = synthetic_dataset(data), np.random.default_rng(0)
    for name, rows in (
        ("instances", len(world.interactions.items)),
        ("items", world.num_items),
    ):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(rows, 4)).astype(np.float32))
    flags = ("--teachers=precomputed", f"--precomputed_folder={tmp_path}", "--max_epochs=1")
    found = [
        finished_runs(
            configs(tmp_path, *flags, f"--method={method}"),
            tmp_path / "runs",
            reporter,
            rank_test=True,
        )[0]
        for method in ("prmkd", "permuted", "prmkd")
    ]
    assert trained == [((0,), True)] * 2
    assert_same(found[0], found[2])
    assert found[0].validation != found[1].validation
    assert found[0].threshold is None
    # Other vectors under the same path are another teacher.
    np.save(tmp_path / "items.npy", rng.normal(size=(world.num_items, 4)).astype(np.float32))
    again = configs(tmp_path, *flags, "--method=prmkd")
    finished_runs(again, tmp_path / "runs", reporter, rank_test=True)
    assert len(trained) == 3
