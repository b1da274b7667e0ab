import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.splits import leave_one_out
from teachers_torch.config import (
    PretrainConfig,
    TeacherConfigs,
    TextConfig,
    UniM2RecConfig,
    UniSRecConfig,
)
from teachers_torch.registry import build
from teachers_torch.sequence.official import write_official
from teachers_torch.sequence.pretrain import pretrain
from teachers_torch.tuning import fingerprint, tune
from tests.teachers_torch.sequence.test_pretrain import with_pixels, without_pictures
from tests.teachers_torch.worlds import ring_world

SMALL = {
    "hidden_size": 8, "num_layers": 1, "inner_size": 8, "num_experts": 2, "dropout": 0.0,
    "batch_size": 48, "max_epochs": 2, "learning_rate": 1e-2,
}  # fmt: skip
CONFIGS = TeacherConfigs(
    unisrec=UniSRecConfig(**SMALL), unim2rec=UniM2RecConfig(**SMALL), max_seq_len=10
)
FROZEN = ("position_embedding.", "trm_encoder.")


def pretrained(family, domains, folder, configs=CONFIGS):
    """Pre-trains for a moment; returns the configurations that start from it."""
    config = PretrainConfig(epochs=1, batch_size=64)
    out = folder / f"{family}-{domains[0].name}"
    pretrain(family, domains, configs, config, out, cache_dir=folder, seed=0, log=lambda e: None)
    return dataclasses.replace(configs, checkpoints={family: str(out)}), out


def tuned(name, dataset, configs, folder):
    split = leave_one_out(dataset.interactions)
    return tune(name, dataset, split, configs, cache_dir=folder, seed=0, log=lambda event: None)


@pytest.fixture
def domain(ring):
    """The pre-training domain: fewer users than the target, the same texts' encoder."""
    return dataclasses.replace(ring_world(users=12), name="elsewhere")


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_tuning_starts_there_and_leaves_the_encoder(name, ring, domain, tmp_path):
    """A start that isn't loaded, a frozen part that moves, a card that doesn't say it."""
    configs, out = pretrained(name.removesuffix("-text"), [domain], tmp_path)
    start = safetensors.torch.load_file(out / "weights.safetensors")
    untuned = build(name, ring, configs, tmp_path, lambda event: None)
    for key, value in untuned.model.state_dict().items():
        assert key == "item_embedding.weight" or torch.equal(value, start[key]), key
    teacher, card = tuned(name, ring, configs, tmp_path)
    assert card.start.startswith("pre-trained on elsewhere, 1 epochs (sha256 ")
    for key, value in teacher.model.state_dict().items():
        if key != "item_embedding.weight" and "placeholder" not in key:
            assert torch.equal(value, start[key]) is key.startswith(FROZEN), key


def test_encoder_is_trained_where_so_asked(ring, domain, tmp_path):
    """The option without effect."""
    free = UniSRecConfig(**SMALL, freeze_encoder=False)
    configs, out = pretrained("unisrec", [domain], tmp_path)
    configs = dataclasses.replace(configs, unisrec=free)
    teacher, _ = tuned("unisrec", ring, configs, tmp_path)
    start = safetensors.torch.load_file(out / "weights.safetensors")
    state = teacher.model.state_dict()
    moved = [key for key in start if not torch.equal(state[key], start[key])]
    assert any(key.startswith("trm_encoder.") for key in moved)
    assert "position_embedding.weight" in moved


