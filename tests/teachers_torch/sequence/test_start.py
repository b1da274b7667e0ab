import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import (
    ImageConfig,
    PretrainConfig,
    TextConfig,
    UniM2RecConfig,
    UniSRecConfig,
)
from teachers_torch.items import image
from teachers_torch.registry import kind
from teachers_torch.sequence.official import write_official
from teachers_torch.sequence.pretrain import pretrain
from tests.teachers_torch.sequence.test_pretrain import with_pixels, without_images
from tests.teachers_torch.worlds import build, key_of, ring_world, settings_of, tune

SMALL = {
    "hidden_size": 8, "num_layers": 1, "inner_size": 8, "num_experts": 2, "dropout": 0.0,
    "batch_size": 48, "max_epochs": 2, "learning_rate": 1e-2,
}  # fmt: skip
SETTINGS = settings_of(UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL), max_seq_len=10)
FROZEN = ("position_embedding.", "trm_encoder.")


def pretrained(family, domains, folder, settings=SETTINGS):
    """Pre-trains for a moment; returns the settings that begin from it."""
    config = PretrainConfig(epochs=1, batch_size=64)
    out = folder / f"{family}-{domains[0].name}"
    pretrain(
        family, domains, settings, config, out, cache=Cache(folder), seed=0, log=lambda e: None
    )
    return dataclasses.replace(settings, init={family: str(out)}), out


@pytest.fixture
def domain(ring):
    """The pre-training domain: fewer users than the target, the same texts' encoder."""
    return dataclasses.replace(ring_world(users=12), name="elsewhere")


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_tuning_starts_there_and_leaves_the_encoder(name, ring, domain, tmp_path):
    """The card names the start; frozen weights stay as they were, and all others are tuned."""
    settings, out = pretrained(name.removesuffix("-text"), [domain], tmp_path)
    start = safetensors.torch.load_file(out / "weights.safetensors")
    untuned = build(name, ring, settings, tmp_path)
    for key, value in untuned.model.state_dict().items():
        assert key == "item_embedding.weight" or torch.equal(value, start[key]), key
    teacher, card = tune(name, ring, settings, tmp_path)
    assert card.start.startswith("pre-trained on elsewhere, 1 epochs (sha256 ")
    for key, value in teacher.model.state_dict().items():
        if key != "item_embedding.weight" and "placeholder" not in key:
            assert torch.equal(value, start[key]) is key.startswith(FROZEN), key


@pytest.mark.parametrize("name", ["unisrec", "unim2rec"])
def test_pretraining_starts_there_and_trains_all(name, domain, tmp_path):
    """The facts name the start, every weight moves, and another start is refused."""
    settings, out = pretrained(name, [with_pixels(domain)], tmp_path)
    start = safetensors.torch.load_file(out / "weights.safetensors")
    others = [with_pixels(ring_world(users=9))]
    cache = {"cache": Cache(tmp_path), "seed": 1, "log": lambda event: None}
    for rate, moved in ((1e-30, set()), (1e-3, set(start) - {"placeholder"})):
        config = PretrainConfig(epochs=1, batch_size=64, learning_rate=rate)
        folder = tmp_path / f"rate-{rate}"
        facts = pretrain(name, others, settings, config, folder, **cache)
        assert facts["start"].startswith("pre-trained on pixels, 1 epochs (sha256 ")
        weights = safetensors.torch.load_file(folder / "weights.safetensors")
        assert weights.keys() == start.keys()
        assert {key for key in start if not torch.equal(weights[key], start[key])} == moved
        # From another start it is another pre-training.
        with pytest.raises(UserError, match="found a checkpoint of other settings or data"):
            pretrain(name, others, SETTINGS, config, folder, **cache)


