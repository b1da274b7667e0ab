"""A search by Optuna over a function that is known: what it draws, stops and goes on from."""

import json

import pytest

from experiments.runs.optimise import Search, Stopped, optimise
from experiments.runs.space import Axis
from prmkd_jax.common.errors import UserError

SPACE = (
    Axis("rate", low=0.001, high=1.0, log=True),
    Axis("width", low=4, high=64, whole=True),
    Axis("kl", values=("forward", "reverse")),
)
EPOCHS = 6


class Kill(BaseException):
    """Ends the process, as far as the search can tell."""


class Trainings:
    """Curves that rise to a height which the setting decides; they keep their last epoch.

    Args:
        stop_at: how many epochs may be trained in all before the kill.
    """

    def __init__(self, stop_at: int = 10**6):
        self.left = stop_at
        self.kept: dict[str, int] = {}
        self.begun: list[str] = []

    def __call__(self, setting, watch):
        """One trial."""
        rate, width = float(setting["rate"]), int(setting["width"])
        height = (0.5 - abs(rate - 0.1)) + width / 1000 + (setting["kl"] == "reverse") / 10
        name = str(setting)
        self.begun.append(name)
        scores = {epoch: height * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)}
        try:
            for epoch in range(self.kept.get(name, 0) + 1, EPOCHS + 1):
                if not self.left:
                    raise Kill
                self.left -= 1
                watch(epoch, scores[epoch])
                self.kept[name] = epoch
        except Stopped:
            return {"stopped": "early"}
        validation = {"Recall@10": 1.0, "NDCG@10": scores[EPOCHS]}
        return {"validation": validation, "best_epoch": EPOCHS, "epochs": scores}


@pytest.mark.parametrize("end", [0.9999999, 1_234_567.0, 0.001, 2.0])
def test_a_drawn_value_is_never_outside_its_range(end):
    """Ends with more digits than are shown are themselves, and others are written shortly."""
    axis = Axis("rate", low=1e-4, high=end)
    assert float(axis.text(2 * end)) == end
    assert float(axis.text(end)) <= end
    assert axis.text(0.00012345) == "0.0001234"


