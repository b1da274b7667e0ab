"""Trying settings: which combinations, in what order they are shown."""

import contextlib
import json

import pytest

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS
from experiments.commands.search import COMMAND
from experiments.runs import finished, search
from experiments.runs.optimise import Stopped
from experiments.runs.plan import plan_runs, shared_place
from experiments.runs.search import markdown
from experiments.runs.space import combinations, parse_space
from experiments.stages.record import Record, SeedResult
from experiments.stages.students import run_name
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import SMALL, make_call


def test_every_combination_of_the_values():
    """Each is given once, and an empty grid gives one without flags."""
    assert list(combinations("a=1,2;b=x")) == [["--a=1", "--b=x"], ["--a=2", "--b=x"]]
    assert list(combinations("")) == [[]]


@pytest.mark.parametrize("grid", ["dropout", "dropout=", "a=1;b"])
def test_part_without_values_is_refused(grid):
    """One line shows the part and the form that is expected."""
    with pytest.raises(UserError, match=r"--grid: found '.*', expected name=value,value"):
        list(combinations(grid))


@pytest.mark.parametrize("grid", ["a=1;a=2", "a=1,1", "a=1;--a=2", "a= 1,1 "])
def test_what_is_tried_twice_is_refused(grid):
    """A name or a value that is given twice in a grid is refused."""
    with pytest.raises(UserError, match=r"expected each name and each value once$"):
        list(combinations(grid))


@pytest.mark.parametrize("name", ["output_dir", "grid", "model", "flagfile", "overwrite"])
def test_what_is_no_setting_of_a_trial_is_refused(name):
    """A flag of the search itself, or of where files lie, is refused."""
    with pytest.raises(UserError, match=f"--grid: found '{name}', which is no setting of a trial"):
        list(combinations(f"dropout=0.1;{name}=x"))


def test_best_validation_ndcg_stands_first():
    """Rows are sorted by NDCG@10, even where Recall@10 has another order."""
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
    """A value that its flag doesn't take is told, and no trial runs."""
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    tried = []
    monkeypatch.setattr(search, "_try", lambda *trial: tried.append(trial))
    with pytest.raises(UserError, match="--dropout: found '5', expected a number"):
        command.execute(COMMAND, ["--teachers=", "--grid=dropout=0.2,5"], "search")
    assert not tried


@pytest.mark.parametrize(
    ("tried", "told"),
    [
        ("--grid=dropout=0.1,0.2;distill_weight=1,5", ["distill_weight"]),
        ("--space=dropout=0:0.5 distill_weight=1:5", ["distill_weight"]),
        ("--grid=loss=softmax,gbce;gbce_t=0.5,0.9", []),
    ],
)
def test_what_is_tried_and_never_read_is_told(tried, told):
    """The plain student is told of settings that only teachers need."""
    call, _ = make_call(COMMAND, [*SMALL, "--model=base", tried])
    lines = search._unread(call, search.parse_trials(call))
    why = "has no effect: there is no teacher to distil from"
    assert lines == [f"--{name} {why}" for name in told]


def test_flags_of_the_other_way_to_search_are_told():
    """With a grid a warning says that --trials has no effect; with a space none does."""
    grid, trials = "--grid=dropout=0.1,0.2", "--trials=5"
    call, _ = make_call(COMMAND, [*SMALL, grid, trials])
    told = ["--trials has no effect: there is no --space"]
    assert search._unread(call, search.parse_trials(call)) == told
    call, _ = make_call(COMMAND, [*SMALL, "--space=dropout=0:0.5", trials])
    assert search._unread(call, search.parse_trials(call)) == []


