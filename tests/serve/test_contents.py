"""Exports and artefacts with right digests and wrong content: one line that names the field."""

import io
import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.serve import exported as exports
from prmkd_jax.serve.artifact import check_artifact, write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.exported import CARD, IDS, SERVED, WEIGHTS, read_exported, read_params
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.registry import window
from tests.serve.exports import export
from tests.students import fields
from tests.worlds import MAX_SEQ_LEN, facts, student_config

WORLD = fields.WORLD
ITEMS = [f"i{row}" for row in range(WORLD.num_items)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: export(root / name, WORLD, 1, name) for name in ("sasrec", "lightgcn", "fm")}


@pytest.fixture(scope="module")
def artefact(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artefact") / "made"
    config = ExportConfig(model=str(models["sasrec"]), output_dir=str(folder), formats=("vectors",))
    write_artifact(config, lambda _: None)
    return folder


def forge(source, folder, changes):
    """A copy in which parts are replaced and all digests are right.

    Args:
        source: the export.
        folder: the copy.
        changes: of the card; of the ids under "ids", of the arrays under "served". None removes.
    """
    shutil.copytree(source, folder)
    card = json.loads((folder / CARD).read_text())
    ids, served = changes.pop("ids", {}), changes.pop("served", {})
    if ids:
        known = json.loads((folder / IDS).read_text())
        (folder / IDS).write_text(json.dumps(without_none({**known, **ids})))
    if served:
        arrays = safetensors.numpy.load_file(folder / SERVED)
        (folder / SERVED).write_bytes(safetensors.numpy.save(without_none({**arrays, **served})))
    for name in (IDS, SERVED):
        card["files"][name] = file_digest(folder / name)
    for name, value in changes.items():
        group, _, part = name.rpartition(".")
        place = card[group] if group else card
        place[part] = value
        if value is REMOVED:
            del place[part]
    del card["digest"]
    (folder / CARD).write_text(json.dumps({**card, "digest": content_digest(card)}))
    return folder


REMOVED = object()


def without_none(values):
    return {name: value for name, value in values.items() if value is not REMOVED}


FORGED = {
    "no facts": ("sasrec", {"facts": REMOVED}, "facts: found None, expected an object"),
    "facts as a list": ("sasrec", {"facts": []}, "facts: found [], expected an object"),
    "items as text": ("sasrec", {"facts.items": "40"}, "facts.items: found 40, expected a whole"),
    "half an item": ("sasrec", {"facts.items": 40.5}, "facts.items: found 40.5, expected a whole"),
    "true items": ("sasrec", {"facts.items": True}, "facts.items: found True, expected a whole"),
    "too many": ("sasrec", {"facts.users": 10**12}, "facts.users: found 1000000000000, expected"),
    "no window": ("sasrec", {"facts.window": None}, "facts.window: found None, expected a whole"),
    "more items": ("sasrec", {"facts.items": 41}, "item_ids: found 40 of them, expected 41"),
    "no config": ("sasrec", {"config": REMOVED}, "config: found None, expected an object"),
    "an unknown student": ("sasrec", {"config": {}}, "student: found None"),
    "a width as text": (
        "sasrec", {"config.hidden_size": "8"}, "config.hidden_size: found 8, expected int"
    ),
    "a width below 1": ("sasrec", {"config.hidden_size": -8}, "config.hidden_size: found -8"),
    "sizes of text": ("sasrec", {"config.mlp_sizes": ["8"]}, "config.mlp_sizes: found "),
    "no files": ("sasrec", {"files": REMOVED}, "files: found None, expected an object"),
    "no label": ("sasrec", {"label": 7}, "label: found 7, expected text"),
    "no data": ("sasrec", {"dataset": {}}, "dataset.name: found None, expected text"),
    "no ids": ("sasrec", {"ids": {"item_ids": REMOVED}}, "item_ids: found None, expected a list"),
    "numbers": ("sasrec", {"ids": {"item_ids": [1]}}, "item_ids: found [1], expected a list of"),
    "fewer ids": ("sasrec", {"ids": {"item_ids": ["i1"]}}, "item_ids: found 1 of them, expected"),
    "one id twice": ("sasrec", {"ids": {"item_ids": ["i"] * 40}}, "item_ids: found one id twice"),
    "few titles": ("sasrec", {"ids": {"titles": ["a"]}}, "titles: found 1 of them, expected 40"),
    "half a title": (
        "sasrec", {"ids": {"titles": ["\ud83d"] * 40}}, r"titles: found '\ud83d', expected text"
    ),
    "half a label": ("sasrec", {"label": "\ud83d"}, "label: found \ud83d, expected text"),
    "no user ids": ("fm", {"ids": {"user_ids": None}}, "user_ids: found None, expected a list of"),
    "one user twice": (
        "lightgcn", {"ids": {"user_ids": ["u"] * WORLD.num_users}}, "user_ids: found one id twice"
    ),
    "no finished users": (
        "lightgcn", {"served": {"users": REMOVED}}, "users: found nothing, expected "
    ),
    "finished users of a student without": (
        "sasrec", {"served": {"users": np.ones((WORLD.num_users, 8), np.float32)}},
        f"users: found float32 of shape ({WORLD.num_users}, 8), expected none for this student",
    ),
    "a fold-in of a student without": (
        "fm", {"served": {"fold_in": np.ones((40, 8), np.float32)}}, "fold_in: found float32 of sh"
    ),
    "a window of months": (
        "sasrec", {"facts.window": 2**31 - 1},
        "facts.window: found 2147483647, expected a whole number, at least 1, at most 65536",
    ),
    "words as a number": ("fm", {"fields": {"brand": 3}}, "fields: found {'brand': 3}, expected"),
    "few users": ("fm", {"ids": {"user_ids": ["u"]}}, "user_ids: found 1 of them, expected "),
    "no fields": ("fm", {"ids": {"fields": None}}, "fields: found None, expected an object"),
    "fewer words": ("fm", {"ids": {"fields": {"brand": []}}}, "field.brand: found numbers past"),
    "no table": ("sasrec", {"served": {"items": REMOVED}}, "items: found nothing, expected 40"),
    "a short table": (
        "sasrec", {"served": {"items": np.zeros((3, 8), np.float32)}}, "items: found float32 of sha"
    ),
    "a narrow table": (
        "sasrec", {"served": {"items": np.zeros((40, 5), np.float32)}},
        "items: found float32 of shape (40, 5), expected ",
    ),
    "narrow users": (
        "lightgcn", {"served": {"users": np.zeros((WORLD.num_users, 5), np.float32)}},
        f"users: found float32 of shape ({WORLD.num_users}, 5), expected ",
    ),
    "a number for a fingerprint": (
        "sasrec", {"dataset.fingerprint": 7}, "dataset.fingerprint: found 7, expected text"
    ),
    "metrics as text": (
        "sasrec", {"record": {"validation": {"NDCG@10": "x"}}}, "record.validation: found {'NDCG@10"
    ),
    "half a split": ("sasrec", {"record": {"split": {"name": "a"}}}, "record.split: found {"),
    "half a teacher": (
        "sasrec", {"record": {"teachers": {"a": {"label": "A", "parameters": "x"}}}},
        "record.teachers: found {'a': {'",
    ),
    "thousands of layers": ("fm", {"config.mlp_sizes": [1] * 4000}, "found 4000 of them, expect"),
    "whole numbers": (
        "sasrec", {"served": {"items": np.zeros((40, 8), np.int32)}}, "items: found int32, expected"
    ),
    "infinite": (
        "sasrec", {"served": {"items": np.full((40, 8), np.inf, np.float32)}}, "found nan or infin"
    ),
    "edges past the end": (
        "lightgcn", {"served": {"edges": np.full((2, 3), 10**6, np.int32)}}, "edges: found numbers"
    ),
    "negative edges": (
        "lightgcn", {"served": {"edges": np.full((2, 3), -1, np.int32)}}, "edges: found numbers"
    ),
    "three rows of edges": (
        "lightgcn", {"served": {"edges": np.zeros((3, 3), np.int32)}}, "edges: found int32 of shape"
    ),
    "users of other rows": (
        "lightgcn", {"served": {"users": np.zeros((2, 8), np.float32)}}, "users: found float32 of s"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_wrong_content_under_right_digests_is_told_by_its_field(case, models, tmp_path):
    """One short line names the field, and nothing is read from the folder."""
    student, changes, message = FORGED[case]
    folder = forge(models[student], tmp_path / "forged", dict(changes))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_exported(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(folder)) < 250


@pytest.mark.parametrize("ids", [{"item_ids": REMOVED}, {"user_ids": REMOVED}, {"item_ids": 3}])
def test_a_start_reads_wrong_ids_as_little_as_serving_does(ids, models, tmp_path):
    folder = forge(models["fm"], tmp_path / "forged", {"ids": dict(ids)})
    config = student_config(student="fm")
    known = facts(WORLD, window(config, MAX_SEQ_LEN))
    read_params(models["fm"], config, known, WORLD)
    with pytest.raises(UserError, match=rf"ids\.json: {next(iter(ids))}: found (None|3), expected"):
        read_params(folder, config, known, WORLD)


@pytest.mark.parametrize(
    ("reader", "name"), [("serving", WEIGHTS), ("serving", SERVED), ("start", WEIGHTS)]
)
def test_files_of_two_exports_are_never_read_as_one(reader, name, models, tmp_path, monkeypatch):
    """A student that is replaced between the look at its digests and the reading: the card of one
    with the vectors of the other."""
    folder, other = tmp_path / "student", export(tmp_path / "other", WORLD, 2)
    shutil.copytree(models["sasrec"], folder)
    real = exports._load_arrays

    def swapped(path):
        if path.name == name:
            os.replace(other / name, path)
        return real(path)

    def read():
        if reader == "serving":
            read_exported(folder)
        else:
            read_params(folder, student_config(), facts(WORLD, MAX_SEQ_LEN), WORLD)

    monkeypatch.setattr(exports, "_load_arrays", swapped)
    with pytest.raises(UserError, match=f"{folder}: found it replaced while it was read"):
        read()


def test_a_copy_with_nothing_changed_is_read(models, tmp_path):
    """The cases above are refused for what was changed, not for the copying."""
    for name, folder in models.items():
        assert read_exported(forge(folder, tmp_path / name, {})).item_ids == tuple(ITEMS)


def rewrite(folder, name, content):
    """Another content of a file, under a right digest."""
    (folder / name).write_bytes(content)
    manifest = read_sealed_json(folder / "manifest.json")
    manifest["files"][name] = file_digest(folder / name)
    write_sealed_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("artifact.json", b"[]", "artifact.json: found no JSON object"),
        ("artifact.json", b"{}", "artifact.json: formats: found None, expected some of"),
        ("artifact.json", b'{"formats": ["exe"]}', "formats: found ['exe'], expected some of"),
        ("artifact.json", b'{"formats": [[]]}', "formats: found [[]], expected some of"),
        ("artifact.json", b"[" * 9999, "artifact.json: found no readable JSON"),
        ("check.npz", b"", "check.npz: found no readable self-check"),
        ("check.npz", b"PK\3\4 no zip", "check.npz: found no readable self-check"),
        ("vectors/items.npy", b"no array", "vectors: found files that can't be run"),
    ],
)
def test_a_wrong_part_of_an_artefact_is_told_in_one_line(
    artefact, tmp_path, name, content, message
):
    folder = tmp_path / "forged"
    shutil.copytree(artefact, folder)
    rewrite(folder, name, content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_artifact(folder)
    assert "\n" not in str(caught.value)


def test_a_list_in_place_of_the_digests_is_told_when_it_would_be_made_again(
    artefact, models, tmp_path
):
    folder = tmp_path / "forged"
    shutil.copytree(artefact, folder)
    write_sealed_json(folder / "manifest.json", {"format": 1, "files": []})
    config = ExportConfig(model=str(models["sasrec"]), output_dir=str(folder), formats=("vectors",))
    with pytest.raises(UserError, match=r"manifest\.json: files: found none, expected names and"):
        write_artifact(config, lambda _: None)


def test_a_self_check_that_is_packed_in_another_way_is_told(artefact, tmp_path):
    """The line names check.npz; there is no traceback from the zip reader."""
    folder = tmp_path / "packed"
    shutil.copytree(artefact, folder)
    with np.load(folder / "check.npz") as file:
        np.savez_compressed(folder / "check.npz", **file)
    content = bytearray((folder / "check.npz").read_bytes())
    content[4] = 255  # the version of zip that is needed
    content[60:64] = b"\xff" * 4
    (folder / "check.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"check\.npz: found no readable self-check"):
        Recommender.load(folder)


def test_the_loader_runs_the_self_check(artefact, tmp_path):
    """Other answers under right digests are refused when the artefact is opened."""
    Recommender.load(artefact)
    folder = tmp_path / "other"
    shutil.copytree(artefact, folder)
    with np.load(folder / "check.npz") as file:
        check = dict(file)
    np.savez(folder / "check.npz", **{**check, "scores": check["scores"] + 1})
    with pytest.raises(UserError, match="gives other items or scores than the student"):
        Recommender.load(folder)
    for name, array in (
        ("items", check["items"][0]),
        ("history", check["history"].astype(str)),
        ("users", check["users"][:2]),
        ("scores", check["scores"][:, :2]),
    ):
        np.savez(folder / "check.npz", **{**check, name: array})
        with pytest.raises(UserError, match=r"check\.npz: found .*, expected history, users"):
            Recommender.load(folder)
    np.savez(folder / "check.npz", **{**check, "history": check["history"] + 1000})
    with pytest.raises(UserError, match="found rows that the student doesn't have"):
        Recommender.load(folder)


def npz_member(name, shape, data):
    """A zip with one array whose header claims a shape."""
    header = io.BytesIO()
    claimed = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, claimed)
    return {f"{name}.npy": header.getvalue() + data}


@pytest.mark.parametrize(
    "members",
    [npz_member("items", (10**13,), b""), npz_member("items", (2**23,), bytes(2**25))],
    ids=["a claim that no memory holds", "zeros that are small when packed"],
)
def test_a_self_check_takes_no_more_memory_than_one_needs(artefact, tmp_path, members):
    folder = tmp_path / "bomb"
    shutil.copytree(artefact, folder)
    with zipfile.ZipFile(folder / "check.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert (folder / "check.npz").stat().st_size < 10**5
    with pytest.raises(UserError, match=r"check\.npz: found no readable self-check"):
        Recommender.load(folder)
