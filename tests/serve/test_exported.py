import dataclasses
import json
import os
import stat

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve.exported import (
    CARD,
    IDS,
    SERVED,
    WEIGHTS,
    export_student,
    read_exported,
    read_params,
)
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from tests.students import fields
from tests.worlds import MAX_SEQ_LEN, facts, random_world, same_bits, student_config

WORLD = random_world()
CONFIG = student_config()


def facts_of(config, world=WORLD):
    return facts(world, window(config, MAX_SEQ_LEN))


FACTS = facts_of(CONFIG)


def params_of(config=CONFIG, world=WORLD):
    params = nnx.to_pure_dict(create_student(config, facts_of(config, world), 2)[1])
    return jax.tree.map(np.asarray, params)


def exported(folder, config=CONFIG, world=WORLD, **more):
    """A student written to the folder; its parameters."""
    params = params_of(config, world)
    export_student(folder, params, config, facts_of(config, world), world, **more)
    return params


@pytest.fixture
def folder(tmp_path):
    exported(tmp_path / "student")
    return tmp_path / "student"


def test_files_can_be_read_without_this_project(folder):
    """Names, matrices and ids are found by safetensors and JSON alone."""
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    params = params_of()
    np.testing.assert_array_equal(
        weights["blocks.0.qkv.kernel"], params["blocks"][0]["qkv"]["kernel"]
    )
    assert len(weights) == len(jax.tree.leaves(params))
    card = json.loads((folder / CARD).read_text())
    assert card["config"] == json.loads(json.dumps(vars(CONFIG)))
    assert [card["format"], card["name"], card["label"]] == [2, "sasrec", "SASRec"]
    assert card["facts"]["window"] == FACTS.window
    ids = json.loads((folder / IDS).read_text())
    assert ids["item_ids"] == list(WORLD.item_ids)
    assert ids["user_ids"] is None
    served = safetensors.numpy.load_file(folder / SERVED)
    np.testing.assert_array_equal(served["items"], params["item_embedding"]["table"])
    assert [path.name for path in folder.parent.iterdir()] == ["student"]


def test_files_are_readable_by_others(folder):
    """The modes are what the umask leaves of 0666."""
    umask = os.umask(0)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_written_is_read(tmp_path, name):
    """Parameters, facts and finished tables come back, with the data set and without it."""
    config, world = student_config(student=name), fields.WORLD
    params = exported(tmp_path / "student", config, world, record={"seed": 2})
    known = facts_of(config, world)
    assert same_bits(read_params(tmp_path / "student", config, known, world), params)
    found = read_exported(tmp_path / "student")
    assert same_bits(found.params, params)
    assert found.config == config
    assert found.card["record"] == {"seed": 2}
    assert found.item_ids == world.item_ids
    assert found.facts == known.only(frozenset(found.facts.item_fields and {"item_fields"}))
    student = nnx.merge(create_student(config, known, 0)[0], nnx.State(params))
    np.testing.assert_allclose(found.items, student.items(), atol=1e-6)


def test_no_training_interaction_is_exported_that_scoring_does_not_read(tmp_path):
    """LightGCN is served from its smoothed tables, not from the graph of who bought what."""
    config = student_config(student="lightgcn")
    exported(tmp_path, config)
    assert safetensors.numpy.load_file(tmp_path / SERVED)["edges"].shape == (2, 0)
    assert read_exported(tmp_path).users.shape == (WORLD.num_users, config.hidden_size)


def test_settings_that_make_another_model_are_refused(folder):
    """Heads must agree, which no shape shows; options that the student doesn't read needn't."""
    assert same_bits(read_params(folder, student_config(dropout=0.1), FACTS, WORLD), params_of())
    with pytest.raises(UserError) as error:
        read_params(folder, student_config(num_heads=3), FACTS, WORLD)
    assert str(error.value) == f"--num_heads: found 3, expected 2 as in {folder / CARD}"
    assert same_bits(read_params(folder, student_config(gru_size=5), FACTS, WORLD), params_of())
    with pytest.raises(UserError, match="--student: found 'gru4rec', expected 'sasrec'"):
        read_params(folder, student_config(student="gru4rec"), FACTS, WORLD)


