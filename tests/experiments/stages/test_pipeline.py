"""Runs in their folders: what is taken up, what is refused, what stays."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages import pipeline
from experiments.stages.identity import first_difference, run_identity
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.splits import leave_one_out
from tests.experiments.test_run_folder import contents

SMALL = (
    "--dataset=Games", "--teachers=precomputed", "--hidden_size=8", "--num_layers=1",
    "--inner_size=8", "--batch_size=64", "--max_seq_len=8", "--max_epochs=1",
    "--eval_batch_size=40",
)  # fmt: skip
USERS, ITEMS, LENGTH = 30, 20, 6


def write_data(folder, *, backwards: bool = False) -> None:
    """Thirty users in `<folder>/Games`, each item with a title and a picture."""
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


def configs(folder, *flags):
    paths = {"data_dir": folder, "cache_dir": folder / "cache", "output_dir": folder / "out"}
    argv = [f"--{name}={path}" for name, path in paths.items()]
    return parse([*SMALL, *argv, f"--precomputed_folder={folder}", *flags], GROUPS).configs


def run(folder, *flags) -> str:
    """What the run says."""
    parsed, stream = configs(folder, *flags), io.StringIO()
    reporter = Reporter(Console(file=stream, width=200))
    pipeline.run_pipeline(settings_from(parsed), parsed, reporter, [])
    return stream.getvalue()


def identity(folder, *flags):
    parsed = configs(folder, *flags)
    settings = settings_from(parsed)
    dataset = pipeline.load_dataset(settings)
    return run_identity(parsed, settings, dataset, leave_one_out(dataset.interactions))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The place of a finished run, and what it said."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_data(folder)
    write_vectors(folder)
    return folder, run(folder)


def test_a_finished_run_is_shown_again_and_stays_as_it_is(finished, monkeypatch):
    """Hours of training repeated, or a results.json of another moment."""
    folder, said = finished
    monkeypatch.setattr(pipeline, "train_students", None)
    monkeypatch.setattr(pipeline, "prepare_teachers", None)
    before = contents(folder / "out")
    assert {"run.json", "results.json", "report.html", "log.jsonl"} <= before.keys()
    elsewhere = ("--checkpoint_seconds=1", "--overwrite")
    for flags in ((), elsewhere):
        again = run(folder, *flags)
        assert "this run is finished" in again
        assert said.splitlines()[-8:] == again.splitlines()[-8:]
    assert contents(folder / "out") == before


def test_a_lost_file_is_written_again_without_training(finished):
    """A finished run that can't be completed but by hours of training."""
    folder, _ = finished
    before = contents(folder / "out")
    (folder / "out" / "results.json").unlink()
    assert "epoch   1" not in run(folder)
    after = contents(folder / "out")
    assert after["results.json"] == before["results.json"]
    assert after["run.json"] == before["run.json"]
    assert after["ranks.npz"] == before["ranks.npz"]


def test_reversed_histories_are_another_run(finished):
    """Old weights exported under new data, whose training items have become test items."""
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
    """A student called the pupil of a teacher that it has never seen."""
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
        (["--teachers=unisrec", "--unisrec_batch_size=4"], "--unisrec_batch_size: found 4"),
        (["--teachers=unim2rec", "--unim2rec_batch_size=4"], "--unim2rec_batch_size: found 4"),
        (["--teachers=unim2rec", "--image_encoder=EMPTY"], "--image_encoder: found"),
        (["--teachers=recformer", "--recformer_start=EMPTY"], "--recformer_start: found"),
        (
            ["--teachers=unisrec", "--teacher_checkpoints=unisrec=EMPTY"],
            "--teacher_checkpoints: ",
        ),
        (["--precomputed_folder=EMPTY"], "EMPTY/instances.npy: found no such file"),
        (["--precomputed_folder=SHORT"], "SHORT/items.npy: found shape [3, 4], expected [20, d]"),
        (["--teachers=unisrec", "--text_features=EMPTY/a.feat1CLS"], "--text_features: "),
        (["--student_init=EMPTY"], "--student_init: found no weights"),
        (["--dataset=Toys"], "--dataset"),
        (["--student=recguru", "--second_domain=Games"], "--second_domain: found 'Games'"),
    ],
)
def test_a_mistake_leaves_the_finished_run_as_it_is(finished, flags, message):
    """An earlier run destroyed by a command that can't work, found out after the deletion."""
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


def test_everything_that_is_read_is_part_of_the_identity(finished, tmp_path):
    """A run taken up with other texts, pictures or weights to begin with."""
    write_data(tmp_path)
    write_vectors(tmp_path)
    features = tmp_path / "a.feat1CLS"
    np.zeros((ITEMS, 768), "<f4").tofile(features)
    numbering = "".join(f"i{item}\t{item}\n" for item in range(ITEMS))
    (tmp_path / "a.item2index").write_text(numbering)
    start = tmp_path / "start.pth"
    start.write_text("weights")

    def another_picture():
        Image.new("RGB", (8, 8), (0, 99, 0)).save(tmp_path / "Games" / "i3.png")

    cases = [
        (
            ["--teachers=unisrec", f"--text_features={features}"],
            lambda: np.ones((ITEMS, 768), "<f4").tofile(features),
            "teacher, unisrec, text_encoder: found",
        ),
        (
            ["--teachers=unim2rec", f"--image_encoder={tmp_path / 'Games'}"],
            another_picture,
            "teacher, unim2rec, image",
        ),
        (
            ["--teachers=", f"--student_init={start}"],
            lambda: start.write_text("others"),
            "the contents of --student_init: found",
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
        (["--checkpoint_seconds=3"], True),
        (["--output_dir=elsewhere", "--cache_dir=there"], True),
        (["--precomputed_scale=2"], False),
        (["--distill_weight=2"], False),
        (["--teacher_scores=torch"], False),
        (["--num_layers=2"], False),
        (["--learning_rate=0.1"], False),
    ],
)
def test_what_changes_a_number_makes_another_run(finished, flags, same):
    """Numbers of two settings in one run, or hours repeated for a path."""
    folder, _ = finished
    difference = first_difference(identity(folder, *flags), identity(folder))
    assert (difference is None) is same


def test_another_version_of_what_computes_makes_another_run(finished, monkeypatch):
    """A run that ends in numbers of neither version."""
    from experiments.stages import identity as module

    before = identity(finished[0])
    with monkeypatch.context() as patch:
        patch.setattr(module, "NUMERICS_VERSION", 10**6)
        difference = first_difference(identity(finished[0]), before)
        assert str(difference).startswith("the version of the training code: found 1000000")
    with monkeypatch.context() as patch:
        patch.setattr(module.metadata, "version", lambda name: "0.0.1")
        difference = first_difference(identity(finished[0]), before)
        assert str(difference).startswith("packages, jax: found '0.0.1', expected '")


def test_an_overwritten_run_leaves_none_of_its_results(finished, tmp_path):
    """Figures and students of an older run, taken for this one's."""
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
