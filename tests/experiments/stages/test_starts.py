"""What item tables begin from, from the command line to the record."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from bridge.teacher_vectors import Vectors
from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.cli.unread import unread
from experiments.commands.train import COMMAND
from experiments.runs import train
from experiments.runs.finished import finish_run
from experiments.runs.plan import check_runs, plan_runs, shared_place
from experiments.stages import starts
from experiments.stages.data import load_task
from experiments.stages.identity import run_identity
from experiments.stages.starts import item_start
from experiments.stages.teachers import ReadyTeacher
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.distill.controls import item_permutation
from prmkd_jax.serve.exported import read_exported
from teachers_torch.items.inputs import Modality
from tests.experiments.calls import SMALL, make_call

RNG = np.random.default_rng(2)


def configs(folder, *flags):
    paths = (f"--cache_dir={folder / 'cache'}", f"--output_dir={folder / 'out'}")
    return parse([*SMALL, "--teachers=", *paths, *flags], GROUPS).configs


@pytest.fixture
def encoded(monkeypatch):
    """Vectors in place of the encoder's, which takes seconds; item 3 has no text."""
    vectors = RNG.normal(size=(30, 5)).astype(np.float32)
    known = np.arange(30) != 3
    monkeypatch.setattr(starts, "text_inputs", lambda *_: Modality(vectors, known))
    return vectors, known


def test_a_run_begins_from_the_texts_and_leaves_a_plain_table(tmp_path, encoded):
    """The start changes the training but not the number of parameters."""
    folders = {init: tmp_path / init for init in ("random", "text:0.3")}
    for init, folder in folders.items():
        argv = [*SMALL, "--teachers=", f"--item_init={init}", "--refit", "--max_epochs=2"]
        argv += [f"--cache_dir={tmp_path / 'cache'}", f"--output_dir={folder}"]
        call, _ = make_call(COMMAND, argv)
        train.run(call)
    records = [
        json.loads((folder / "runs/base/record.json").read_text()) for folder in folders.values()
    ]
    results = [record["seeds"][0] for record in records]
    assert results[0]["history"] != results[1]["history"]
    assert [record["settings"]["item_init"] for record in records] == list(folders)
    sizes = {record["parameters"] for record in records}
    assert len(sizes) == 1
    for result, folder in zip(results, folders.values(), strict=True):
        # The test before the refit and after it; what is exported is what was tested last.
        assert result["test_before_refit"] != result["test"]
        (student,) = (folder / "students").iterdir()
        card = read_exported(student).card["record"]
        assert card["test"] == result["test"]
        assert card["test_before_refit"] == result["test_before_refit"]
        listed = json.loads((folder / "run.json").read_text())["files"]
        assert f"checkpoints/{student.name}-refit/" in listed
    call, stream = make_call(COMMAND, argv)
    train.run(call)
    assert "this run is finished" in stream.getvalue()


def test_the_teachers_vectors_begin_it_too(tmp_path):
    """An item's start joins all teachers' vectors; a control's are permuted by teacher."""

    given = [RNG.normal(size=(30, width)).astype(np.float16) for width in (3, 4)]
    teachers = [ReadyTeacher(Vectors("one", 1.0, items, items), {}) for items in given]
    settings = settings_from(configs(tmp_path, "--item_init=teachers:0.2", "--teachers=unisrec"))
    start = item_start(settings, load_task(settings), teachers, Reporter(Console(quiet=True)))
    assert start is not None
    assert start.vectors.shape == (30, 7)
    assert start.known.all()
    assert start.deviation == 0.2
    centred = given[1].astype(float)
    centred -= centred.mean(0)
    factors = start.vectors[:, 3:] / centred
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-4)
    # A control's start would teach it: its teachers' vectors are other items', each teacher's own.
    control = settings_from(
        configs(tmp_path, "--item_init=teachers:0.2", "--teachers=unisrec", "--method=permuted")
    )
    other = item_start(control, load_task(control), teachers, Reporter(Console(quiet=True)))
    assert other is not None
    for k, part in enumerate((slice(0, 3), slice(3, 7))):
        order = item_permutation(30, k, 0)
        np.testing.assert_allclose(
            other.vectors[:, part], start.vectors[order][:, part], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--item_init=teachers"], "--item_init: found 'teachers', expected random or text with"),
        (["--item_init=texts"], "--item_init: found 'texts', expected random, text or teachers"),
        (
            ["--item_init=text", "--init=student=somewhere"],
            "--item_init: found 'text', expected random with --init=student=somewhere",
        ),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, flags, message):
    """The message names the start that was found and those that are possible."""
    with pytest.raises(UserError) as raised:
        settings_from(configs(tmp_path, *flags))
    assert str(raised.value).startswith(message)