@pytest.mark.parametrize("to", [without_images, lambda dataset: dataset])
def test_a_pretraining_start_that_does_not_fit_is_told_before(to, domain, tmp_path):
    """The check refuses a domain without raw images and a folder that isn't there."""
    settings, _ = pretrained("unim2rec", [with_pixels(domain)], tmp_path)
    check, other = kind("unim2rec").pretraining.check, ring_world(users=9)
    check([with_pixels(other)], settings, Cache(tmp_path))
    message = r"^--domains: found no raw images, expected images of \(4, 4, 3\) in all"
    with pytest.raises(UserError, match=message):
        check([to(other)], settings, Cache(tmp_path))
    missing = dataclasses.replace(settings, init={"unisrec": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match="nothing: no such file, expected a folder made by pre"):
        kind("unisrec").pretraining.check([other], missing, Cache(tmp_path))


def test_image_files_are_read_by_the_encoder_that_the_weights_know(ring, tmp_path, monkeypatch):
    """Another encoder's vectors, of the same width, are refused when tuned and pre-trained on."""
    from PIL import Image

    def encode(self, files):
        return np.full((len(files), 5), 0.5, np.float16)

    monkeypatch.setattr(image.ImageEncoder, "__init__", lambda self, name: None)
    monkeypatch.setattr(image.ImageEncoder, "encode", encode)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    first, second = (
        dataclasses.replace(SETTINGS, image=ImageConfig(image_encoder=str(tmp_path / name)))
        for name in ("first", "second")
    )

    def with_files(dataset):
        paths = (str(tmp_path / "a.png"),) * dataset.num_items
        catalogue = Catalogue(dataset.catalogue.texts, image_paths=paths)
        return dataclasses.replace(dataset, catalogue=catalogue)

    domain = with_files(dataclasses.replace(ring_world(users=12), name="elsewhere"))
    settings, _ = pretrained("unim2rec", [domain], tmp_path, first)
    other, target = dataclasses.replace(second, init=settings.init), with_files(ring)
    assert build("unim2rec", target, settings, tmp_path).model is not None
    message = r"^--image_encoder: found '.*second' \(.*\), expected the one that weights begin from"
    for refused in (
        lambda: build("unim2rec", target, other, tmp_path),
        lambda: kind("unim2rec").pretraining.check([domain], other, Cache(tmp_path)),
    ):
        with pytest.raises(UserError, match=message):
            refused()


def test_encoder_is_trained_where_so_asked(ring, domain, tmp_path):
    """With freeze_encoder=False, encoder and positions move."""
    free = UniSRecConfig(**SMALL, freeze_encoder=False)
    settings, out = pretrained("unisrec", [domain], tmp_path)
    settings = settings_of(free, base=settings)
    teacher, _ = tune("unisrec", ring, settings, tmp_path)
    start = safetensors.torch.load_file(out / "weights.safetensors")
    state = teacher.model.state_dict()
    moved = [key for key in start if not torch.equal(state[key], start[key])]
    assert any(key.startswith("trm_encoder.") for key in moved)
    assert "position_embedding.weight" in moved


def test_without_a_checkpoint_nothing_is_frozen(ring, tmp_path):
    teacher = build("unisrec", ring, SETTINGS, tmp_path)
    assert all(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.start == "random"


def test_target_with_images_may_start_from_domains_without(ring, domain, tmp_path):
    """The image adaptor then has the target's width and is trainable."""
    settings, _ = pretrained("unim2rec", [without_images(domain)], tmp_path)
    model = build("unim2rec", ring, settings, tmp_path).model
    assert model.adaptors[1].w_gate.requires_grad
    assert model.adaptors[1].w_gate.shape[0] == 5


def test_pixels_are_read_by_the_pretrained_vision_encoder(ring, domain, tmp_path):
    """Each image has the encoder's vector, computed by hand; other features are refused."""
    settings, out = pretrained("unim2rec", [with_pixels(domain)], tmp_path)
    target = with_pixels(ring)
    model = build("unim2rec", target, settings, tmp_path).model
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
    torch.testing.assert_close(model.features_1.cpu(), expected, atol=1e-4, rtol=1e-4)
    assert model.vision is None
    with pytest.raises(UserError, match="found no raw pixels"):
        build("unim2rec", ring, settings, tmp_path)


def test_official_file_starts_unisrec(ring, tmp_path):
    """Official weights load unchanged onto unscaled features; other settings are refused."""
    raw = settings_of(UniSRecConfig(**SMALL, feature_norm=0.0), base=SETTINGS)
    source = build("unisrec", ring, raw, tmp_path).model
    write_official(source, tmp_path / "official.pth")
    init = {"unisrec": str(tmp_path / "official.pth")}
    settings = dataclasses.replace(raw, init=init)
    teacher = build("unisrec-text", ring, settings, tmp_path)
    assert teacher.start.startswith("official official.pth (sha256 ")
    state = source.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in teacher.model.state_dict().items())
    scaled = dataclasses.replace(SETTINGS, init=init)
    with pytest.raises(UserError, match="--teacher_feature_norm: found 15, expected 0"):
        build("unisrec", ring, scaled, tmp_path)
    weights = torch.load(tmp_path / "official.pth")["state_dict"]
    config = {"n_heads": 2, "hidden_act": "relu", "temperature": 0.1}
    torch.save({"config": config, "state_dict": weights}, tmp_path / "other.pth")
    other = dataclasses.replace(raw, init={"unisrec": str(tmp_path / "other.pth")})
    message = (
        r"temperature=0.1 in place of 0.07 \(--teacher_temperature\), hidden_act=relu in place"
    )
    with pytest.raises(UserError, match=message):
        build("unisrec", ring, other, tmp_path)
    wrong = dataclasses.replace(SETTINGS, init={"unim2rec": str(tmp_path / "official.pth")})
    with pytest.raises(UserError, match="expected a folder made by pre-training"):
        build("unim2rec", ring, wrong, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"configs": [UniSRecConfig(**{**SMALL, "inner_size": 16})]},
            "--teacher_inner_size: found",
        ),
        ({"configs": [UniSRecConfig(**SMALL, feature_norm=3.0)]}, "--teacher_feature_norm: found"),
        ({"max_seq_len": 12}, "--max_seq_len: found 12, expected 10 as in"),
        ({"text": TextConfig(text_pooling="cls")}, "--text_encoder: found"),
    ],
)
def test_other_settings_than_the_checkpoints_are_refused(ring, domain, tmp_path, changes, message):
    """Even where the weights fit by shape, the error names the setting that differs."""
    settings, _ = pretrained("unisrec", [domain], tmp_path)
    changes = dict(changes)
    configs = changes.pop("configs", [])
    with pytest.raises(UserError, match=message):
        build("unisrec", ring, settings_of(*configs, base=settings, **changes), tmp_path)


