"""`update`: yesterday's student taken to today's data."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from flax import nnx

from bridge.runtime import RuntimeSettings
from bridge.student_weights import to_recbole
from experiments.cli import command
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.update import COMMAND
from experiments.runs import update as module
from experiments.runs.update import run
from experiments.stages import students
from experiments.stages.data import load_task
from experiments.stages.students import student_facts
from experiments.stages.yesterday import completed
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.serve.exported import export_student, read_card
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.student import create_student
from tests.experiments.calls import SMALL, make_call
from tests.experiments.stages.test_run_folder import contents

OLD, NEW = "--synthetic_items=20", "--synthetic_items=30"


def made(folder, *flags):
    """An export of random weights on yesterday's world; its folder, parameters and task."""
    settings = settings_from(parse([*SMALL, OLD, "--teachers=", *flags], GROUPS).configs)
    task = load_task(settings)
    facts = student_facts(task, settings)
    params = nnx.to_pure_dict(create_student(settings.student, facts, 0)[1])
    export_student(folder, params, settings.student, facts, task.dataset)
    return folder, params, settings, task


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    """A SASRec's folder."""
    return made(tmp_path_factory.mktemp("yesterday") / "sasrec")


def called(output, start, *flags):
    """Runs the command; returns what it printed."""
    call, stream = make_call(
        COMMAND,
        [
            *SMALL, NEW, "--teachers=", f"--from={start}", f"--output_dir={output}",
            f"--cache_dir={output.parent / 'cache'}", "--rows_from=words", *flags,
        ],
    )  # fmt: skip
    run(call)
    return stream.getvalue()


def test_an_update_leaves_a_student_of_today_and_what_it_is_worth(yesterday, tmp_path, monkeypatch):
    """New items are recommended, all are compared, and the same command does nothing again."""
    output = tmp_path / "out"
    text = called(output, yesterday[0], "--update_epochs=1", "--noscratch")
    record = json.loads((output / "update.json").read_text())
    today = load_task(settings_from(parse([*SMALL, NEW], GROUPS).configs)).dataset
    known = yesterday[3].dataset.item_ids
    assert record["changes"] == {
        "kept_items": len(set(known) & set(today.item_ids)),
        "new_items": len(set(today.item_ids) - set(known)),
        "vanished_items": len(set(known) - set(today.item_ids)),
        "new_users": None,
        "vanished_users": None,
    }
    assert set(record["models"]) == {"yesterday", "mapped", "updated"}
    assert record["models"]["yesterday"]["new_targets"]["Recall@20"] == 0
    assert record["models"]["yesterday"]["known_targets"]["Recall@20"] > 0
    parts = [record["models"]["updated"][part] for part in ("known_targets", "new_targets")]
    total = sum(part["instances"] * part["MRR"] for part in parts)
    whole = record["models"]["updated"]["test"]
    assert total == pytest.approx(whole["instances"] * whole["MRR"])
    assert record["map"]["gain"] > 0
    (folder,) = (output / "students" / "updated").iterdir()
    assert Recommender.load(folder).exported.item_ids == today.item_ids
    told = read_card(folder)["record"]
    assert told["updated_from"]["changes"] == record["changes"]
    assert told["test"]["MRR"] == pytest.approx(whole["MRR"])
    assert "| With rows for new items |" in text
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr(module, "_carry_out", None)
    assert "this update is finished" in called(
        output, yesterday[0], "--update_epochs=1", "--noscratch"
    )
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--vanished: found 'keep', expected 'drop' as in"):
        called(output, yesterday[0], "--update_epochs=1", "--noscratch", "--vanished=keep")


def test_an_update_that_brings_nothing_says_so(yesterday, tmp_path):
    """A learning rate of zero, nearly: the student with its new rows is the best."""
    flags = ("--update_epochs=1", "--noscratch")
    said = called(tmp_path / "still", yesterday[0], *flags, "--learning_rate=1e-30")
    assert "Updated: no epoch was better, so it is 'With rows for new items'" in said


