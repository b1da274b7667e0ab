"""`bench --suite=peers`: the data that others read, the protocol, environments, rows."""

import json
import stat
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmarks.peers import environments, measure, ours, packed_driver, protocol
from experiments.benchmarks.peers.contenders import CONTENDERS, HERE
from experiments.benchmarks.peers.environments import UnmadeError, environment
from experiments.benchmarks.peers.plain_files import told, write_interactions
from experiments.benchmarks.peers.protocol import METRIC, Clocked, Timed, time_peer, train_peer
from experiments.benchmarks.peers.teachers import read_vectors, write_vectors
from experiments.benchmarks.report import table
from experiments.cli.flags import parse
from experiments.cli.options import PEERS, BenchConfig
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.data import load_task
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.students.student import flatten_params
from tests.worlds import cycle_world, from_histories, task_of

FLAGS = (
    *("--dataset=synthetic", "--synthetic_users=30", "--synthetic_items=20", "--max_seq_len=8"),
    *("--hidden_size=8", "--inner_size=8", "--num_layers=1", "--batch_size=32", "--dropout=0"),
)
SETTINGS = {"seconds": 12.0, "epochs": 3, "target": 0.0, "patience": 2, "max_epochs": 9}


class Fake:
    """A peer whose epochs take given seconds and whose validations give given values."""

    def __init__(self, seconds=1.0, validation=()):
        self.seconds, self.validation = seconds, list(validation)
        self.trained, self.kept, self.weights, self.asked = 0, 0, 0, []

    def epoch(self, most):
        """Takes its time, or what it is given."""
        self.trained += 1
        self.weights = self.trained
        self.asked.append(most)
        done = min(self.seconds, most)
        return Timed(done, done / self.seconds, 10)

    def rank(self, part, most):
        """The next validation, or the weights that it is tested with."""
        value = self.validation[self.trained - 1] if part == "validation" else self.weights
        return Timed(0.5, 1.0, 1), {METRIC: value}

    def keep(self):
        """Notes the weights."""
        self.kept = self.weights

    def restore(self):
        """Takes them."""
        self.weights = self.kept


def test_every_choice_is_known_and_its_files_are_there():
    """Every peer can be asked for, with its driver and its exact package versions."""
    assert set(PEERS) == set(CONTENDERS)
    for each in CONTENDERS.values():
        assert (HERE / f"{each.driver}.py").is_file()
        if each.requirements:
            pins = (HERE / each.requirements).read_text().splitlines()
            pins = [line for line in pins if not line.startswith("#")]
            assert pins
            assert all("==" in line for line in pins)


def test_others_read_the_same_histories_and_the_same_split(tmp_path):
    """Items, their order and the users are those that we train on."""
    task = task_of(from_histories([[3, 1, 2], [0, 0, 3, 1]], num_items=4))
    path = write_interactions(tmp_path, task)
    lines = path.read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float"
    assert lines[1:4] == ["0\t3\t0", "0\t1\t1", "0\t2\t2"]
    assert lines[4:] == ["1\t0\t0", "1\t0\t1", "1\t3\t2", "1\t1\t3"]


def test_histories_that_others_would_split_otherwise_are_refused(tmp_path):
    """Others are never compared on other training data than ours."""
    task = task_of(from_histories([[3, 1, 2], [0, 1]], num_items=4))
    with pytest.raises(UserError, match="--suite=peers: found another split or users"):
        write_interactions(tmp_path, task)


def test_a_batch_of_histories_has_as_many_instances_as_one_of_ours(tmp_path):
    """Others take as many steps as we do, because their batches aren't larger."""
    settings = settings_from(parse([*FLAGS], GROUPS).configs)
    task = task_of(cycle_world(users=12, items=10, length=8))  # 5 instances a user
    assert told(task, settings, tmp_path)["sequences"] == round(32 / 5)


def test_what_is_cut_short_is_extrapolated(monkeypatch):
    """Three of eight steps count as 3/8 of an epoch, not as a whole one."""
    clock = iter([0.0, 1.0, 2.0, 3.5, 9.0])
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: next(clock))
    cut = Clocked(total=8, most=3.0)
    assert list(cut(range(8))) == [0, 1, 2]
    assert cut.timed(3.0) == Timed(3.0, 3 / 8, 8)
    assert cut.timed(3.0).whole == 8.0
    whole = Clocked(total=9, most=float("inf"))
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: 0.0)
    assert list(whole(range(8))) == list(range(8))
    assert whole.timed(2.0) == Timed(2.0, 1.0, 8)  # the total was an estimate


