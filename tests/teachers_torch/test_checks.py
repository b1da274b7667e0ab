"""What is found wrong before the hours, kind by kind."""

import dataclasses

import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import PretrainConfig, TextConfig, UniM2RecConfig, UniSRecConfig
from teachers_torch.registry import kind
from teachers_torch.sequence.pretrain import pretrain
from tests.teachers_torch.worlds import ring_world, settings_of, task_of

SMALL = {"hidden_size": 8, "num_layers": 1, "inner_size": 8, "num_experts": 2, "batch_size": 48}
SETTINGS = settings_of(UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL), max_seq_len=10)


def check(name, dataset, settings, folder):
    kind(name).check(task_of(dataset), settings, Cache(folder / "cache"))


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_good_inputs_pass_and_nothing_is_written(name, ring, tmp_path):
    """A check encodes nothing, so there is no cache folder after it."""
    check(name, ring, SETTINGS, tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unisrec", {"configs": [UniSRecConfig(batch_size=9)]}, "--teacher_batch_size: found 9"),
        ("unisrec", {"init": {"unisrec": "/nowhere"}}, "--init: /nowhere: no such file"),
        ("unim2rec", {"init": {"unim2rec": "/nowhere"}}, "--init: /nowhere: no such file"),
        ("recformer", {"init": {"recformer": "/nowhere"}}, "--init: recformer=/nowhere: expected"),
        ("unisrec", {"text": TextConfig(text_features="/x.feat1CLS")}, r"item2index: found no"),
        ("precomputed", {}, "--precomputed_folder: found nothing"),
    ],
)
def test_mistakes_are_found(name, changes, message, ring, tmp_path):
    """Wrong settings and missing files are found by the check, before any tuning."""
    changes = dict(changes)
    settings = settings_of(*changes.pop("configs", []), base=SETTINGS, **changes)
    with pytest.raises(UserError, match=message):
        check(name, ring, settings, tmp_path)


def test_items_without_texts_or_images_are_found(ring, tmp_path):
    """The check says that RecFormer needs texts and UniM2Rec needs images."""
    bare = dataclasses.replace(ring, catalogue=Catalogue({}))
    with pytest.raises(UserError, match="found no text in any item's title, brand, categories"):
        check("recformer", bare, SETTINGS, tmp_path)
    with pytest.raises(UserError, match="data set ring: found no images, expected some"):
        check("unim2rec", bare, SETTINGS, tmp_path)


def test_initial_weights_that_do_not_fit_are_found(ring, tmp_path):
    """The check names the size that differs from the checkpoint's."""
    config = PretrainConfig(epochs=1, batch_size=64)
    few = dataclasses.replace(ring_world(users=12), name="elsewhere")
    out = tmp_path / "out"
    pretrain(
        "unisrec", [few], SETTINGS, config, out,
        cache=Cache(tmp_path / "cache"), seed=0, log=lambda event: None,
    )  # fmt: skip
    settings = dataclasses.replace(SETTINGS, init={"unisrec": str(out)})
    check("unisrec", ring, settings, tmp_path)
    other = settings_of(UniSRecConfig(**{**SMALL, "hidden_size": 16}), base=settings)
    with pytest.raises(UserError, match="--teacher_hidden_size: found 16, expected 8"):
        check("unisrec", ring, other, tmp_path)


@pytest.mark.parametrize("name", ["unisrec", "unim2rec"])
def test_domains_are_checked_too(name, ring, tmp_path):
    """A domain without images passes, and a missing file of texts doesn't."""
    plain = dataclasses.replace(ring, catalogue=Catalogue(ring.catalogue.texts))
    pretraining = kind(name).pretraining
    pretraining.check([ring, plain], SETTINGS, Cache(tmp_path))
    files = dataclasses.replace(SETTINGS, text=TextConfig(text_features="/x.feat1CLS"))
    with pytest.raises(UserError, match=r"item2index: found no"):
        pretraining.check([ring], files, Cache(tmp_path))
