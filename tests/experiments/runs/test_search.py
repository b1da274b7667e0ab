"""Trying settings: which combinations, in what order they are shown."""

import pytest

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.commands.search import COMMAND
from experiments.runs import search
from experiments.runs.search import combinations, markdown
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import SMALL, make_call


def test_every_combination_of_the_values():
    """A combination left out or given twice."""
    assert list(combinations("a=1,2;b=x")) == [["--a=1", "--b=x"], ["--a=2", "--b=x"]]
    assert list(combinations("")) == [[]]


@pytest.mark.parametrize("grid", ["dropout", "dropout=", "a=1;b"])
def test_part_without_values_is_refused(grid):
    """A typing error that silently tries nothing."""
    with pytest.raises(UserError, match=r"--grid: found '.*', expected name=value,value"):
        list(combinations(grid))


@pytest.mark.parametrize("grid", ["a=1;a=2", "a=1,1", "a=1;--a=2", "a= 1,1 "])
def test_what_is_tried_twice_is_refused(grid):
    """Hours for the same trial, or one value that silently wins."""
    with pytest.raises(UserError, match=r"expected each name and each value once$"):
        list(combinations(grid))


@pytest.mark.parametrize("name", ["output_dir", "grid", "model", "flagfile", "overwrite"])
def test_what_is_no_setting_of_a_trial_is_refused(name):
    """Trials that differ in name alone."""
    with pytest.raises(UserError, match=f"--grid: found '{name}', which is no setting of a trial"):
        list(combinations(f"dropout=0.1;{name}=x"))


def test_best_validation_ndcg_stands_first():
    """A table that is sorted by another metric, or the wrong way round."""
    rows = [
        {
            "model": "sasrec base",
            "setting": f"dropout={value}",
            "seeds": "0",
            "validation": {"Recall@10": recall, "NDCG@10": ndcg},
            "best_epoch": 3.0,
        }
        for value, recall, ndcg in [("0.1", 0.3, 0.1), ("0.5", 0.2, 0.15)]
    ]
    lines = markdown(rows).splitlines()
    assert lines[2] == "| sasrec base | dropout=0.5 | 0 | 0.2000 | 0.1500 | 3 |"
    assert lines[3].startswith("| sasrec base | dropout=0.1 |")


def test_mistakes_are_told_before_the_first_trial(monkeypatch):
    """Hours of trials before the value that can't be."""
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    tried = []
    monkeypatch.setattr(search, "_try", lambda *trial: tried.append(trial))
    with pytest.raises(UserError, match="--dropout: found '5', expected a number"):
        command.execute(COMMAND, ["--teachers=", "--grid=dropout=0.2,5"], "search")
    assert not tried


def test_the_data_sheet_of_every_split_is_shown_once(monkeypatch, tmp_path):
    monkeypatch.setattr(search, "_try", lambda *trial: [])
    grid = "--grid=split=leave_one_out,temporal;dropout=0.1,0.2"
    call, stream = make_call(COMMAND, [*SMALL, "--teachers=", grid, f"--output_dir={tmp_path}"])
    search.run(call)
    said = stream.getvalue()
    assert said.count("items with title: ") == 2
    assert said.count("users without a target in test: ") == 2
    assert said.index("users without a target in test: ") < said.index("Trial: ")
