"""Artefacts: read by others' libraries alone, with the student's own answers."""

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.serve import artifact
from prmkd_jax.serve.artifact import check_artifact, write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.exported import export_student
from prmkd_jax.serve.program import Program
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students import deepfm
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from tests.packages import ROOT
from tests.students import fields
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, student_config

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

K = 10
WORLD = fields.WORLD
OURS = ("prmkd_jax", "teachers_torch", "bridge", "experiments", "flax", "optax", "orbax", "torch")

# Runs a reader of the docs on each folder, in a process that can import nothing that is named.
READ = """
import sys
blocked, code, folders = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
for name in blocked:
    sys.modules[name] = None
for folder in folders:
    exec(code.replace('"artefact/', f'"{folder}/'), {"__name__": folder})
held = {name.partition(".")[0] for name, module in sys.modules.items() if module}
print(len(folders), *sorted(held & set(blocked)))
"""


CONFIGS = {name: student_config(student=name) for name in BUILT_IN}
CONFIGS["sasrec-newest"] = student_config(student="sasrec", positions="newest")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name → the folder of an exported student of that class, or in that form."""
    root, made = tmp_path_factory.mktemp("models"), {}
    for name, config in CONFIGS.items():
        known = facts(WORLD, window(config, MAX_SEQ_LEN))
        _, state = create_student(config, known, 0)
        made[name] = root / name
        params = random_params(nnx.to_pure_dict(state), seed=5)
        export_student(made[name], params, config, known, WORLD, {"seed": 7})
    return made


@pytest.fixture(scope="module")
def artefacts(models, tmp_path_factory):
    """Name → its artefact, with all formats that it has."""
    root, made = tmp_path_factory.mktemp("artefacts"), {}
    with pytest.MonkeyPatch.context() as patch:
        # So that DeepFM's 40 items don't fit into one block.
        patch.setattr(deepfm, "ANY_BATCH_ITEMS", 16)
        for name, model in models.items():
            formats = ("stablehlo", "onnx") + (() if name == "deepfm" else ("vectors",))
            made[name] = root / name
            write_artifact(settings(model, made[name], formats=formats), lambda _: None)
    return made


def settings(model, folder, **changes) -> ExportConfig:
    return ExportConfig(model=str(model), output_dir=str(folder), **{"k": K, **changes})


def reader(word: str) -> str:
    """The code block of docs/export.md that has this word."""
    text = (ROOT / "docs" / "export.md").read_text()
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) if word in code
    )
    return code


def run_reader(code: str, blocked: tuple[str, ...], folders, cwd) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ, ",".join(blocked), code, *map(str, folders)],
        capture_output=True, text=True, timeout=240, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_stablehlo_is_read_by_jax_alone(artefacts, tmp_path):
    """The docs' reader compares ids and scores to 1e-5, for all students."""
    told = run_reader(reader("export.deserialize"), OURS, artefacts.values(), tmp_path)
    assert told == str(len(CONFIGS))


def test_onnx_is_read_by_onnxruntime_alone(artefacts, tmp_path):
    """The docs' reader runs for all students without jax."""
    blocked = (*OURS, "jax", "jaxlib", "onnx")
    told = run_reader(reader("InferenceSession"), blocked, artefacts.values(), tmp_path)
    assert told == str(len(CONFIGS))


def test_vectors_are_read_by_numpy_alone(artefacts, tmp_path):
    folders = [folder for name, folder in artefacts.items() if name != "deepfm"]
    blocked = (*OURS, "jax", "jaxlib", "onnx", "onnxruntime", "safetensors", "pyarrow")
    assert run_reader(reader("item_ids.json"), blocked, folders, tmp_path) == str(len(folders))


def test_no_file_says_where_it_was_made(artefacts):
    """No file holds the project's path or the name of the calling program."""
    for path in artefacts["sasrec"].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(ROOT).encode() not in content, path
            assert b"program.py" not in content, path


