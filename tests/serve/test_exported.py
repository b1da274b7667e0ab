import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.serve.exported import CARD, WEIGHTS, export_student, read_export
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.student import create_student
from tests.students import fields
from tests.worlds import facts, random_world, same_bits, student_config

WORLD = random_world()
FACTS = facts(WORLD)
CONFIG = student_config()


def params_of(config=CONFIG):
    params = nnx.to_pure_dict(create_student(config, FACTS, 2)[1])
    return jax.tree.map(np.asarray, params)


@pytest.fixture
def folder(tmp_path):
    export_student(tmp_path / "student", params_of(), CONFIG, FACTS)
    return tmp_path / "student"


def test_files_can_be_read_without_this_project(folder):
    """A name, a matrix or an id that only our own code finds."""
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    params = params_of()
    np.testing.assert_array_equal(
        weights["blocks.0.qkv.kernel"], params["blocks"][0]["qkv"]["kernel"]
    )
    assert len(weights) == len(jax.tree.leaves(params))
    card = json.loads((folder / CARD).read_text())
    assert card["config"] == json.loads(json.dumps(vars(CONFIG)))
    assert card["max_seq_len"] == FACTS.max_seq_len
    assert card["item_ids"] == list(WORLD.item_ids)
    assert card["user_ids"] is None
    assert [path.name for path in folder.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_written_is_read(tmp_path, name):
    """A parameter that is cut, transposed or left out."""
    config = student_config(student=name)
    export_student(tmp_path / "student", params_of(config), config, FACTS)
    assert same_bits(read_export(tmp_path / "student", config, FACTS), params_of(config))


def test_settings_that_make_another_model_are_refused(folder):
    """Weights read under another number of heads, which no shape tells."""
    assert same_bits(read_export(folder, student_config(dropout=0.1), FACTS), params_of())
    with pytest.raises(UserError) as error:
        read_export(folder, student_config(num_heads=3), FACTS)
    assert str(error.value) == f"--num_heads: found 3, expected 2 as in {folder / CARD}"
    assert same_bits(read_export(folder, student_config(gru_size=5), FACTS), params_of())
    with pytest.raises(UserError, match="--student: found 'gru4rec', expected 'sasrec'"):
        read_export(folder, student_config(student="gru4rec"), FACTS)


def test_other_items_are_refused_and_other_users_where_they_have_vectors(tmp_path, folder):
    """Rows that stand for other items or users."""
    with pytest.raises(UserError, match="item_ids: found 40 that differ from the data set's 30"):
        read_export(folder, CONFIG, facts(random_world(items=30)))
    others = facts(random_world(users=50))
    read_export(folder, CONFIG, others)
    for student in ("lightgcn", "fm", "deepfm"):
        config = student_config(student=student)
        export_student(tmp_path / student, params_of(config), config, FACTS)
        with pytest.raises(UserError, match="user_ids: found 60 that differ from the data set's 5"):
            read_export(tmp_path / student, config, others)


def test_other_brands_are_refused_where_they_have_vectors(tmp_path):
    """A brand that was renamed: the rows of all behind it, of equal shape, mean others."""
    texts = {**fields.TEXTS, "brand": tuple(b.replace("Acme", "Zoom") for b in fields.BRANDS)}
    renamed = dataclasses.replace(fields.WORLD, catalogue=Catalogue(texts))
    for student in ("fm", "deepfm", "sasrec"):
        config = student_config(student=student)
        params = nnx.to_pure_dict(create_student(config, facts(fields.WORLD), 0)[1])
        export_student(tmp_path / student, params, config, facts(fields.WORLD))
        assert same_bits(read_export(tmp_path / student, config, facts(fields.WORLD)), params)
    for student in ("fm", "deepfm"):
        with pytest.raises(UserError, match="brand: found 2 that differ from the data set's 2"):
            read_export(tmp_path / student, student_config(student=student), facts(renamed))
    read_export(tmp_path / "sasrec", CONFIG, facts(renamed))


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_a_damaged_file_is_told_in_one_line(folder, file):
    """A traceback out of a library."""
    (folder / file).write_bytes(b"{")
    with pytest.raises(UserError, match=r"found no whole student\.json and weights") as error:
        read_export(folder, CONFIG, FACTS)
    assert "\n" not in str(error.value)


def test_an_older_export_is_replaced(folder):
    """A file of an earlier export that survives beside the new ones."""
    (folder / "recbole.pth").write_text("old")
    export_student(folder, params_of(), CONFIG, FACTS)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, WEIGHTS])