def test_the_first_epoch_and_ranking_do_not_count():
    """No compilation is in the median, and a slow peer keeps to its time."""
    quick = Fake(seconds=1.0)
    found = time_peer(quick, SETTINGS)
    assert (quick.trained, found["epochs"], found["epoch_share"]) == (4, [1.0] * 3, 1.0)
    assert len(found["rankings"]) == protocol.RANKINGS
    slow = Fake(seconds=100.0)
    found = time_peer(slow, SETTINGS)
    assert slow.asked[0] == 4.0
    assert found["epochs"] == pytest.approx([100.0] * len(found["epochs"]))
    assert found["epoch_share"] == pytest.approx(0.12, abs=1e-3)


def test_training_stops_by_validation_and_tests_the_best_epoch():
    """The test is of the best epoch's weights, and `to_target` ends at the target."""
    peer = Fake(validation=[0.1, 0.3, 0.2, 0.25, 0.9])
    found = train_peer(peer, {**SETTINGS, "target": 0.3})
    assert peer.trained == 4  # two epochs after the best
    assert found["to_target"] == 2 * 1.5
    assert found["trained"] == 4 * 1.5
    assert found["test"] == {METRIC: 2}
    never = train_peer(Fake(validation=[0.1] * 9), {**SETTINGS, "target": 0.3})
    assert never["to_target"] is None