def asked(program: Program, lengths, users) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """Histories, some longer than the window, and the arrays that stand for them."""
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, WORLD.num_items, n).tolist() for n in lengths]
    columns = program.window or max(1, *lengths)
    arrays = {
        "history": np.full((len(lengths), columns), -1, np.int32),
        "users": np.array(users, np.int32),
        "excluded": np.full((len(lengths), max(1, *lengths)), -1, np.int32),
    }
    for row, history in enumerate(histories):
        read = history[-columns:]
        arrays["history"][row, : len(read)] = read
        arrays["excluded"][row, : len(history)] = history
    return histories, arrays


@pytest.mark.parametrize("name", CONFIGS)
def test_onnx_answers_batches_of_any_size_as_the_recommender(models, artefacts, name):
    """Histories of any length and unknown users get the same ten, with scores to 1e-5."""
    recommender = Recommender.load(models[name])
    program = Program(recommender.exported, K)
    session = onnxruntime.InferenceSession(artefacts[name] / "onnx" / "recommend.onnx")
    known = recommender.exported.user_ids is not None
    for lengths in ([5], [1, 9, 0, 3, 14, 6, 2]):
        users = [(row - 1 if known else -1) for row in range(len(lengths))]
        histories, arrays = asked(program, lengths, users)
        items, scores = session.run(["items", "scores"], arrays)
        ids = [[WORLD.item_ids[item] for item in history] for history in histories]
        owners = [WORLD.user_ids[user] if user >= 0 else None for user in users]
        answers = recommender.recommend(ids, K, users=owners)
        for row, answer in enumerate(answers):
            given = items[row] >= 0
            assert [WORLD.item_ids[i] for i in items[row][given]] == [x.item for x in answer.items]
            expected = [x.score for x in answer.items]
            np.testing.assert_allclose(scores[row][given], expected, rtol=1e-5, atol=1e-5)
            assert (scores[row][~given] == -np.inf).all()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "deepfm"])
def test_user_vectors_times_the_table_are_the_scores(models, artefacts, name):
    """NumPy's product of the exported vectors gives the recommender's scores to 1e-5."""
    folder = artefacts[name]
    program = Program(Recommender.load(models[name]).exported, K)
    session = onnxruntime.InferenceSession(folder / "onnx" / "user_vectors.onnx")
    lengths = [4, 1, 6]
    histories, arrays = asked(program, lengths, [-1] * len(lengths))
    inputs = {one.name: arrays[one.name] for one in session.get_inputs()}
    (vectors,) = session.run(["vectors"], inputs)
    scores = vectors @ np.load(folder / "vectors" / "items.npy").T
    ids = [[WORLD.item_ids[item] for item in history] for history in histories]
    for row, answer in zip(scores, Recommender.load(folder).recommend(ids, K), strict=True):
        found = [row[WORLD.item_ids.index(one.item)] for one in answer.items]
        expected = [one.score for one in answer.items]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_excluded_items_are_left_out_and_what_is_missing_is_said(artefacts):
    """All items but three are excluded: three answers, then −1 and −∞."""
    session = onnxruntime.InferenceSession(artefacts["sasrec"] / "onnx" / "recommend.onnx")
    inputs = {
        "history": np.array([[4, -1, -1, -1, -1, -1]], np.int32),
        "users": np.array([-1], np.int32),
        "excluded": np.arange(3, 40, dtype=np.int32)[None],
    }
    items, scores = session.run(["items", "scores"], inputs)
    assert sorted(items[0][:3].tolist()) == [0, 1, 2]
    assert items[0][3:].tolist() == [-1] * 7
    assert (scores[0][3:] == -np.inf).all()


def test_an_artefact_opens_as_the_student_it_was_made_of(models, artefacts):
    history = [["i3", "i9"]]
    expected = Recommender.load(models["gru4rec"]).recommend(history)
    assert Recommender.load(artefacts["gru4rec"]).recommend(history) == expected


def test_the_card_says_what_it_is(artefacts):
    text = (artefacts["lightgcn"] / "README.md").read_text()
    assert text.startswith("# LightGCN on hand-made\n")
    assert f"fingerprint {WORLD.fingerprint}" in text
    assert "The student's own card holds no figures." in text
    assert "| licence of the weights | not stated |" in text