def test_an_update_of_the_student_that_it_would_replace_is_refused(yesterday, tmp_path):
    """Yesterday's student in the update's own folder stays, even with --overwrite."""
    output, name = tmp_path / "day", "students/updated/sasrec-base-seed0"
    shutil.copytree(yesterday[0], output / name)
    files = [f"{name}/{path.name}" for path in (output / name).iterdir()]
    manifest = {"identity": {"settings": {}}, "files": files, "finished": True}
    write_sealed_json(output / "run.json", manifest)
    before = contents(output)
    with pytest.raises(UserError, match=rf"{name}/\S+, which --overwrite would remove and this"):
        called(output, output / name, "--overwrite")
    assert contents(output) == before


def test_an_update_that_was_stopped_twice_ends_as_if_it_had_not_been(
    yesterday, tmp_path, monkeypatch
):
    """A stop repeats at most one epoch, and the weights equal those of one go."""
    flags = ("--update_epochs=2", "--patience=2", "--noscratch")
    called(tmp_path / "whole", yesterday[0], *flags)
    epochs, stops = [], {1, 3}

    def stopped(run, on_step, on_epoch, on_start):
        def count(record):
            on_epoch(record)
            epochs.append(record["epoch"])
            if len(epochs) in stops:
                raise KeyboardInterrupt

        saved = dataclasses.replace(run.train, checkpoint_seconds=0)
        return fit(dataclasses.replace(run, train=saved), on_step, count, on_start)

    fit = students.fit
    monkeypatch.setattr(students, "fit", stopped)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            called(tmp_path / "stopped", yesterday[0], *flags)
    called(tmp_path / "stopped", yesterday[0], *flags)
    # An epoch is told before it is kept, so that each stop lets one be trained again.
    assert epochs == [1, 1, 2, 2]
    file = "students/updated/sasrec-base-seed0/weights.safetensors"
    whole, other = (tmp_path / folder / file for folder in ("whole", "stopped"))
    assert other.read_bytes() == whole.read_bytes()
    whole, other = (
        json.loads((tmp_path / folder / "update.json").read_text())["models"]
        for folder in ("whole", "stopped")
    )
    for models in (whole, other):
        for model in models.values():
            del model["seconds"]
    assert whole == other


def test_the_states_of_a_refit_are_the_updates_own(yesterday, tmp_path):
    """The update's list of files has them, so that replacing the update removes them."""
    output = tmp_path / "out"
    called(output, yesterday[0], "--update_epochs=1", "--noscratch", "--refit", "--rows_from=mean")
    listed = json.loads((output / "run.json").read_text())["files"]
    states = [str(path.relative_to(output)) + "/" for path in output.glob("runs/*/checkpoints/*")]
    assert any(name.endswith("-refit/") for name in states)
    assert set(states) <= set(listed)


def test_a_file_of_recboles_begins_like_the_export_of_the_same_weights(yesterday, tmp_path):
    """Rows are matched by item id in any order, and a file without ids is refused."""
    folder, params, settings, task = yesterday
    weights = to_recbole(params, settings.student, task.dataset)
    rows = np.random.default_rng(0).permutation(task.dataset.num_items)
    table = weights["item_embedding.weight"]
    weights["item_embedding.weight"] = torch.cat([table[:1], table[1:][rows]])
    tokens = ["[PAD]", *(task.dataset.item_ids[row] for row in rows)]
    torch.save(
        {"state_dict": weights, "field2id_token": {"item_id": tokens}}, tmp_path / "SASRec.pth"
    )
    found = []
    for start in (folder, tmp_path / "SASRec.pth"):
        call, _ = make_call(
            COMMAND, [*SMALL, NEW, "--teachers=", f"--from={start}", "--rows_from=mean"]
        )
        plan = module._plan(call)
        mapped = module._mapped(plan, [])
        found.append(mapped.exported)
    assert found[0].item_ids == found[1].item_ids
    np.testing.assert_allclose(found[0].items, found[1].items, atol=1e-6)
    torch.save(weights, tmp_path / "SASRec.pth")
    with pytest.raises(UserError, match="field2id_token: found no item_ids, expected the id of"):
        called(tmp_path / "out", tmp_path / "SASRec.pth")


