import copy
import dataclasses
import os
import shutil

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import ImageConfig
from teachers_torch.items import image
from teachers_torch.items.image import encode_files, feature_width, image_features
from teachers_torch.items.image_encoder import ImageEncoder
from tests.teachers_torch.worlds import ring_world

ROWS = np.array([2, -1, 0, 1, -1, 3, 3], dtype=np.int32)


def dataset_with(images, rows=ROWS):
    ids = tuple(f"i{i}" for i in range(len(rows)))
    texts = {"title": ids}
    catalogue = Catalogue(texts, images, rows)
    return dataclasses.replace(ring_world(), catalogue=catalogue, item_ids=ids)


def reference(images):
    """Centred over the items that have an image, then every row to norm 1, in float64."""
    features = np.zeros((len(ROWS), images.shape[1]))
    shown = images[ROWS[ROWS >= 0]].astype(np.float64)
    shown -= shown.mean(axis=0)
    features[ROWS >= 0] = shown / np.linalg.norm(shown, axis=1, keepdims=True)
    return features


@pytest.mark.parametrize("kind", ["clip", "pixels"])
def test_rows_are_centred_unit_vectors_and_missing_ones_zero(kind):
    """Each item gets its own image's row, without the encoder's offset and scale."""
    rng = np.random.default_rng(0)
    if kind == "clip":
        images = rng.normal(size=(4, 512)) + 6 * (np.arange(512) == 92)
    else:
        images = rng.uniform(size=(4, 768))
    images = images.astype(np.float16)
    features, available = image_features(dataset_with(images))
    assert features.dtype == np.float32
    np.testing.assert_array_equal(available, [True, False, True, True, False, True, True])
    np.testing.assert_allclose(features, reference(images), atol=1e-5)
    assert (features[~available] == 0).all()


def test_many_large_values_do_not_overflow_half_precision():
    """The mean isn't accumulated in float16, where it would be infinite."""
    images = np.full((4, 512), 60000.0, dtype=np.float16)
    images[0] = -60000.0
    features, _ = image_features(dataset_with(images))
    assert np.isfinite(features).all()


def test_equal_images_stay_zero_rather_than_nan():
    """A row that equals the mean isn't divided by its norm, which is zero."""
    features, available = image_features(dataset_with(np.ones((4, 3), dtype=np.float16)))
    assert available.sum() == 5
    assert (features == 0).all()


def test_a_value_that_is_not_finite_is_named():
    """The message names the row, so no NaN spreads to every item through the mean."""
    images = np.ones((4, 3), dtype=np.float16)
    images[1, 2] = np.nan
    with pytest.raises(UserError, match="data set ring: image_features row 1: found"):
        image_features(dataset_with(images))


@pytest.mark.parametrize("images", [None, np.ones((4, 3), dtype=np.float16)])
def test_no_image_at_all_is_refused(images):
    """Missing features, and features that no item uses, are both an error."""
    dataset = dataset_with(images, np.full(5, -1, dtype=np.int32))
    with pytest.raises(UserError, match="no item has image features"):
        image_features(dataset)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A tiny ViT and a tiny CLIP with their processors, as folders."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        ViTConfig,
        ViTImageProcessorPil,
        ViTModel,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    vision = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    words = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    words |= {"intermediate_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    size = {"height": 16, "width": 16}
    vit = ViTModel(ViTConfig(**vision)).eval()
    clip = CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=6)).eval()
    models = {
        "vit": (vit, ViTImageProcessorPil(size=size)),
        "clip": (clip, CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size)),
    }
    for name, parts in models.items():
        for part in parts:
            part.save_pretrained(folder / name)
    return folder, models