def test_the_data_sheet_of_every_split_is_shown_once(monkeypatch, tmp_path):
    monkeypatch.setattr(search, "_try", lambda *trial: [])
    grid = "--grid=split=leave_one_out,temporal;dropout=0.1,0.2"
    call, stream = make_call(COMMAND, [*SMALL, "--teachers=", grid, f"--output_dir={tmp_path}"])
    search.run(call)
    said = stream.getvalue()
    assert said.count("items with title: ") == 2
    assert said.count("users without a target in test: ") == 2
    assert said.index("users without a target in test: ") < said.index("Trial: ")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("dropout", "found 'dropout', expected name=low:high"),
        ("dropout=0.1", "found 'dropout=0.1', expected name=low:high"),
        ("dropout=a:b", "found 'dropout=a:b', expected name=low:high"),
        ("dropout=0.5:0.1", "expected low below high, and log or nothing"),
        ("dropout=0:0.5:lin", "expected low below high, and log or nothing"),
        ("dropout=0:nan", "expected low below high, and log or nothing"),
        ("dropout=0:0.5:log", "expected log with numbers above 0"),
        ("hidden_size=8.5:16", "found 'hidden_size=8.5:16', expected whole numbers"),
        ("kl=0:1", "found 'kl=0:1', expected values: --kl is no number"),
        ("kl=js,js", "found 'kl=js,js', expected each value once"),
        ("seeds=0,1", "found 'seeds=0,1', a list, expected a flag of one value"),
        ("dropout=0:0.5 dropout=0:0.4", "found 'dropout=0:0.4', expected each name once"),
        ("nothing=0:1", "found 'nothing', which is no setting of a trial"),
        ("trials=1:9", "found 'trials', which is no setting of a trial"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, message):
    """One line says what is wrong with the axis and what is expected."""
    with pytest.raises(UserError) as told:
        parse_space(space, COMMAND.groups)
    assert str(told.value).startswith("--space: ")
    assert message in str(told.value)


def test_values_that_a_flag_does_not_take_are_told_before_the_first_trial(monkeypatch):
    """A bound or a choice that the flag refuses is told with the flag's own message."""
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    for space, message in (
        ("dropout=0:1", "--dropout: found '1', expected a number"),
        ("kl=js,jensen", "--kl: found 'jensen', expected one of"),
    ):
        with pytest.raises(UserError, match=message):
            command.execute(COMMAND, ["--teachers=", f"--space={space}"], "search")


def test_a_drawn_search_goes_on_and_never_looks_at_the_test_part(monkeypatch, tmp_path):
    """More trials continue the first ones, and none has a test metric."""
    argv = [*SMALL, "--teachers=", "--space=dropout=0:0.5 learning_rate=1e-3:1e-1:log"]
    argv += ["--max_epochs=2", f"--output_dir={tmp_path / 'out'}"]

    def rows(trials):
        search.run(make_call(COMMAND, [*argv, f"--trials={trials}"])[0])
        [path] = (tmp_path / "out").glob("search-*.json")
        return json.loads(path.read_text())["rows"]

    first = rows(1)
    both = rows(2)
    monkeypatch.setattr(finished, "train_student", None)
    assert rows(2) == both
    assert both[:1] == first
    assert both[0]["setting"] != both[1]["setting"]
    assert both[0]["validation"].keys() == {"Recall@10", "NDCG@10"}
    for path in (tmp_path / "trials").glob("*/record.json"):
        (seed,) = json.loads(path.read_text())["seeds"]
        assert seed["test"] is None
    table = next((tmp_path / "out").glob("search-*.md")).read_text()
    assert table.count("learning_rate=") == 2