def test_the_students_shape_is_yesterdays_unless_a_flag_says_otherwise(yesterday, tmp_path):
    """A flag on the command line or in a flagfile wins; another student keeps its defaults."""
    flagfile = tmp_path / "some.cfg"
    flagfile.write_text("--inner_size=24\n")
    flags = [f"--from={yesterday[0]}", "--num_heads=4", f"--flagfile={flagfile}"]
    found = completed(make_call(COMMAND, flags)[0]).settings
    theirs, default = yesterday[2], StudentConfig()
    assert (found.student.num_heads, found.student.inner_size) == (4, 24)
    assert found.student.hidden_size == theirs.student.hidden_size != default.hidden_size
    assert found.student.num_layers == theirs.student.num_layers != default.num_layers
    assert found.data.max_seq_len == theirs.data.max_seq_len == 8
    for start in (yesterday[0], tmp_path / "nowhere"):
        call = make_call(COMMAND, [f"--from={start}", "--student=gru4rec"])[0]
        assert completed(call).settings.student == StudentConfig(student="gru4rec")


def test_what_new_rows_are_made_of_makes_another_update(yesterday):
    """Text pooling counts only where the rows are made of texts."""
    found = []
    for pooling in ("model", "cls"):
        for source in ("texts", "words"):
            flags = [f"--from={yesterday[0]}", f"--text_pooling={pooling}", f"--rows_from={source}"]
            call, _ = make_call(COMMAND, [*SMALL, NEW, "--teachers=", *flags])
            found.append(module._identity(module._plan(call)))
    assert found[0] != found[2]
    assert found[1] == found[3]


def test_a_start_of_item_tables_is_the_scratch_students(yesterday, tmp_path):
    """With --noscratch a warning says that `--item_init` has no effect."""
    text = called(tmp_path / "out", yesterday[0], "--update_epochs=1", "--item_init=text")
    assert "has no effect" not in text
    record = json.loads((tmp_path / "out/runs/scratch/record.json").read_text())
    assert record["identity"]["settings"]["item_init"] == "text"
    flags = ("--update_epochs=1", "--noscratch", "--item_init=text", "--max_epochs=2")
    text = called(tmp_path / "alone", yesterday[0], *flags)
    for name in ("item_init", "max_epochs"):
        assert f"--{name} has no effect: --noscratch trains nothing from scratch" in text


def test_batches_are_compared_with_yesterdays_window(yesterday, tmp_path, monkeypatch):
    """`--batch_size` is checked against that window of 8, not the flag's default."""
    seen = []
    monkeypatch.setattr(module, "run", seen.append)
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    flags = [f"--from={yesterday[0]}", f"--cache_dir={tmp_path}", "--teachers="]
    command.execute(COMMAND, [*flags, "--batch_size=8"], "prmkd update")
    assert seen[0].settings.data.max_seq_len == 8
    with pytest.raises(UserError, match="--batch_size: found 7, expected at least --max_seq_len=8"):
        command.execute(COMMAND, [*flags, "--batch_size=7"], "prmkd update")


def test_the_folder_of_a_run_is_answered_with_a_student_in_it(yesterday, tmp_path):
    """The message names a student inside the folder that `train` was given."""
    student = tmp_path / "run/students/sasrec-prmkd-seed0"
    shutil.copytree(yesterday[0], student)
    with pytest.raises(UserError, match=f"exported one, such as {student}, or a .pth file"):
        called(tmp_path / "out", tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--curriculum_epochs=3", "--update_epochs=2"],
            "--curriculum_epochs: found 3, expected at most --update_epochs=2",
        ),
        (["--from="], "--from: found nothing, expected the folder"),
        (["--from=nowhere"], "--from: found no student at nowhere, expected the folder"),
        (["--student=gru4rec"], "--student: found 'gru4rec', expected 'sasrec' as in"),
        (["--hidden_size=16"], "--hidden_size: found 16, expected 8 as in"),
        (["--num_heads=1"], "--num_heads: found 1, expected 2 as in"),
        (["--max_seq_len=7"], "--max_seq_len: found 7, expected 8 as the student in"),
        (["--init=student=x"], "--init: found student, expected none"),
        (["--rows_from=teachers"], "--rows_from: found teachers, but --teachers= names none"),
        (
            ["--rows_from=teachers", "--teachers=popularity,neighbours"],
            "--rows_from: found teachers, all without vectors, expected one with some",
        ),
        (
            ["--rows_from=texts", "--text_features=nowhere/x.feat1CLS"],
            "nowhere/x.item2index: found no readable file, expected the items' rows",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(yesterday, tmp_path, flags, message):
    """Each mistake is reported in one line, and no output folder is made."""
    with pytest.raises(UserError) as error:
        called(tmp_path / "out", yesterday[0], *flags)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
