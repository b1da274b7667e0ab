"""Weights in and out of a study: --init and --export_recbole."""

import shutil

import jax
import pytest
import torch
from rich.console import Console

from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.runs import finished as trials
from experiments.runs.plan import plan_runs
from experiments.stages.data import load_task
from experiments.stages.exports import export, student_start
from experiments.stages.students import (
    RunPlace,
    TrainedStudent,
    Training,
    student_facts,
    train_student,
)
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import export_student
from prmkd_jax.train.checkpoint import load_checkpoint
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.step import init_state
from tests.experiments.calls import SMALL, finished_run
from tests.worlds import same_bits


def configs(folder, *flags):
    cache = f"--cache_dir={folder / 'cache'}"
    return parse([*SMALL, cache, "--teachers=", "--max_epochs=1", *flags], GROUPS).configs


def started(folder, *flags):
    """What the flags' student starts from."""
    settings = settings_from(configs(folder, *flags))
    task = load_task(settings)
    return student_start(settings, task, student_facts(task, settings))


def train(folder, settings, start=None) -> tuple[TrainedStudent, str]:
    """Trains and exports the first seed of the plain student; returns it and its name."""
    task, seed = load_task(settings), settings.run.seeds[0]
    facts = student_facts(task, settings)
    place = RunPlace(folder, folder / "log.jsonl", folder / "checkpoints")
    training = Training(
        task, facts, settings, bank=None, start=None if start is None else start.params
    )
    reporter = Reporter(Console(quiet=True))
    trained = train_student(training, seed, place, reporter, lambda _: None)
    name = f"sasrec-base-seed{seed}"
    export(folder / name, trained.fitted.params, settings, task, facts, start, {"seed": seed})
    return trained, name


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A trained student's folder, and its parameters."""
    folder = tmp_path_factory.mktemp("exported")
    trained, name = train(folder, settings_from(configs(folder, "--export_recbole")))
    return folder / name, jax.device_get(trained.fitted.params)


@pytest.mark.parametrize("file", ["", "weights.safetensors", "recbole.pth"])
def test_what_was_exported_is_where_the_next_one_starts(exported, tmp_path, file):
    """The folder, its weights or its RecBole file gives back the same parameters."""
    folder, params = exported
    assert same_bits(started(tmp_path, f"--init=student={folder / file}").params, params)
    files = {"weights.safetensors", "served.safetensors", "ids.json", "student.json"}
    assert {path.name for path in folder.iterdir()} == files | {"recbole.pth"}
    assert started(tmp_path) is None


def test_a_start_from_recbole_is_written_in_its_numbering_again(exported, tmp_path):
    """The file written has the same tokens, and its rows in their order."""
    content = torch.load(exported[0] / "recbole.pth", weights_only=True)
    dataset = load_task(settings_from(configs(tmp_path))).dataset
    tokens = ["[PAD]", *reversed(dataset.item_ids)]
    table = content["state_dict"]["item_embedding.weight"]
    content["state_dict"]["item_embedding.weight"] = torch.cat([table[:1], table[1:].flip(0)])
    content["field2id_token"] = {"item_id": tokens}
    torch.save(content, tmp_path / "theirs.pth")
    flags = (f"--init=student={tmp_path / 'theirs.pth'}", "--export_recbole", "--seeds=4")
    start = started(tmp_path, *flags)
    assert same_bits(start.params, exported[1])
    settings = settings_from(configs(tmp_path, *flags))
    trained, _ = train(tmp_path, settings, start)
    # The kept epoch may be the start; the newest checkpoint is what the epoch made of it.
    kept = trained.fitted.params
    like = init_state(kept, make_optimizer(settings.train), 4), kept
    (state, _), _ = load_checkpoint(tmp_path / "checkpoints" / "sasrec-base-seed4", like)
    found = torch.load(tmp_path / "sasrec-base-seed4" / "recbole.pth", weights_only=True)
    assert found["field2id_token"] == content["field2id_token"]
    theirs = found["state_dict"]["item_embedding.weight"][1:].flip(0)
    ours = trained.fitted.params["item_embedding"]["table"]
    assert torch.equal(theirs, torch.tensor(jax.device_get(ours)))
    # One epoch from the start is not one epoch from a seed's own draw.
    moved = abs(state.params["item_embedding"]["table"] - exported[1]["item_embedding"]["table"])
    assert 0 < moved.max() < 0.03


