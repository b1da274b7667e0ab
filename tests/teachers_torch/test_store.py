import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from teachers_torch import store
from teachers_torch.config import (
    PrecomputedConfig,
    RecformerConfig,
    UniM2RecConfig,
    UniSRecConfig,
)
from tests.teachers_torch.recformer_worlds import tiny_tokenizer
from tests.teachers_torch.worlds import settings_of, task_of, tune

SMALL = {"hidden_size": 8, "num_layers": 1, "inner_size": 4, "num_experts": 2, "max_epochs": 1}
SETTINGS = settings_of(UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL))


def tuned(name, dataset, tmp_path, settings=SETTINGS):
    return tune(name, dataset, settings, tmp_path)


def load(name, folder, dataset, settings=SETTINGS):
    return store.load(name, folder, task_of(dataset), settings, cache=Cache(folder), log=print)


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_a_teacher_comes_back_as_it_went(name, ring, tmp_path):
    """Vectors and card are equal, and no other file is left."""
    teacher, card = tuned(name, ring, tmp_path)
    store.save(teacher, card, tmp_path / "saved")
    again, its_card = load(name, tmp_path / "saved", ring)
    assert its_card == card
    ids = np.arange(len(ring.interactions.items))
    np.testing.assert_array_equal(again.encode_instances(ids), teacher.encode_instances(ids))
    np.testing.assert_array_equal(again.encode_items(), teacher.encode_items())
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "tuning"}


def test_recformer_comes_back_with_its_table(ring, tmp_path):
    """The table is the chosen one and not encoded anew by the last weights."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    config = RecformerConfig(
        init="random", tokenizer=str(tmp_path / "tiny"), hidden_size=8, num_layers=1,
        num_heads=2, max_tokens=16, decay_epochs=1,
    )  # fmt: skip
    settings = settings_of(config)
    teacher, card = tuned("recformer", ring, tmp_path, settings)
    store.save(teacher, card, tmp_path / "saved")
    again, its_card = load("recformer", tmp_path / "saved", ring, settings)
    assert its_card == card
    ids = np.arange(len(ring.interactions.items))
    np.testing.assert_array_equal(again.encode_instances(ids), teacher.encode_instances(ids))
    np.testing.assert_array_equal(again.encode_items(), teacher.encode_items())


def test_a_card_is_replaced_as_a_whole(ring, tmp_path):
    """The new card is read, the weights stay, and no other file is left."""
    teacher, card = tuned("unisrec", ring, tmp_path)
    store.save(teacher, card, tmp_path / "saved")
    store.save_card(dataclasses.replace(card, encode_seconds=7.0), tmp_path / "saved")
    assert load("unisrec", tmp_path / "saved", ring)[1].encode_seconds == 7.0
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"card.json", "weights.safetensors"}


def test_an_earlier_versions_card_is_read(ring, tmp_path):
    """It doesn't tell the seconds of the test apart."""
    teacher, card = tuned("unisrec", ring, tmp_path)
    store.save(teacher, card, tmp_path / "saved")
    path = tmp_path / "saved" / "card.json"
    content = read_sealed_json(path)
    del content["test_seconds"]
    write_sealed_json(path, content)
    assert store.read_card(tmp_path / "saved") == dataclasses.replace(card, test_seconds=None)


def test_saving_again_replaces(ring, tmp_path):
    """The card that is loaded is the second one."""
    teacher, card = tuned("unisrec", ring, tmp_path)
    for seed in (1, 2):
        store.save(teacher, dataclasses.replace(card, seed=seed), tmp_path / "saved")
    assert load("unisrec", tmp_path / "saved", ring)[1].seed == 2


def test_precomputed_has_a_card_and_no_weights(ring, tmp_path):
    """The user's own arrays aren't copied, and the card comes back."""
    np.save(tmp_path / "items.npy", np.ones((20, 2)))
    np.save(tmp_path / "instances.npy", np.ones((len(ring.interactions.items), 2)))
    settings = settings_of(PrecomputedConfig(folder=str(tmp_path)))
    teacher, card = tuned("precomputed", ring, tmp_path, settings)
    store.save(teacher, card, tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["card.json"]
    assert load("precomputed", tmp_path / "saved", ring, settings)[1] == card


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors: found"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "weights that fit"),
        (
            lambda folder: (folder / "card.json").unlink(),
            r"card\.json: missing or damaged, expected a teacher card",
        ),
        (lambda folder: (folder / "card.json").write_text("{"), "expected a teacher card"),
        (
            lambda folder: (folder / "card.json").write_text('{"name": 1}'),
            "expected a teacher card",
        ),
    ],
)
def test_damage_is_reported_in_one_line(ring, tmp_path, damage, message):
    """The line names the weights or the card, missing or damaged."""
    teacher, card = tuned("unisrec", ring, tmp_path)
    store.save(teacher, card, tmp_path / "saved")
    damage(tmp_path / "saved")
    with pytest.raises(UserError, match=message) as error:
        load("unisrec", tmp_path / "saved", ring)
    assert "\n" not in str(error.value)


def test_weights_of_another_configuration_are_refused(ring, tmp_path):
    """Weights of another width or of another teacher don't fit."""
    teacher, card = tuned("unisrec", ring, tmp_path)
    store.save(teacher, card, tmp_path / "saved")
    settings = settings_of(UniSRecConfig(**{**SMALL, "hidden_size": 10}), base=SETTINGS)
    with pytest.raises(UserError, match="weights that fit"):
        load("unisrec", tmp_path / "saved", ring, settings)
    with pytest.raises(UserError, match="weights that fit"):
        load("unisrec-text", tmp_path / "saved", ring)