def test_damage_and_absence_are_told(ring, domain, tmp_path):
    """Another model's checkpoint, damaged files and missing ones are each a UserError."""
    settings, out = pretrained("unisrec", [domain], tmp_path)
    other = dataclasses.replace(settings, init={"unim2rec": str(out)})
    with pytest.raises(UserError, match="found a checkpoint of unisrec, expected one of unim2rec"):
        build("unim2rec", ring, other, tmp_path)
    weights = safetensors.torch.load_file(out / "weights.safetensors")
    safetensors.torch.save_file({**weights, "x": torch.zeros(1)}, out / "weights.safetensors")
    with pytest.raises(UserError, match="missing or damaged, expected a checkpoint"):
        build("unisrec", ring, settings, tmp_path)
    facts = read_sealed_json(out / "pretraining.json")
    digest = file_digest(out / "weights.safetensors")
    write_sealed_json(out / "pretraining.json", {**facts, "weights_sha256": digest})
    with pytest.raises(UserError, match="surplus: x"):
        build("unisrec", ring, settings, tmp_path)
    unfinished = {key: value for key, value in facts.items() if key != "epochs"}
    write_sealed_json(out / "pretraining.json", {**unfinished, "weights_sha256": digest})
    with pytest.raises(UserError, match="missing or damaged, expected a checkpoint"):
        build("unisrec", ring, settings, tmp_path)
    for wrong in ({"image_shape": [1, 2]}, {"image_shape": ["a", "b", "c"]}, {"model": None}):
        content = {**facts, **wrong, "weights_sha256": digest}
        write_sealed_json(out / "pretraining.json", content)
        with pytest.raises(UserError, match="missing or damaged, expected a checkpoint"):
            build("unisrec", ring, settings, tmp_path)
    (out / "pretraining.json").write_text("{")
    with pytest.raises(UserError, match="missing or damaged, expected a checkpoint"):
        build("unisrec", ring, settings, tmp_path)
    (out / "pretraining.json").unlink()
    with pytest.raises(UserError, match=r"pretraining\.json: no such file"):
        build("unisrec", ring, settings, tmp_path)


def test_content_of_a_start_is_part_of_the_cache_key(ring, domain, tmp_path):
    """Other facts give another key; another place or another teacher's start doesn't."""
    settings, out = pretrained("unisrec", [domain], tmp_path)

    def key(settings, name="unisrec"):
        return key_of(name, ring, settings)

    before = key(settings)
    assert before != key(SETTINGS)
    assert key(settings, "unim2rec") == key(SETTINGS, "unim2rec")
    moved = out.rename(tmp_path / "moved")
    settings = dataclasses.replace(settings, init={"unisrec": str(moved)})
    assert key(settings) == before
    facts = read_sealed_json(moved / "pretraining.json")
    write_sealed_json(moved / "pretraining.json", {**facts, "seed": 9})
    assert key(settings) != before
    assert np.isfinite(facts["losses"]).all()