def test_runs_are_told_apart_by_the_weights_they_start_from(exported, tmp_path, monkeypatch):
    """Other weights under the same path are another run; the same ones are read back."""
    started_from, train_student = [], trials.train_student

    def watched(training, *arguments):
        started_from.append(training.start is not None)
        return train_student(training, *arguments)

    monkeypatch.setattr(trials, "train_student", watched)
    path = tmp_path / "model.pth"
    content = torch.load(exported[0] / "recbole.pth", weights_only=True)
    for scale in (1.0, 1.0, 2.0):
        content["state_dict"]["LayerNorm.bias"] += scale - 1.0
        torch.save(content, path)
        flags = configs(tmp_path, f"--init=student={path}")
        finished_run(flags, tmp_path / "runs", rank_test=False)
    finished_run(configs(tmp_path), tmp_path / "runs", rank_test=False)
    assert started_from == [True, True, False]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init=student=nowhere.pth"], "--init=student: found no weights at nowhere.pth"),
        (["--init=student=."], "--init=student: found no weights at ., expected the folder"),
        (["--student=fm", "--export_recbole"], "--export_recbole: found fm, expected one of"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, flags, message):
    """The message names the flag; for a start, a study gives the same message as a run."""
    with pytest.raises(UserError) as error:
        started(tmp_path, *flags)
    assert str(error.value).startswith(message)
    if any("init" in flag for flag in flags):
        with pytest.raises(UserError) as of_a_study:
            plan_runs([configs(tmp_path, *flags)])
        assert str(of_a_study.value) == str(error.value)


def test_trials_refuse_to_be_exported(tmp_path):
    """`--export_recbole` is refused while the runs are planned."""
    with pytest.raises(UserError, match="--export_recbole: found True, expected False"):
        plan_runs([configs(tmp_path, "--export_recbole")])


def test_a_training_that_diverges_ends_in_one_line(tmp_path):
    """The line names the run and how many users have scores that are not finite."""
    settings = settings_from(configs(tmp_path, "--learning_rate=1e30"))
    with pytest.raises(
        UserError, match=r"^sasrec-base-seed\d: \d+ of \d+ users .* not finite, .* a sma"
    ):
        train(tmp_path, settings)


def test_an_export_keeps_what_else_lies_in_its_folder(exported, tmp_path):
    """Notes beside the weights stay, and the new weights replace the old ones."""
    place = tmp_path / "sasrec-base-seed0"
    shutil.copytree(exported[0], place)
    (place / "notes.txt").write_text("mine")
    settings = settings_from(configs(tmp_path))
    task = load_task(settings)
    facts = student_facts(task, settings)
    moved = jax.tree.map(lambda x: x + 1, exported[1])
    export_student(place, moved, settings.student, facts, task.dataset)
    assert (place / "notes.txt").read_text() == "mine"
    found = started(tmp_path, f"--init=student={place}").params
    assert same_bits(found, moved)
    assert not list(tmp_path.glob("*.partial-*"))


def test_a_student_that_fits_into_no_machine_is_refused(tmp_path, monkeypatch):
    """The message says what it needs, what the machine has and what to make smaller."""
    monkeypatch.setattr("experiments.stages.exports.physical_memory", lambda: 2.0**33)
    assert started(tmp_path) is None
    with pytest.raises(UserError) as caught:
        started(tmp_path, "--hidden_size=2000000", "--num_heads=1")
    assert str(caught.value).startswith("--student=sasrec: found ")
    assert str(caught.value).endswith(
        "GiB to train, expected what fits into the 8 GiB of this machine (a smaller "
        "--hidden_size, for one)"
    )