def test_other_items_are_refused_and_other_users_where_they_have_vectors(tmp_path, folder):
    """A row has to stand for the same item, and a user's row for the same user."""
    fewer = random_world(items=30)
    with pytest.raises(UserError, match="item_ids: found 40 that differ from the data set's 30"):
        read_params(folder, CONFIG, facts(fewer), fewer)
    others = random_world(users=50)
    read_params(folder, CONFIG, facts(others), others)
    for student in ("lightgcn", "fm", "deepfm"):
        config = student_config(student=student)
        exported(tmp_path / student, config)
        with pytest.raises(UserError, match="user_ids: found 60 that differ from the data set's 5"):
            read_params(tmp_path / student, config, facts_of(config, others), others)


def test_other_brands_are_refused_where_they_have_vectors(tmp_path):
    """A renamed brand would move the rows of those after it without changing the shape."""
    texts = {**fields.TEXTS, "brand": tuple(b.replace("Acme", "Zoom") for b in fields.BRANDS)}
    renamed = dataclasses.replace(fields.WORLD, catalogue=Catalogue(texts))
    for student in ("fm", "deepfm"):
        config = student_config(student=student)
        exported(tmp_path / student, config, fields.WORLD)
        with pytest.raises(UserError, match="brand: found 2 that differ from the data set's 2"):
            read_params(tmp_path / student, config, facts(renamed), renamed)
    exported(tmp_path / "sasrec", CONFIG, fields.WORLD)
    read_params(tmp_path / "sasrec", CONFIG, facts(renamed), renamed)


@pytest.mark.parametrize("file", [WEIGHTS, SERVED, IDS, CARD])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_reported_in_one_line_that_names_it(folder, file, damage):
    """Digests are checked before anything is believed."""
    content = (folder / file).read_bytes()
    if damage == "gone":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content[:-9] if damage == "cut" else flipped(content))
    with pytest.raises(UserError) as error:
        read_exported(folder)
    assert str(error.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(error.value)


def test_the_folder_of_a_run_is_answered_with_a_student_in_it(tmp_path):
    """For the folder that `train` was given, the message names the distilled student."""
    for name in ("sasrec-base-seed0", "sasrec-prmkd-seed0"):
        exported(tmp_path / "run/students" / name)
    best = tmp_path / "run/students/sasrec-prmkd-seed0"
    for folder in (tmp_path / "run", tmp_path / "run/students"):
        with pytest.raises(UserError) as error:
            read_exported(folder)
        assert str(error.value) == (
            f"{folder / CARD}: missing, expected an exported student, such as {best}"
        )


def flipped(content: bytes) -> bytes:
    """The same with another digit or byte near the end."""
    places = [content.rfind(b"%d" % digit) for digit in range(10)]
    place = max(places) if content.startswith(b"{") else len(content) - 20
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_an_export_of_an_older_format_is_told_to_be_made_again(folder):
    """A card without a format counts as format 1."""
    card = json.loads((folder / CARD).read_text())
    del card["format"], card["digest"]
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError) as error:
        read_exported(folder)
    expected = f"{folder / CARD}: format: found 1, expected 2: export the student again"
    assert str(error.value) == expected


def test_a_class_that_is_not_installed_is_named(folder):
    """The message has the student's name and the class that the machine lacks."""
    card = json.loads((folder / CARD).read_text())
    del card["digest"]
    card["config"]["student"], card["class"] = "fading", {"class": "my_package.own:Fading"}
    (folder / CARD).write_text(json.dumps({**card, "digest": content_digest(card)}))
    with pytest.raises(UserError, match=r"found 'fading' \(my_package\.own:Fading\), which is not"):
        read_exported(folder)


def test_an_older_export_is_replaced(folder):
    """No file of an earlier export stays next to the new ones."""
    (folder / "recbole.pth").write_text("old")
    exported(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, IDS, SERVED, WEIGHTS])
    card = json.loads((folder / CARD).read_text())
    assert card["files"][WEIGHTS] == file_digest(folder / WEIGHTS)