def search(folder, trials=14, seed=0):
    return Search(SPACE, trials, seed, folder / "search.journal", lambda line: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of a search that nobody stops."""
    return optimise(search(tmp_path_factory.mktemp("whole")), Trainings())


def test_bad_trials_are_stopped_and_the_others_are_not(whole):
    """The best trial is never stopped, and the first five aren't either."""
    stopped = [row for row in whole if "stopped" in row]
    assert stopped
    assert not [row for row in whole[:5] if "stopped" in row]
    assert all(4 <= row["best_epoch"] < EPOCHS or row["best_epoch"] == 3 for row in stopped)
    best = max(row["validation"]["NDCG@10"] for row in whole)
    assert best == max(r["validation"]["NDCG@10"] for r in whole if "stopped" not in r)


@pytest.mark.parametrize("stop_at", [0, 9, 32, 50])
def test_a_search_that_was_killed_ends_as_if_it_had_not_been(whole, tmp_path, stop_at):
    """All rows equal those of a search that ran through, and finished trials aren't repeated."""
    trainings = Trainings(stop_at)
    with pytest.raises(Kill):
        optimise(search(tmp_path), trainings)
    finished = sum(epoch == EPOCHS for epoch in trainings.kept.values())
    with (tmp_path / "search.journal").open("ab") as stream:
        stream.write(b'{"op_code": 4, "wor')  # a line of which the kill has left a half
    trainings.left = 10**6
    begun = len(trainings.begun)
    assert optimise(search(tmp_path), trainings) == whole
    assert len(trainings.begun) - begun <= 14 - finished


class Repeated:
    """Eight settings that come again and again; a stopped one is trained anew each time.

    Args:
        stop_at: how many epochs may be trained in all before the kill.
    """

    def __init__(self, stop_at: int = 10**6):
        self.left = stop_at
        self.done: set[str] = set()

    def __call__(self, setting, watch):
        """One trial."""
        name = setting["kl"]
        number = "abcdefgh".index(name)
        late = 0.6 if number % 2 == 0 else 1.1
        height = 1 + number * 4 % 11 / 10
        scores = {e: height * e / 8 * (1 if e < 5 else late) for e in range(1, 9)}
        try:
            for epoch, score in scores.items() if name not in self.done else ():
                if not self.left:
                    raise Kill
                self.left -= 1
                watch(epoch, score)
        except Stopped:
            return {"stopped": "early"}
        self.done.add(name)
        best = max(scores.values())
        return {"validation": {"NDCG@10": best}, "best_epoch": 8, "epochs": scores}


def test_a_setting_that_comes_again_is_judged_anew(tmp_path):
    """Epochs of an earlier trial that was killed don't count for a later one."""
    space = (Axis("kl", values=tuple("abcdefgh")),)
    one, other = (
        Search(space, 20, 3, tmp_path / f"{name}.journal", lambda line: None) for name in "ab"
    )
    whole = optimise(one, Repeated())
    trainings = Repeated(stop_at=52)
    with pytest.raises(Kill):
        optimise(other, trainings)
    trainings.left = 10**6
    assert optimise(other, trainings) == whole


def test_more_trials_go_on_and_fewer_are_read(whole, tmp_path):
    trainings = Trainings()
    assert optimise(search(tmp_path, trials=6), trainings) == whole[:6]
    assert optimise(search(tmp_path), trainings) == whole
    assert len(trainings.begun) == 14
    assert optimise(search(tmp_path, trials=3), trainings) == whole[:3]


def test_another_seed_draws_others(whole, tmp_path):
    settings = {row["setting"] for row in optimise(search(tmp_path, trials=2, seed=7), Trainings())}
    assert not settings & {row["setting"] for row in whole}


def test_settings_stay_inside_their_ranges(whole):
    for row in whole:
        setting = dict(word.split("=") for word in row["setting"].split())
        assert 0.001 <= float(setting["rate"]) <= 1
        assert 4 <= int(setting["width"]) <= 64
        assert setting["kl"] in SPACE[2].values


def test_a_damaged_journal_is_told_in_one_line(tmp_path):
    """The line names the journal and what is expected."""
    (tmp_path / "search.journal").write_text("no journal\nat all\n")
    with pytest.raises(UserError, match=r"search\.journal: damaged .*, expected Optuna's journal"):
        optimise(search(tmp_path), Trainings())


def _lost(line: bytes) -> bytes:
    return b""


def _other(line: bytes) -> bytes:
    """The line of a row, with another number in it."""
    entry = json.loads(line)
    entry["user_attr"]["row"]["best_epoch"] = 4
    return json.dumps(entry).encode() + b"\n"


@pytest.mark.parametrize("change", [_lost, _other])
def test_a_row_that_was_lost_or_changed_is_told_before_more_is_trained(tmp_path, change):
    """No further trial is trained once a row differs from its digest."""
    optimise(search(tmp_path, trials=2), Trainings())
    journal, trainings = tmp_path / "search.journal", Trainings()
    lines = journal.read_bytes().splitlines(keepends=True)
    row = next(number for number, line in enumerate(lines) if b'"row":' in line)
    journal.write_bytes(b"".join([*lines[:row], change(lines[row]), *lines[row + 1 :]]))
    said = r"search\.journal: damaged \(the row of trial 0 differs from its digest\)"
    with pytest.raises(UserError, match=said):
        optimise(search(tmp_path, trials=3), trainings)
    assert not trainings.begun


def test_a_journal_of_before_is_read_and_its_rows_are_looked_at(tmp_path):
    """Rows without digests are accepted, and one without a trial's numbers is refused."""
    rows = optimise(search(tmp_path, trials=2), Trainings())
    journal = tmp_path / "search.journal"
    old = [line for line in journal.read_bytes().splitlines() if b"row_digest" not in line]
    journal.write_bytes(b"".join(line + b"\n" for line in old))
    assert optimise(search(tmp_path, trials=2), Trainings()) == rows
    for sound, damage in ((b'"best_epoch":6', b'"best_epoch":"6"'), (b'"validation"', b'"x"')):
        changed = [line.replace(sound, damage) for line in old]
        assert changed != old
        journal.write_bytes(b"".join(line + b"\n" for line in changed))
        with pytest.raises(UserError, match="trial 0 has no row of a trial"):
            optimise(search(tmp_path, trials=2), Trainings())


@pytest.mark.parametrize("value", [b"Infinity", b"NaN", b"1e999"])
def test_numbers_that_are_none_are_told(tmp_path, value):
    """An infinite or undefined value in the journal is refused in one line."""
    optimise(search(tmp_path, trials=2), Trainings())
    journal = tmp_path / "search.journal"
    lines = journal.read_bytes().splitlines()
    width = next(n for n, line in enumerate(lines) if b'"param_name":"width"' in line)
    entry = json.loads(lines[width])
    entry["param_value_internal"] = "here"
    lines[width] = json.dumps(entry).encode().replace(b'"here"', value)
    journal.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(UserError, match="expected Optuna's journal of this search"):
        optimise(search(tmp_path, trials=2), Trainings())
