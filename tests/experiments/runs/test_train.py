"""train: what is taken up, what is refused, what stays, and under which name."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.report import COMMAND as REPORT
from experiments.commands.train import COMMAND
from experiments.runs import finished as trials
from experiments.runs import report, train
from experiments.stages import metrics_log
from experiments.stages.data import load_task
from experiments.stages.identity import first_difference, run_identity
from experiments.stages.teachers import teacher_identities
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import make_call
from tests.experiments.stages.test_run_folder import contents

SMALL = (
    "--dataset=Games", "--teachers=precomputed", "--hidden_size=8", "--num_layers=1",
    "--inner_size=8", "--batch_size=64", "--max_seq_len=8", "--max_epochs=1",
)  # fmt: skip
USERS, ITEMS, LENGTH = 30, 20, 6


def write_data(folder, *, backwards: bool = False) -> None:
    """Thirty users in `<folder>/Games`, each item with a title and an image."""
    place = folder / "Games"
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(ITEMS)[:LENGTH] for _ in range(USERS)])
    # All items in the first users' first places: the numbering is the same both ways.
    rows = {
        "user_id": [f"u{user}" for user in range(USERS) for _ in range(LENGTH)],
        "item_id": [f"i{item}" for item in items.reshape(-1)],
        "position": list(range(LENGTH))[:: -1 if backwards else 1] * USERS,
    }
    pq.write_table(pa.table(rows), place / "interactions.parquet")
    names = [f"i{item}" for item in range(ITEMS)]
    for name in names:
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(place / f"{name}.png")
    table = {"item_id": names, "title": names, "image_path": [f"{name}.png" for name in names]}
    pq.write_table(pa.table(table), place / "items.parquet")


def write_vectors(folder, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name, rows in (("instances", USERS * LENGTH), ("items", ITEMS)):
        np.save(folder / f"{name}.npy", rng.normal(size=(rows, 4)).astype(np.float32))


def arguments(folder, *flags) -> list[str]:
    paths = {"data_dir": folder, "cache_dir": folder / "cache", "output_dir": folder / "out"}
    argv = [f"--{name}={path}" for name, path in paths.items()]
    return [*SMALL, *argv, f"--precomputed_folder={folder}", *flags]


def run(folder, *flags) -> str:
    """What the run says."""
    call, stream = make_call(COMMAND, arguments(folder, *flags))
    train.run(call)
    return stream.getvalue()


def identity(folder, *flags):
    parsed = parse(arguments(folder, *flags), GROUPS).configs
    settings = settings_from(parsed)
    task = load_task(settings)
    return run_identity(parsed, settings, task, teacher_identities(task, settings))


def test_a_refit_depends_on_what_lies_before_its_cut(tmp_path):
    """An only interaction between the cuts is no instance, but a refit counts it."""
    rows = {
        "user_id": [*"aaabbbc"],
        "item_id": [*"xyzxyzx"],
        "timestamp": [2000 * 10**6 + 86_400 * day for day in (1, 2, 7, 1, 4, 8, 5)],
    }
    (tmp_path / "clock").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "clock" / "interactions.parquet")
    table = {"item_id": [*"xyz"], "title": [*"xyz"]}
    pq.write_table(pa.table(table), tmp_path / "clock" / "items.parquet")

    def of(cut: str, *flags: str):
        # Day 0 is the 18th of May 2033.
        cuts = f"--split_at=2033-05-21,{cut}"
        argv = [*arguments(tmp_path, *flags), "--dataset=clock", "--split=temporal", cuts]
        parsed = parse([*argv, "--teachers="], GROUPS).configs
        settings = settings_from(parsed)
        return run_identity(parsed, settings, load_task(settings), [])

    before, after = "2033-05-23T02:00", "2033-05-24"
    assert of(before) == of(after)
    assert of(before, "--refit") != of(after, "--refit")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The place of a finished run, and what it said."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_data(folder)
    write_vectors(folder)
    return folder, run(folder)


def test_a_finished_run_is_shown_again_and_stays_as_it_is(finished, monkeypatch):
    """Nothing trains again and no file changes, even with --overwrite."""
    folder, said = finished
    monkeypatch.setattr(trials, "train_student", None)
    monkeypatch.setattr(trials, "prepare_teachers", None)
    before = contents(folder / "out")
    assert {"run.json", "results.json", "report.html", "log.jsonl"} <= before.keys()
    for flags in ((), ("--overwrite",)):
        again = run(folder, *flags)
        assert "this run is finished" in again
        assert said.splitlines()[-8:] == again.splitlines()[-8:]
    assert contents(folder / "out") == before


def test_a_lost_file_is_written_again_without_training(finished):
    """A deleted results.json comes back with the same bytes."""
    folder, _ = finished
    before = contents(folder / "out")
    (folder / "out" / "results.json").unlink()
    assert "epoch   1" not in run(folder)
    after = contents(folder / "out")
    assert after["results.json"] == before["results.json"]
    assert after["run.json"] == before["run.json"]
    assert after["ranks.npz"] == before["ranks.npz"]


def test_reversed_histories_are_another_run(finished):
    """The message names the data, and the files of the finished run stay as they were."""
    folder, _ = finished
    before = contents(folder / "out")
    write_data(folder, backwards=True)
    try:
        with pytest.raises(UserError, match=r"^the data: found '.*', expected '.*' as in .*run"):
            run(folder)
    finally:
        write_data(folder)
    assert contents(folder / "out") == before


def test_other_vectors_under_the_same_path_are_another_run(finished):
    """The message names the teacher's content, and the finished run's files stay unchanged."""
    folder, _ = finished
    before = contents(folder / "out")
    write_vectors(folder, seed=1)
    try:
        with pytest.raises(UserError, match=r"^teacher, precomputed, content: found '"):
            run(folder)
    finally:
        write_vectors(folder)
    assert contents(folder / "out") == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teachers=unisrec-text", "--text_encoder=EMPTY"], "--text_encoder: found"),
        (["--teachers=unisrec", "--teacher_batch_size=4"], "--teacher_batch_size: found 4"),
        (["--teachers=unim2rec", "--teacher_batch_size=4"], "--teacher_batch_size: found 4"),
        (["--teachers=unim2rec", "--image_encoder=EMPTY"], "--image_encoder: found"),
        (["--teachers=recformer", "--init=recformer=EMPTY"], "--init: "),
        (
            ["--teachers=unisrec", "--init=unisrec=EMPTY"],
            "--init: EMPTY/weights.safetensors: no such file",
        ),
        (["--precomputed_folder=EMPTY"], "EMPTY/instances.npy: no such file"),
        (["--precomputed_folder=SHORT"], "SHORT/items.npy: found shape [3, 4], expected [20, d]"),
        (["--teachers=unisrec", "--text_features=EMPTY/a.feat1CLS"], "--text_features: "),
        (["--init=student=EMPTY"], "--init=student: found no weights"),
        (["--dataset=Toys"], "--dataset"),
        (["--student=recguru", "--second_domain=Games"], "--second_domain: found 'Games'"),
    ],
)
def test_a_mistake_leaves_the_finished_run_as_it_is(finished, flags, message):
    """The mistake is reported in one line before --overwrite deletes anything."""
    folder, _ = finished
    empty, short = folder / "empty", folder / "short"
    for place in (empty, short):
        place.mkdir(exist_ok=True)
    np.save(short / "items.npy", np.ones((3, 4), np.float32))
    np.save(short / "instances.npy", np.ones((USERS * LENGTH, 4), np.float32))
    before = contents(folder / "out")

    def placed(text: str) -> str:
        return text.replace("EMPTY", str(empty)).replace("SHORT", str(short))

    with pytest.raises(UserError) as error:
        run(folder, "--overwrite", *map(placed, flags))
    assert str(error.value).startswith(placed(message))
    assert "\n" not in str(error.value)
    assert contents(folder / "out") == before


@pytest.mark.parametrize("name", ["init", "precomputed_folder"])
def test_a_run_that_begins_from_the_one_it_would_replace_is_refused(finished, name):
    """--overwrite deletes neither the student nor the vectors that the run begins from."""
    folder, _ = finished
    before = contents(folder / "out")
    read = folder / "out" / "students" / "sasrec-base-seed0"
    flags = [f"--init=student={read}", "--max_epochs=2"]
    if name == "precomputed_folder":
        write_vectors(read, seed=1)
        flags = [f"--precomputed_folder={read}"]
    try:
        with pytest.raises(UserError, match=rf"reads \({read}\), expected another --output_dir"):
            run(folder, "--overwrite", *flags)
    finally:
        for vectors in read.glob("*.npy"):
            vectors.unlink()
    assert contents(folder / "out") == before


def test_everything_that_is_read_is_part_of_the_identity(finished, tmp_path):
    """Other texts, images or weights to begin with are named as what differs."""
    write_data(tmp_path)
    write_vectors(tmp_path)
    features = tmp_path / "a.feat1CLS"
    np.zeros((ITEMS, 768), "<f4").tofile(features)
    numbering = "".join(f"i{item}\t{item}\n" for item in range(ITEMS))
    (tmp_path / "a.item2index").write_text(numbering)
    start = tmp_path / "start.pth"
    start.write_text("weights")

    def another_image():
        Image.new("RGB", (8, 8), (0, 99, 0)).save(tmp_path / "Games" / "i3.png")

    cases = [
        (
            ["--teachers=unisrec", f"--text_features={features}"],
            lambda: np.ones((ITEMS, 768), "<f4").tofile(features),
            "teacher, unisrec, text_encoder: found",
        ),
        (
            ["--teachers=unim2rec", f"--image_encoder={tmp_path / 'Games'}"],
            another_image,
            "teacher, unim2rec, image",
        ),
        (
            ["--teachers=", f"--init=student={start}"],
            lambda: start.write_text("others"),
            "the contents of the student's --init: found",
        ),
    ]
    for flags, change, message in cases:
        before = identity(tmp_path, *flags)
        assert first_difference(identity(tmp_path, *flags), before) is None
        change()
        difference = first_difference(identity(tmp_path, *flags), before)
        assert difference is not None
        assert difference.startswith(message)


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["--teacher_seed=1"], True),
        (["--output_dir=elsewhere", "--cache_dir=there"], True),
        (["--precomputed_scale=2"], False),
        (["--distill_weight=2"], False),
        (["--teacher_scores=torch"], False),
        (["--num_layers=2"], False),
        (["--learning_rate=0.1"], False),
    ],
)
def test_what_changes_a_number_makes_another_run(finished, flags, same):
    """Paths, and settings that nothing reads, don't make another run."""
    folder, _ = finished
    difference = first_difference(identity(folder, *flags), identity(folder))
    assert (difference is None) is same