def test_data_without_texts_are_refused_before_anything_is_trained(tmp_path):
    """The check of planned runs refuses them and asks for a random start."""
    (plan,) = plan_runs([configs(tmp_path, "--item_init=text")])
    texts = dict.fromkeys(plan.task.dataset.catalogue.texts, ("",) * 30)
    catalogue = dataclasses.replace(plan.task.dataset.catalogue, texts=texts)
    bare = dataclasses.replace(plan.task.dataset, catalogue=catalogue)
    message = "--item_init: found 'text', but data set synthetic-home has no texts, expected random"
    with pytest.raises(UserError, match=message):
        check_runs([dataclasses.replace(plan, task=Task(bare, plan.task.split))])


@pytest.mark.parametrize("unknown", [0, 1])
def test_equal_texts_are_refused_before_anything_is_trained(tmp_path, unknown):
    """Texts that are there but don't tell items apart are refused as well."""
    (plan,) = plan_runs([configs(tmp_path, "--item_init=text")])
    texts = dict.fromkeys(plan.task.dataset.catalogue.texts, ("",) * 30)
    texts["title"] = ("",) * unknown + ("a title",) * (30 - unknown)
    catalogue = dataclasses.replace(plan.task.dataset.catalogue, texts=texts)
    equal = dataclasses.replace(plan.task.dataset, catalogue=catalogue)
    message = f"--item_init: found the same vector for all {30 - unknown} items, expected vectors"
    with pytest.raises(UserError, match=message):
        check_runs([dataclasses.replace(plan, task=Task(equal, plan.task.split))])


def test_a_file_of_equal_vectors_is_refused_before_anything_is_trained(tmp_path):
    """Vectors that were computed elsewhere are refused too, until one row differs."""
    flags = ("--item_init=text", f"--text_features={tmp_path / 'a.feat1CLS'}")
    rows = np.ones((30, 768), "<f4")
    (bare,) = plan_runs([configs(tmp_path)])
    numbering = [f"{item}\t{row}\n" for row, item in enumerate(bare.task.dataset.item_ids)]
    (tmp_path / "a.item2index").write_text("".join(numbering))
    rows.tofile(tmp_path / "a.feat1CLS")
    with pytest.raises(UserError, match="--item_init: found the same vector for all 30 items"):
        check_runs(plan_runs([configs(tmp_path, *flags)]))
    rows[3] = 2
    rows.tofile(tmp_path / "a.feat1CLS")
    (plan,) = plan_runs([configs(tmp_path, *flags)])
    check_runs([plan])
    # Hours of teachers later: a record would name the former vectors.
    rows[3] = 3
    rows.tofile(tmp_path / "a.feat1CLS")
    place, reporter = shared_place(tmp_path / "runs", plan), Reporter(Console(quiet=True))
    with pytest.raises(UserError, match="--item_init: found 'text' with other files than when"):
        finish_run(plan, place, {}, reporter)


def test_teachers_without_vectors_are_told_before_they_are_tuned(tmp_path):
    """The check of planned runs refuses a start from teachers if none has vectors."""
    teachers = "--teachers=popularity,neighbours"
    plans = plan_runs([configs(tmp_path, "--item_init=teachers", teachers)])
    with pytest.raises(UserError, match="--item_init: found 'teachers', but no teacher of this"):
        check_runs(plans)


def test_a_run_is_told_apart_by_its_start_and_by_the_encoder(tmp_path):
    """The pooling of texts makes another run only if the start is made of texts."""

    def identity(*flags):
        parsed = configs(tmp_path, *flags)
        settings = settings_from(parsed)
        return run_identity(parsed, settings, load_task(settings), [])

    inits = ("random", "text", "text:0.2")
    found = [json.dumps(identity(f"--item_init={init}")) for init in inits]
    found.append(json.dumps(identity("--item_init=text", "--text_pooling=cls")))
    assert len(set(found)) == 4
    assert identity() == identity("--text_pooling=cls")


def test_the_encoders_flags_have_an_effect_where_texts_are_read(tmp_path):
    """If the item table begins from texts, no warning says that the encoder has no effect."""
    for init, expected in (("text", False), ("random", True)):
        settings = settings_from(configs(tmp_path, f"--item_init={init}"))
        assert ("text_encoder" in unread(settings)) is expected


def test_teachers_without_vectors_are_told_before_the_plain_student_is_trained(tmp_path):
    """No epoch has been trained when the message comes."""
    argv = [*SMALL, "--teachers=popularity", "--item_init=teachers"]
    argv += [f"--cache_dir={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'out'}"]
    call, stream = make_call(COMMAND, argv)
    with pytest.raises(UserError, match="no teacher of this run gives vectors of items"):
        train.run(call)
    assert "epoch" not in stream.getvalue()