@pytest.fixture
def with_files(tmp_path):
    """Five items, of which two share an image and one has none."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, size in (("a.png", (20, 30)), ("b.jpg", (16, 16)), ("c.png", (9, 40))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    paths = [
        str(tmp_path / name) if name else "" for name in ("b.jpg", "", "a.png", "c.png", "b.jpg")
    ]
    texts = {"title": tuple("abcde")}
    catalogue = Catalogue(texts, image_paths=tuple(paths))
    return dataclasses.replace(ring_world(), catalogue=catalogue, item_ids=tuple("abcde"))


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_files_are_encoded_by_the_models_own_class(name, encoders, with_files, tmp_path):
    """Each item gets its own image's vector: [CLS] for a ViT, the projected image for CLIP."""
    import torch
    from PIL import Image

    folder, models = encoders
    model, processor = models[name]
    config = ImageConfig(image_encoder=str(folder / name), image_batch_size=2)
    reports = []
    encoded = encode_files(
        with_files, config, Cache(tmp_path), lambda *r: reports.append(r)
    ).catalogue
    assert reports == [(2, 3), (3, 3)]
    assert encoded.image_rows.tolist() == [1, -1, 0, 2, 1]
    for item in (0, 2, 3):
        image = Image.open(with_files.catalogue.image_paths[item]).convert("RGB")
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            if name == "vit":
                expected = model(pixels).last_hidden_state[0, 0]
            else:
                expected = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        found = encoded.image_features[encoded.image_rows[item]]
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)
    features, available = image_features(dataclasses.replace(with_files, catalogue=encoded))
    assert available.tolist() == [True, False, True, True, True]
    assert features.shape[1] == (8 if name == "vit" else 6)


def test_a_transformer_without_a_class_token_is_averaged(with_files, tmp_path):
    """Swin's first place is the image's upper left corner, so all places count alike."""
    import torch
    from PIL import Image
    from transformers import SwinConfig, SwinModel, ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "window_size": 4}
    model = SwinModel(SwinConfig(**sizes, depths=[1], num_heads=[2])).eval()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    for part in (model, processor):
        part.save_pretrained(tmp_path / "swin")
    paths = [path for path in with_files.catalogue.image_paths if path]
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixels).last_hidden_state.double().mean(dim=1)
    found = ImageEncoder(str(tmp_path / "swin")).encode(paths)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


def test_an_encoder_that_hides_parts_of_an_image_is_refused(encoders, tmp_path):
    """A masked autoencoder leaves out other places each time, in evaluation too."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTMAEConfig(**sizes, intermediate_size=8, image_size=16, patch_size=4)
    processor = encoders[1]["vit"][1]
    for part in (ViTMAEModel(config), processor):
        part.save_pretrained(tmp_path / "mae")
    with pytest.raises(UserError, match=r"whose vector of an image is another one each time"):
        ImageEncoder(str(tmp_path / "mae"))


def test_encoded_images_come_from_the_cache(encoders, with_files, tmp_path, monkeypatch):
    """Images are encoded once, and again only when a file's content has changed."""
    config = ImageConfig(image_encoder=str(encoders[0] / "vit"))
    first = encode_files(with_files, config, Cache(tmp_path)).catalogue.image_features
    monkeypatch.setattr(image, "ImageEncoder", lambda name: pytest.fail("loaded the encoder"))
    again = encode_files(with_files, config, Cache(tmp_path)).catalogue.image_features
    np.testing.assert_array_equal(first, again)
    (tmp_path / "a.png").write_bytes((tmp_path / "c.png").read_bytes())
    with pytest.raises(pytest.fail.Exception, match="loaded the encoder"):
        encode_files(with_files, config, Cache(tmp_path))


def test_an_encoder_that_cannot_be_read_is_one_line(with_files, tmp_path):
    """The line names --image_encoder; there is no traceback."""
    with pytest.raises(UserError, match=r"^--image_encoder: found ") as caught:
        encode_files(with_files, ImageConfig(image_encoder=str(tmp_path)), Cache(tmp_path))
    assert "\n" not in str(caught.value)