def test_without_a_checkpoint_nothing_is_frozen(ring, tmp_path):
    """The default that freezes random weights."""
    teacher = build("unisrec", ring, CONFIGS, tmp_path, lambda event: None)
    assert all(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.start == "random"


def test_target_with_pictures_may_start_from_domains_without(ring, domain, tmp_path):
    """A refusal of the only real corpora there are, or an image adaptor that is frozen."""
    configs, _ = pretrained("unim2rec", [without_pictures(domain)], tmp_path)
    model = build("unim2rec", ring, configs, tmp_path, lambda event: None).model
    assert model.adaptors[1].w_gate.requires_grad
    assert model.adaptors[1].w_gate.shape[0] == 5


def test_pixels_are_read_by_the_pretrained_vision_encoder(ring, domain, tmp_path):
    """Raw pixels in place of the encoder's vectors, or a picture given to another item."""
    configs, out = pretrained("unim2rec", [with_pixels(domain)], tmp_path)
    target = with_pixels(ring)
    model = build("unim2rec", target, configs, tmp_path, lambda event: None).model
    start = safetensors.torch.load_file(out / "weights.safetensors")
    x = torch.from_numpy(target.catalogue.image_features[target.catalogue.image_rows].astype("f4"))
    x = x[target.catalogue.image_rows >= 0].reshape(-1, 4, 4, 3).permute(0, 3, 1, 2) - 0.5
    for layer in range(3):
        kernel, bias = (start[f"vision.layers.{layer}.{part}"] for part in ("weight", "bias"))
        x = torch.nn.functional.gelu(
            torch.nn.functional.conv2d(x, kernel, bias, stride=2, padding=1)
        )
    x = x.mean(dim=(2, 3))
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = x * start["vision.norm.weight"] + start["vision.norm.bias"]
    torch.testing.assert_close(model.features_1, expected, atol=1e-4, rtol=1e-4)
    assert model.vision is None
    with pytest.raises(UserError, match="found no raw pixels"):
        build("unim2rec", ring, configs, tmp_path, lambda event: None)


def test_official_file_starts_unisrec(ring, tmp_path):
    """Our names of official weights, or official weights on scaled features."""
    raw = dataclasses.replace(CONFIGS, unisrec=UniSRecConfig(**SMALL, feature_norm=0.0))
    source = build("unisrec", ring, raw, tmp_path, lambda event: None).model
    write_official(source, tmp_path / "official.pth")
    checkpoints = {"unisrec": str(tmp_path / "official.pth")}
    configs = dataclasses.replace(raw, checkpoints=checkpoints)
    teacher = build("unisrec-text", ring, configs, tmp_path, lambda event: None)
    assert teacher.start.startswith("official official.pth (sha256 ")
    state = source.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in teacher.model.state_dict().items())
    scaled = dataclasses.replace(CONFIGS, checkpoints=checkpoints)
    with pytest.raises(UserError, match="--unisrec_feature_norm: found 15, expected 0"):
        build("unisrec", ring, scaled, tmp_path, print)
    weights = torch.load(tmp_path / "official.pth")["state_dict"]
    config = {"n_heads": 2, "hidden_act": "relu", "temperature": 0.1}
    torch.save({"config": config, "state_dict": weights}, tmp_path / "other.pth")
    other = dataclasses.replace(raw, checkpoints={"unisrec": str(tmp_path / "other.pth")})
    message = (
        r"temperature=0.1 in place of 0.07 \(--unisrec_temperature\), hidden_act=relu in place"
    )
    with pytest.raises(UserError, match=message):
        build("unisrec", ring, other, tmp_path, print)
    wrong = dataclasses.replace(CONFIGS, checkpoints={"unim2rec": str(tmp_path / "official.pth")})
    with pytest.raises(UserError, match="expected a checkpoint folder"):
        build("unim2rec", ring, wrong, tmp_path, print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unisrec": UniSRecConfig(**{**SMALL, "inner_size": 16})}, "--unisrec_inner_size: found"),
        ({"unisrec": UniSRecConfig(**SMALL, feature_norm=3.0)}, "--unisrec_feature_norm: found"),
        ({"max_seq_len": 12}, "--max_seq_len: found 12, expected 10 as in"),
        ({"text": TextConfig(text_pooling="cls")}, "--text_encoder: found"),
    ],
)
def test_other_settings_than_the_checkpoints_are_refused(ring, domain, tmp_path, changes, message):
    """Weights over features of another encoder, which fit by shape and mean nothing."""
    configs, _ = pretrained("unisrec", [domain], tmp_path)
    with pytest.raises(UserError, match=message):
        build("unisrec", ring, dataclasses.replace(configs, **changes), tmp_path, print)


def test_damage_and_absence_are_told(ring, domain, tmp_path):
    """A traceback, or a teacher tuned from random weights without a word."""
    configs, out = pretrained("unisrec", [domain], tmp_path)
    other = dataclasses.replace(configs, checkpoints={"unim2rec": str(out)})
    with pytest.raises(UserError, match="found a checkpoint of unisrec, expected one of unim2rec"):
        build("unim2rec", ring, other, tmp_path, print)
    weights = safetensors.torch.load_file(out / "weights.safetensors")
    safetensors.torch.save_file({**weights, "x": torch.zeros(1)}, out / "weights.safetensors")
    with pytest.raises(UserError, match="surplus: x"):
        build("unisrec", ring, configs, tmp_path, print)
    (out / "pretraining.json").write_text("{")
    with pytest.raises(UserError, match="found no readable checkpoint"):
        build("unisrec", ring, configs, tmp_path, print)
    (out / "pretraining.json").unlink()
    with pytest.raises(UserError, match=r"pretraining\.json: found no such file"):
        build("unisrec", ring, configs, tmp_path, print)


def test_content_of_a_start_is_part_of_the_cache_key(ring, domain, tmp_path):
    """Stale vectors of a checkpoint that was trained on, or a key that depends on its place."""
    split = leave_one_out(ring.interactions)
    configs, out = pretrained("unisrec", [domain], tmp_path)

    def key(configs, name="unisrec"):
        return fingerprint(name, ring, split, configs, 0)

    before = key(configs)
    assert before != key(CONFIGS)
    assert key(configs, "unim2rec") == key(CONFIGS, "unim2rec")
    moved = out.rename(tmp_path / "moved")
    configs = dataclasses.replace(configs, checkpoints={"unisrec": str(moved)})
    assert key(configs) == before
    facts = json.loads((moved / "pretraining.json").read_text())
    (moved / "pretraining.json").write_text(json.dumps({**facts, "seed": 9}))
    assert key(configs) != before
    assert np.isfinite(facts["losses"]).all()
