"""teach: a trained student teaches another, if it has seen no more than its training part."""

import json
import shutil

import pytest

from experiments.commands.teach import COMMAND as TEACH
from experiments.commands.train import COMMAND as TRAIN
from experiments.runs import train
from experiments.stages import teach
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from tests.experiments.calls import SMALL, make_call

SEEDS = ("sasrec-base-seed0", "sasrec-base-seed1")


def run_train(folder, *flags):
    argv = [*SMALL, f"--cache_dir={folder / 'cache'}", *flags]
    train.run(make_call(TRAIN, argv)[0])


def run_teach(output, *models):
    named = ",".join(map(str, models))
    call, stream = make_call(TEACH, [f"--models={named}", f"--output_dir={output}"])
    teach.run(call)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that has left two seeds of a plain student."""
    folder = tmp_path_factory.mktemp("teach")
    run_train(folder, "--teachers=", "--seeds=0,1", f"--output_dir={folder / 'plain'}")
    return folder


def card_with(folder, target, change):
    """A copy of a student whose card tells something else, with a digest that fits."""
    source = folder / "plain" / "students" / SEEDS[0]
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    card = json.loads((target / "student.json").read_text())
    change(card)
    del card["digest"]
    write_json(target / "student.json", {**card, "digest": content_digest(card)})
    return target


def test_a_trained_student_teaches_another_what_it_was_measured_by(folder):
    """The teacher's metrics in the results are those of the student's own record."""
    student = folder / "plain" / "students" / SEEDS[0]
    said = run_teach(folder / "taught", student)
    assert "vectors of SASRec, for --precomputed_folder=" in said
    assert "made before" in run_teach(folder / "taught", student)
    run_train(
        folder, "--teachers=precomputed", f"--precomputed_folder={folder / 'taught'}",
        f"--output_dir={folder / 'distilled'}",
    )  # fmt: skip
    results = json.loads((folder / "distilled" / "results.json").read_text())
    found = results["teachers"]["precomputed"]
    expected = json.loads((student / "student.json").read_text())["record"]
    for part in ("validation", "test"):
        assert found[part] == pytest.approx(expected[part], abs=1e-9)
    assert {row["name"] for row in results["variants"]} == {"base", "prmkd"}


def test_files_that_are_not_as_they_were_written_are_made_again(folder, tmp_path):
    """Damaged, missing or older vectors are made again alike, and other files are kept."""
    student, output = folder / "plain" / "students" / SEEDS[0], tmp_path / "taught"
    run_teach(output, student)
    (output / "notes.txt").write_text("mine")
    written = {path.name: path.read_bytes() for path in output.iterdir()}
    vectors = written["instances.npy"]
    flipped = vectors[:-1] + bytes([vectors[-1] ^ 1])
    made_of = read_sealed_json(output / "students.json")
    assert set(made_of.pop("files")) == {"instances.npy", "items.npy"}

    def again():
        said = run_teach(output, student)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == written
        return said

    for damaged in (flipped, vectors[:-1], b"", None):
        if damaged is None:
            (output / "instances.npy").unlink()
        else:
            (output / "instances.npy").write_bytes(damaged)
        assert "vectors of SASRec" in again()
        assert "made before" in again()
    # As versions wrote it that kept no digests.
    write_sealed_json(output / "students.json", made_of)
    assert "vectors of SASRec" in again()


def test_a_student_that_is_replaced_meanwhile_teaches_nothing(folder, tmp_path, monkeypatch):
    """The one that was looked at had seen no more than its training part; this one may have."""
    target = card_with(folder, tmp_path / "student", lambda card: None)
    real = teach.task_of

    def replaced(data):
        shutil.copytree(folder / "plain" / "students" / SEEDS[1], target, dirs_exist_ok=True)
        return real(data)

    monkeypatch.setattr(teach, "task_of", replaced)
    with pytest.raises(UserError, match="found it replaced while it was read, expected it to stay"):
        run_teach(tmp_path / "taught", target)
    assert not (tmp_path / "taught").exists()


def test_seeds_are_one_teacher(folder):
    students = [folder / "plain" / "students" / name for name in SEEDS]
    assert "vectors of SASRec, SASRec" in run_teach(folder / "both", *students)
    with pytest.raises(UserError, match=r"--output_dir: found files in .*, expected a new"):
        run_teach(folder / "both", students[0])


CASES = {
    "refit": (
        lambda card: card["record"]["settings"].update(refit=True),
        r"student\.json: found a student that has seen the validation part too \(--refit\)",
    ),
    "init": (
        lambda card: card["record"].update(student_init="0" * 64),
        r"student\.json: found a student that began from another one",
    ),
    "updated": (
        lambda card: card["record"].update(updated_from={"digest": "0"}),
        r"student\.json: found a student that began from another one",
    ),
    "library": (
        lambda card: card.update(record={}),
        r"student\.json: found no record of a training, expected one that train has left",
    ),
    "split": (
        lambda card: card["record"]["split"].update(digest="0" * 64),
        r"student\.json: found split 0{64}, expected .*: all students must have been trained on it",
    ),
    "data": (
        lambda card: card["dataset"].update(fingerprint="0"),
        r"student\.json: found data with fingerprint 0, expected",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_may_have_seen_more_is_refused(folder, tmp_path, case):
    """A student of unknown, other or further training is refused, and nothing is written."""
    change, message = CASES[case]
    student = card_with(folder, tmp_path / "student", change)
    with pytest.raises(UserError, match=message):
        run_teach(tmp_path / "out", student)
    assert not (tmp_path / "out").exists()


def test_students_of_another_split_teach_nobody(folder, tmp_path):
    """A run refuses teachers that were trained on what it holds out."""
    run_teach(tmp_path / "taught", folder / "plain" / "students" / SEEDS[0])
    flags = ["--teachers=precomputed", f"--precomputed_folder={tmp_path / 'taught'}"]
    with pytest.raises(UserError, match=r"students\.json: split: found .*, expected .*trained on"):
        run_train(folder, *flags, "--split=temporal", f"--output_dir={tmp_path / 'out'}")


def test_a_teacher_whose_files_were_changed_teaches_nobody(folder, tmp_path):
    """The message names the changed or missing file."""
    student, taught = folder / "plain" / "students" / SEEDS[0], tmp_path / "taught"
    run_teach(taught, student)
    vectors = (taught / "items.npy").read_bytes()
    (taught / "items.npy").write_bytes(vectors[:-1] + bytes([vectors[-1] ^ 1]))
    flags = ["--teachers=precomputed", f"--precomputed_folder={taught}"]
    with pytest.raises(UserError, match=r"items\.npy: found another content than students\.json"):
        run_train(folder, *flags, f"--output_dir={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    made_of = read_sealed_json(taught / "students.json")
    write_sealed_json(taught / "students.json", {**made_of, "files": [[1, "x"]]})
    with pytest.raises(UserError, match=r"students\.json: damaged"):
        run_train(folder, *flags, f"--output_dir={tmp_path / 'out'}")
    (taught / "items.npy").unlink()
    with pytest.raises(UserError, match=r"items\.npy: no such file"):
        run_train(folder, *flags, f"--output_dir={tmp_path / 'out'}")