def test_another_version_of_what_computes_makes_another_run(finished, monkeypatch):
    """The version of lazy Adam counts only with --lazy_adam."""
    from experiments.stages import identity as module

    before = identity(finished[0])
    with monkeypatch.context() as patch:
        patch.setattr(module, "NUMERICS_VERSION", 10**6)
        difference = first_difference(identity(finished[0]), before)
        assert str(difference).startswith("the version of the training code: found 1000000")
    with monkeypatch.context() as patch:
        patch.setattr(module, "LAZY_ADAM_VERSION", 10**6)
        assert first_difference(identity(finished[0]), before) is None
        lazy = identity(finished[0], "--lazy_adam")
    difference = first_difference(lazy, identity(finished[0], "--lazy_adam"))
    assert str(difference).startswith("the version of --lazy_adam: found 1000000")
    with monkeypatch.context() as patch:
        patch.setattr(module.metadata, "version", lambda name: "0.0.1")
        difference = first_difference(identity(finished[0]), before)
        assert str(difference).startswith("packages, jax: found '0.0.1', expected '")


def test_an_overwritten_run_leaves_none_of_its_results(finished, tmp_path):
    """Its students and checkpoints are gone; a file that isn't the run's own stays."""
    write_data(tmp_path)
    write_vectors(tmp_path)
    run(tmp_path)
    (tmp_path / "out" / "checkpoints" / "thesis.tex").write_text("mine")
    run(tmp_path, "--teachers=", "--seeds=3", "--overwrite")
    left = {path.name for path in (tmp_path / "out" / "students").iterdir()}
    assert left == {"sasrec-base-seed3"}
    assert {p.name for p in (tmp_path / "out" / "checkpoints").iterdir()} == {
        "sasrec-base-seed3",
        "thesis.tex",
    }
    assert "--overwrite=false" in (tmp_path / "out" / "flags.cfg").read_text()