def test_a_damaged_file_is_named(models, tmp_path):
    folder = tmp_path / "artefact"
    write_artifact(settings(models["fm"], folder, formats=("vectors",)), lambda _: None)
    assert check_artifact(folder) == ["vectors: give what the student gives"]
    table = np.load(folder / "vectors" / "items.npy")
    np.save(folder / "vectors" / "items.npy", -table)
    with pytest.raises(UserError, match=r"vectors/items\.npy: damaged"):
        check_artifact(folder)


def test_outputs_of_another_model_are_refused(models, tmp_path):
    """The self-check finds wrong numbers under right digests."""
    folder = tmp_path / "artefact"
    write_artifact(settings(models["fm"], folder, formats=("vectors",)), lambda _: None)
    table = np.load(folder / "vectors" / "items.npy")
    np.save(folder / "vectors" / "items.npy", table[::-1])
    manifest = read_sealed_json(folder / "manifest.json")
    del manifest["files"]["vectors/items.npy"]
    write_sealed_json(folder / "manifest.json", manifest)
    with pytest.raises(UserError, match="gives other items or scores than the student"):
        check_artifact(folder)


def test_an_export_whose_model_is_replaced_meanwhile_is_refused(models, tmp_path, monkeypatch):
    """If a link is moved after the student was read, no artefact is written."""
    link, moved = tmp_path / "current", tmp_path / "moved"
    link.symlink_to(models["sasrec"])
    checked = artifact._check_arrays

    def moving(program):
        moved.symlink_to(models["gru4rec"])
        moved.replace(link)
        return checked(program)

    monkeypatch.setattr(artifact, "_check_arrays", moving)
    folder = tmp_path / "artefact"
    with pytest.raises(UserError, match=r"current: found it replaced while it was read"):
        write_artifact(settings(link, folder, formats=("vectors",)), lambda _: None)
    # As when it is another one than its teachers were looked up for.
    with pytest.raises(UserError, match=r"gru4rec: found it replaced while it was read"):
        write_artifact(settings(models["gru4rec"], folder), lambda _: None, student="0" * 64)
    assert not folder.exists()


WRONG_CHECKS = {
    "no places": lambda check: {"items": check["items"][:, :0], "scores": check["scores"][:, :0]},
    "no histories": lambda check: {name: array[:0] for name, array in check.items()},
    "infinite rows": lambda check: {"history": np.full(check["history"].shape, np.inf)},
    "broken users": lambda check: {"users": check["users"] + 0.5},
}


@pytest.mark.parametrize("case", WRONG_CHECKS)
def test_a_self_check_that_checks_nothing_is_refused(models, tmp_path, case):
    folder = tmp_path / "artefact"
    write_artifact(settings(models["sasrec"], folder, formats=("vectors",)), lambda _: None)
    check = dict(np.load(folder / "check.npz"))
    np.savez(folder / "check.npz", **{**check, **WRONG_CHECKS[case](check)})
    with pytest.raises(UserError, match=r"check\.npz: found .*, expected history"):
        Recommender.load(folder)


def test_a_self_check_that_is_a_pipe_is_refused(models, tmp_path):
    """Loading the artefact doesn't wait for whoever writes into the pipe."""
    folder = tmp_path / "artefact"
    write_artifact(settings(models["sasrec"], folder, formats=("vectors",)), lambda _: None)
    (folder / "check.npz").unlink()
    os.mkfifo(folder / "check.npz")
    with pytest.raises(UserError, match=r"check\.npz: found no readable self-check"):
        Recommender.load(folder)