def test_images_that_cannot_be_read_are_counted_named_and_left_out(
    encoders, with_files, tmp_path, caplog
):
    """The warning is the same from the cache, and the other items keep their features."""
    config = ImageConfig(image_encoder=str(encoders[0] / "vit"), image_batch_size=1)
    whole = encode_files(with_files, config, Cache(tmp_path)).catalogue
    (tmp_path / "c.png").write_text("no image")
    os.remove(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.png")
    for _ in range(2):
        caplog.clear()
        found = encode_files(with_files, config, Cache(tmp_path)).catalogue
        assert caplog.messages == [
            f"data set ring: found 2 image files that can't be read (such as {tmp_path}/a.png: it "
            "is no regular file); its items have none"
        ]
        assert found.image_rows.tolist() == [1, -1, -1, -1, 1]
        np.testing.assert_array_equal(found.image_features[1], whole.image_features[1])
        assert np.isfinite(found.image_features).all()
    assert feature_width(with_files, config, Cache(tmp_path / "other")) == 8


def test_no_image_that_can_be_read_is_an_error(encoders, with_files, tmp_path):
    """The error counts the files and names one, at the encoding and at the check before it."""
    config = ImageConfig(image_encoder=str(encoders[0] / "vit"))
    for name in ("a.png", "b.jpg", "c.png"):
        os.remove(tmp_path / name)
    line = (
        f"^data set ring: found 3 image files that can't be read \\(such as {tmp_path}/a.png: "
        r"there is no such file\), expected at least one image$"
    )
    for use in (encode_files, feature_width):
        with pytest.raises(UserError, match=line):
            use(with_files, config, Cache(tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_stored_in_half_precision_are_computed_in_float32(
    dtype, encoders, with_files, tmp_path
):
    """The vectors equal those of the same weights stored in float32."""
    import torch

    _, models = encoders
    model, processor = copy.deepcopy(models["vit"])
    half = model.to(getattr(torch, dtype))
    for part in (half, processor):
        part.save_pretrained(tmp_path / "half")
    half.float().save_pretrained(tmp_path / "float")
    processor.save_pretrained(tmp_path / "float")
    paths = [path for path in with_files.catalogue.image_paths if path]
    vectors = [ImageEncoder(str(tmp_path / name)).encode(paths) for name in ("half", "float")]
    np.testing.assert_array_equal(*vectors)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (np.nan, "layernorm.bias: found 1 of 8 weights that are not finite, expected finite num"),
        (np.inf, "layernorm.bias: found 1 of 8 weights that are not finite, expected finite num"),
        (1e9, "of {folder} with 1e+09, for "),
    ],
)
def test_weights_and_vectors_that_are_no_numbers_are_told(
    value, line, encoders, with_files, tmp_path
):
    """A weight that isn't finite is named, and so is the encoder whose vector has 1e+09."""
    _, models = encoders
    model, processor = copy.deepcopy(models["vit"])
    model.layernorm.bias.data[3] = value
    for part in (model, processor):
        part.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError) as caught:
        ImageEncoder(str(tmp_path / "broken")).encode([with_files.catalogue.image_paths[0]])
    assert line.format(folder=tmp_path / "broken") in str(caught.value)


def test_a_pooler_that_is_not_there_takes_no_random_numbers_of_the_callers(encoders, tmp_path):
    """Loading a model file without a pooler leaves torch's random state as it was."""
    import torch
    from safetensors.torch import load_file, save_file

    folder, _ = encoders
    shutil.copytree(folder / "vit", tmp_path / "plain")
    file = tmp_path / "plain/model.safetensors"
    weights = {name: x for name, x in load_file(file).items() if not name.startswith("pooler.")}
    assert len(weights) < len(load_file(file))
    save_file(weights, file, {"format": "pt"})
    state = torch.get_rng_state()
    ImageEncoder(str(tmp_path / "plain"))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_not_there_are_not_drawn(encoders, tmp_path):
    """An encoder that lacks a weight is refused, and the message names the weight."""
    from safetensors.torch import load_file, save_file

    folder, _ = encoders
    shutil.copytree(folder / "vit", tmp_path / "part")
    file = tmp_path / "part/model.safetensors"
    weights = load_file(file)
    del weights["layernorm.bias"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"without 1 of its weights, such as layernorm\.bias"):
        ImageEncoder(str(tmp_path / "part"))


def test_a_path_that_no_file_has_counts_as_no_image():
    """A NUL in a catalogue's image path raises no ValueError."""
    assert image.contents_digest(["a\0b"]) == image.contents_digest(["missing.png"])
    assert image.image_fault("a\0b") == "no file has such a name"