def test_a_folder_that_another_command_writes_to_is_refused(tmp_path, monkeypatch):
    """The second command is refused while the first one trains on."""
    write_data(tmp_path)
    train_student = trials.train_student
    refused = []

    def while_training(*arguments, **named):
        with pytest.raises(UserError) as error:
            run(tmp_path, "--teachers=")
        refused.append(str(error.value))
        return train_student(*arguments, **named)

    monkeypatch.setattr(trials, "train_student", while_training)
    run(tmp_path, "--teachers=")
    found = f"{tmp_path / 'out'}: found another command that writes there, expected none"
    assert [text.startswith(found) for text in refused] == [True]


def test_the_method_is_written_by_its_own_name(finished, tmp_path):
    """The output, results and page of --method=rd say RD and never PRM-KD."""
    folder, _ = finished
    said = run(folder, "--method=rd", f"--output_dir={tmp_path / 'rd'}")
    assert "RD (SASRec)" in said
    results = json.loads((tmp_path / "rd" / "results.json").read_text())
    assert [variant["name"] for variant in results["variants"]] == ["base", "rd"]
    assert results["variants"][1]["method"] == {"name": "rd", "label": "RD"}
    assert (tmp_path / "rd" / "students" / "sasrec-rd-seed0" / "student.json").is_file()
    assert "PRM-KD" not in said
    assert "PRM-KD" not in (tmp_path / "rd" / "report.html").read_text()