def test_drawn_settings_that_cannot_be_do_not_end_the_search(monkeypatch, tmp_path):
    """An impossible setting is a row of its own, and the search does all of its trials."""
    seed = SeedResult(
        seed=0, validation={"Recall@10": 0.2, "NDCG@10": 0.1}, test=None, test_masked=None,
        best_epoch=1, epochs=0, threshold=None, history=[],
    )  # fmt: skip
    named = {"name": "sasrec", "label": "SASRec"}
    record = Record({}, named, None, {}, {}, {}, {}, {}, None, 0, (seed,))
    monkeypatch.setattr(search, "_finish", lambda *trial: record)
    argv = [*SMALL, "--teachers=", "--num_heads=2", "--space=hidden_size=8:12"]
    argv += ["--trials=8", "--search_seed=1"]
    call, stream = make_call(COMMAND, [*argv, f"--output_dir={tmp_path / 'out'}"])
    search.run(call)
    [path] = (tmp_path / "out").glob("search-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 8
    odd = {row["setting"] for row in rows if row.get("stopped") == "impossible"}
    assert odd
    assert odd <= {"hidden_size=9", "hidden_size=11"}
    assert "expected a divisor of" in stream.getvalue()


@pytest.mark.parametrize("why", ["early", "diverged"])
def test_a_trial_given_up_leaves_the_states_of_whoever_waited_for_it(why, tmp_path, monkeypatch):
    """States that another search wrote after the trial was given up are kept."""
    argv = [*SMALL, "--teachers=", "--seeds=0", f"--cache_dir={tmp_path / 'cache'}"]
    [plan] = plan_runs([parse(argv, GROUPS).configs], rank_test=False)
    states = shared_place(tmp_path, plan).states / run_name(plan.settings, 0)
    own, others = states / "epoch_1", states / "epoch_2"
    locked = finished.locked

    def train(*_, **__):
        own.mkdir(parents=True)
        if why == "early":
            raise Stopped
        raise UserError("epoch 1") from FloatingPointError()

    @contextlib.contextmanager
    def waited_for(*lock):
        try:
            with locked(*lock):
                yield
        finally:  # the other search has it at once
            others.mkdir(parents=True)

    monkeypatch.setattr(finished, "train_student", train)
    monkeypatch.setattr(finished, "locked", waited_for)
    call, _ = make_call(COMMAND, argv)
    row = search._attempt(plan, tmp_path, call.reporter, lambda epoch, score: None)
    assert row["stopped"] == why
    assert others.is_dir()
    assert not own.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("disk full")])
def test_a_trial_that_a_kill_or_a_mistake_ends_keeps_its_states(error, tmp_path, monkeypatch):
    """After Ctrl-C or a full disk, the epochs that were kept are still there."""
    argv = [*SMALL, "--teachers=", "--seeds=0", f"--cache_dir={tmp_path / 'cache'}"]
    [plan] = plan_runs([parse(argv, GROUPS).configs], rank_test=False)
    state = shared_place(tmp_path, plan).states / run_name(plan.settings, 0) / "epoch_1"

    def train(*_, **__):
        state.mkdir(parents=True)
        raise error

    monkeypatch.setattr(finished, "train_student", train)
    call, _ = make_call(COMMAND, argv)
    with pytest.raises((KeyboardInterrupt, UserError)):
        search._attempt(plan, tmp_path, call.reporter, lambda epoch, score: None)
    assert state.is_dir()


def test_trials_that_were_stopped_stand_last():
    """A stopped trial stands below the finished ones, even with a better NDCG@10."""
    done = {"validation": {"Recall@10": 0.2, "NDCG@10": 0.1}, "best_epoch": 3.0}
    rows = [
        {"setting": "a=1", "stopped": "early", "validation": {"NDCG@10": 0.2}, "best_epoch": 2},
        {"setting": "a=2", "stopped": "diverged", "validation": {}, "best_epoch": None},
        {"setting": "a=3", **done},
    ]
    lines = markdown([{"model": "sasrec prmkd", "seeds": "0", **row} for row in rows]).splitlines()
    assert lines[2:] == [
        "| sasrec prmkd | a=3 | 0 | 0.2000 | 0.1000 | 3 |",
        "| sasrec prmkd | a=1 (stopped early) | 0 | – | 0.2000 | 2 |",
        "| sasrec prmkd | a=2 (diverged) | 0 | – | – | – |",
    ]