def test_nothing_is_replaced_unasked(models, tmp_path):
    """A folder of something else is never replaced, an artefact only with --overwrite."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="no artefact, expected a new or empty folder"):
            write_artifact(settings(models["fm"], other, overwrite=overwrite), lambda _: None)
    folder = tmp_path / "artefact"
    write_artifact(settings(models["fm"], folder, formats=("vectors",)), lambda _: None)
    again = settings(models["sasrec"], folder, formats=("vectors",))
    with pytest.raises(UserError, match="expected a new folder, or --overwrite"):
        write_artifact(again, lambda _: None)
    again = settings(models["sasrec"], folder, formats=("vectors",), overwrite=True)
    write_artifact(again, lambda _: None)
    assert (folder / "README.md").read_text().startswith("# SASRec")


def test_only_what_an_artefact_lists_is_replaced(models, tmp_path):
    """Any other file in the folder stops --overwrite before anything is deleted."""
    folder = tmp_path / "artefact"
    write_artifact(settings(models["fm"], folder, formats=("vectors",)), lambda _: None)
    again = settings(models["fm"], folder, formats=("vectors",), k=K - 1, overwrite=True)
    for name in ("thesis.txt", "vectors/thesis.txt"):
        (folder / name).write_text("years")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as refused:
            write_artifact(again, lambda _: None)
        assert str(refused.value) == (
            f"--output_dir: found {folder / name}, which manifest.json there doesn't list, "
            "expected only what export has written (move it, or take another folder)"
        )
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"found .*/late\.txt, which manifest\.json there doesn't"):
        write_artifact(again, lambda _: (folder / "late.txt").write_text("came meanwhile"))
    assert (folder / "late.txt").read_text() == "came meanwhile"
    (folder / "late.txt").unlink()
    write_artifact(again, lambda _: None)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json: missing or damaged .* another folder\)"):
        write_artifact(again, lambda _: None)


@pytest.mark.parametrize("name", ["model", "plain"])
def test_a_student_in_the_artefact_is_not_replaced_by_itself(models, tmp_path, name):
    """An export that reads its student from the folder it would replace is refused."""
    folder = tmp_path / "artefact"
    config = settings(models["fm"], folder, formats=("vectors",), plain=str(models["fm"]))
    write_artifact(config, lambda _: None)
    read = {"model": folder, "plain": folder / "plain"}[name]
    again = dataclasses.replace(config, overwrite=True, k=K - 1, **{name: str(read)})
    with pytest.raises(UserError, match=f"--output_dir: found {read}, which is read, in {folder}"):
        write_artifact(again, lambda _: None)
    assert check_artifact(folder)


def test_the_same_command_again_changes_nothing(models, tmp_path):
    """A finished export is checked and kept; other flags need --overwrite."""
    folder, said = tmp_path / "artefact", []
    config = settings(models["fm"], folder, formats=("vectors",))
    write_artifact(config, lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_artifact(config, said.append)
    assert said == [
        f"{folder}: made before, of this student with these flags",
        "vectors: give what the student gives",
    ]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    other = settings(models["fm"], folder, formats=("vectors",), k=K - 1)
    with pytest.raises(UserError, match="expected a new folder, or --overwrite"):
        write_artifact(other, lambda _: None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepfm", {"formats": ("vectors",)}, "found DeepFM, whose score is no inner product"),
        ("sasrec", {"k": 41}, "--k: found 41, expected at most 40 items"),
    ],
)
def test_what_can_not_be_exported_is_told_before_anything_is_written(
    models, tmp_path, name, changes, message
):
    folder = tmp_path / "artefact"
    config = ExportConfig(**{"model": str(models[name]), "output_dir": str(folder), **changes})
    with pytest.raises(UserError, match=re.escape(message)):
        write_artifact(config, lambda _: None)
    assert not folder.exists()


def test_without_the_extra_the_error_says_what_to_install(models, tmp_path, monkeypatch):
    for module in ("onnx", "prmkd_jax.serve.onnx_files", "prmkd_jax.serve.onnx_graph"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    config = settings(models["fm"], tmp_path / "artefact", formats=("onnx",))
    with pytest.raises(UserError, match="found no package onnx, expected pip install"):
        write_artifact(config, lambda _: None)


def test_the_command_exports(models, tmp_path):
    """It runs without torch and orbax, and each format passes its check."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'orbax', 'polars'): sys.modules[name] = None\n"
        "from experiments.__main__ import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", f"--model={models['gru4rec']}",
         f"--output_dir={tmp_path / 'out'}", "--formats=stablehlo,onnx,vectors"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "stablehlo: gives what the student gives",
        "onnx: gives what the student gives",
        "vectors: give what the student gives",
    ]