def test_the_page_is_made_again_from_the_results(finished):
    """A deleted page, table and figure come back with the same bytes, without training."""
    folder, said = finished
    before = contents(folder / "out")
    for name in ("report.html", "results.md", "figures/sasrec-learning.svg"):
        (folder / "out" / name).unlink()
    call, stream = make_call(REPORT, [f"--output_dir={folder / 'out'}"])
    report.run(call)
    assert contents(folder / "out") == before
    assert said.splitlines()[-8:] == stream.getvalue().splitlines()[-8:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--output_dir: found no results of a finished run in "),
        ('{"schema_version": 1}', "results.json: schema_version: found 1, expected 2: it was"),
        ("[]", "results.json: schema_version: found None, expected 2: it was written"),
        ("{", "results.json: damaged (Expecting property name"),
    ],
)
def test_results_that_cannot_be_read_are_told_in_one_line(tmp_path, content, message):
    """The line covers missing results, damaged ones and those of another version."""
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    call, _ = make_call(REPORT, [f"--output_dir={tmp_path}"])
    with pytest.raises(UserError) as error:
        report.run(call)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tool_that_is_not_installed_is_refused_before_the_hours(finished, monkeypatch):
    """The message names the package, and the files of the finished run stay as they were."""
    folder, _ = finished
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: None)
    before = contents(folder / "out")
    with pytest.raises(UserError, match="--log_to: found 'wandb', whose package is not installed"):
        run(folder, "--log_to=wandb", "--overwrite", "--dropout=0.1")
    assert contents(folder / "out") == before