@pytest.fixture
def fake_python(tmp_path, monkeypatch):
    """A Python whose venv makes a Python that answers pip with a given status."""

    def make(status, message=""):
        script = tmp_path / "python"
        inner = f"#!/bin/sh\necho '{message}' >&2\nexit {status}\n"
        script.write_text(
            f'#!/bin/sh\necho made >> {tmp_path}/log\nmkdir -p "$4/bin"\n'
            f'cat > "$4/bin/python" <<END\n{inner}END\nchmod +x "$4/bin/python"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(environments.sys, "executable", str(script))

    return make


def test_an_environment_is_made_once_and_begun_again_where_it_was_left(tmp_path, fake_python):
    """An environment that lacks packages isn't used, and a complete one serves all runs."""
    pins = tmp_path / "other.txt"
    pins.write_text("nothing==1.0\n")
    cache = Cache(tmp_path / "cache")
    fake_python(1, "ERROR: No matching distribution found for nothing==1.0")
    with pytest.raises(UnmadeError, match="No matching distribution found for nothing"):
        environment(cache, pins, lambda _: None)
    fake_python(0)
    told_lines = []
    python = environment(cache, pins, told_lines.append)
    assert python.is_file()
    assert environment(cache, pins, told_lines.append) == python
    assert (tmp_path / "log").read_text().splitlines() == ["made", "made"]
    assert len(told_lines) == 1
    pins.write_text("nothing==2.0\n")
    assert environment(cache, pins, lambda _: None) != python


def run(epoch, ranking=1.0, share=1.0):
    return {
        "epochs": [epoch, epoch, 3 * epoch], "epoch_share": share, "steps": 7,
        "rankings": [ranking], "ranking_share": 1.0, "memory": 2**30,
    }  # fmt: skip


def test_rows_tell_seconds_share_and_the_median_ratio_of_the_rounds():
    """The ratio is theirs over ours, and an extrapolated epoch shows its share."""
    rows = measure.rows_of("theirs", [(run(1), run(10, share=0.253)), (run(2), run(60))], 0.0)
    by_name = {row.name: row for row in rows}
    epoch = by_name["theirs: an epoch"]
    assert (epoch.value, epoch.repeats, dict(epoch.of)) == (
        45.0,
        6,
        {"% of it timed": 25, "steps": 7},
    )
    assert by_name["theirs / ours: an epoch"].value == 20.0
    assert by_name["ours, beside theirs: most memory held"].value == 1.0
    # 100 stands for the whole alone.
    assert measure._percent(0.9999) == 99


def test_a_peer_that_is_not_measured_is_a_row_that_says_why():
    """One missing package doesn't end the comparison or count as 0 s."""
    row = measure.refused(CONTENDERS["replay"], "status 1: no | such\nthing")
    assert table([row]).splitlines()[-1] == (
        "| RePlay SASRec: not measured: status 1: no / such thing |  |  |  |  | 0 |"
    )


def test_others_wait_as_they_do_by_themselves():
    """Our settings don't put their threads to sleep, and our packages aren't on their path."""
    waits = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
    found = {**waits, "OMP_NUM_THREADS": "2", "PYTHONPATH": "x"}
    ours = [f"{name}={value}" for name, value in waits.items()]
    assert measure.theirs(found, ours) == {"OMP_NUM_THREADS": "2"}
    kept = measure.theirs(found, ["OMP_WAIT_POLICY=PASSIVE (already set)"])
    assert kept["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_opponent_ranks_as_our_student_does(tmp_path):
    """With the same weights, both drivers give the same metrics on a small world."""
    settings = settings_from(parse([*FLAGS], GROUPS).configs)
    task = load_task(settings)
    write_vectors(tmp_path, task, count=2, width=4)
    assert [pair[1].shape for pair in read_vectors(tmp_path)] == [(task.dataset.num_items, 4)] * 2
    asked = {**told(task, settings, tmp_path), "flags": list(FLAGS), "teachers": ""}
    student, opponent = ours.make(asked), packed_driver.make(asked)
    opponent.model.take(flatten_params(student._state.params))
    for part in ("validation", "test"):
        assert opponent.rank(part, 0.0)[1] == pytest.approx(student.rank(part, 0.0)[1], abs=1e-6)
    for peer in (student, opponent):
        before = peer.rank("test", 0.0)[1]
        peer.keep()
        assert peer.epoch(0.0).share < 1  # one batch at least
        assert peer.epoch(float("inf")).share == 1
        peer.restore()
        assert peer.rank("test", 0.0)[1] == pytest.approx(before)


def test_a_driver_prints_one_line_last_and_its_own_memory(tmp_path):
    """The figures have a line of their own, and the starter's memory doesn't count."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import protocol\n"
        "class Peer:\n"
        "    def epoch(self, most): return protocol.Timed(1.0, 1.0, 2)\n"
        "    def rank(self, part, most): return protocol.Timed(1.0, 1.0, 1), {}\n"
        "print('unfinished', end='')\n"
        "protocol.drive(lambda settings: Peer(), lambda: {'x': '1'})\n"
    )
    held = np.ones(2**25)  # 256 MiB here don't count there
    command = [sys.executable, "-S", "-c", code, str(path), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    content = json.loads(done.stdout.splitlines()[-1])
    assert content["epochs"] == [1.0] * 3
    assert content["versions"] == {"x": "1"}
    assert 0 < content["memory"] < held.nbytes / 2


@pytest.fixture
def bench(tmp_path):
    """What the processes of one comparison share."""
    flags = tmp_path / "ours.cfg"
    return measure.Bench(
        tmp_path, {}, flags, Cache(tmp_path / "cache"), {}, BenchConfig(), lambda _: None
    )


def test_folders_are_those_that_the_command_was_given(tmp_path, monkeypatch, bench):
    """`--data_dir=data`, the default, is looked for where the command was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "environment", lambda *_: tmp_path / "python")
    started = []

    def start(command, **options):
        started.append((command[0], options["cwd"]))
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setattr(measure.subprocess, "run", start)
    measure.alternate(bench, CONTENDERS["packed"])
    measure.alternate(bench, CONTENDERS["replay"])
    own = (sys.executable, None)
    assert started == [own, own, own, (str(tmp_path / "python"), tmp_path)]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/python"], "it can't be started: .*No such file"),
        ([sys.executable, "-c", "print('done')"], "its last line has no figures: done"),
        ([sys.executable, "-c", "print(100)"], "its last line has no figures: 100"),
        ([sys.executable, "-c", "pass"], "its last line has no figures: nothing"),
        (
            [sys.executable, "-c", r"import os; os.write(2, b'\xff one\n'); os._exit(3)"],
            "status 3: � one",
        ),
    ],
)
def test_a_process_without_figures_ends_no_other_peer(bench, command, why):
    """The reason is told by an UnmadeError, so the peers before it aren't lost."""
    with pytest.raises(UnmadeError, match=why):
        measure._process(bench, command, {}, CONTENDERS["packed"], None)
