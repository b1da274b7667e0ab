"""Images from addresses to the features that a teacher reads, with one command."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from experiments.commands.prepare import COMMAND
from experiments.stages import prepare as stage
from experiments.stages.images import encode_images
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from teachers_torch.config import ImageConfig
from teachers_torch.items import image
from teachers_torch.items.image import encode_paths
from tests.data.sources.test_images import Site, paths
from tests.experiments.calls import make_call


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """The folder of a tiny vision transformer."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = ViTConfig(**vision, num_attention_heads=2, image_size=16, patch_size=8)
    ViTModel(config).eval().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def site():
    made = Site()
    yield made
    made.close()


def test_one_command_fetches_and_encodes_and_goes_on_with_what_is_missing(tmp_path, site, encoder):
    kinds = ("a", "b", "gone", "d")
    items = "".join(f"i{row},{site.address}/{kind}/1.jpg,x\n" for row, kind in enumerate(kinds))
    (tmp_path / "items.csv").write_text("item_id,image_path,title\n" + items)
    # Every item is somebody's first, so that the data sheet has no warning.
    pairs = [(user, day) for user in range(4) for day in range(4)]
    log = "".join(f"u{user},i{(user + day) % 4},2020-01-0{day + 1}\n" for user, day in pairs)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + log)
    argv = [
        f"--interactions={tmp_path / 'log.csv'}", f"--items={tmp_path / 'items.csv'}",
        "--name=shop", f"--data_dir={tmp_path}", f"--image_hosts={site.host}",
        "--download_images", "--encode_images", f"--image_encoder={encoder}",
    ]  # fmt: skip

    def command(*flags: str) -> str:
        call, stream = make_call(COMMAND, [*argv, *flags])
        stage.run(call)
        return stream.getvalue()

    said = command()
    assert "images: 3 fetched, 0 were there" in said
    assert "warning: images: 1 could not be fetched" in said
    catalogue = read_dataset(tmp_path, "shop").catalogue
    assert catalogue.image_rows is not None
    assert catalogue.image_features is not None
    assert (catalogue.image_rows >= 0).tolist() == [True, True, False, True]
    found = [str(tmp_path / "shop" / path) for path in paths(tmp_path / "shop") if path]
    expected = encode_paths(found, ImageConfig(encoder), lambda done, total: None)
    assert (catalogue.image_features[catalogue.image_rows[[0, 1, 3]]] == expected).all()

    before = (tmp_path / "shop/interactions.parquet").stat()
    said = command()
    assert "nothing to do: " in said
    assert "has these images already: nothing to do" in " ".join(said.split())
    assert "images: 0 fetched, 3 were there" in said
    assert (tmp_path / "shop/interactions.parquet").stat() == before
    # A data set made anew keeps the images, and other flags are no way to go on.
    assert "images: 0 fetched, 3 were there" in command("--overwrite")
    assert site.asked["/a/1.jpg"] == 1
    with pytest.raises(UserError, match=r"found .*shop already, made with --min_history=0 and"):
        command("--min_history=2")
    with pytest.raises(UserError, match=r"^--strict: images: 1 could not be fetched"):
        command("--strict")


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path, encoder):
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "half.png").write_bytes((folder / "good.png").read_bytes()[:45])
    items = ["good.png", "half.png", None, "nowhere.png", "good.png"]
    table = {"item_id": list("abcde"), "title": list("abcde"), "image_path": items}
    pq.write_table(pa.table(table), folder / "items.parquet")
    call, stream = make_call(COMMAND, ["--name=shop"])
    encode_images(folder, ImageConfig(encoder), call.reporter)
    assert "warning: images: 2 could not be read (such as half.png: " in stream.getvalue()
    rows = pq.read_table(folder / "items.parquet")["image_feature_row"].to_pylist()
    assert rows == [0, None, None, None, 0]
    assert np.load(folder / "image_features.npy").shape == (1, 8)
    with pytest.raises(UserError, match="2 could not be read"):
        encode_images(folder, ImageConfig(encoder), call.reporter, strict=True)


def test_a_killed_encoding_goes_on_with_the_next_image(tmp_path, encoder, monkeypatch):
    """Images that were encoded aren't encoded again, unless the encoder's weights changed."""
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(tmp_path / name)
    table = {"item_id": names, "title": names, "image_path": names}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    monkeypatch.setattr(image, "PART", 1)
    encode, seen, most = image.ImageEncoder.encode, [], 2

    def counted(self, paths):
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.extend(paths)
        return encode(self, paths)

    monkeypatch.setattr(image.ImageEncoder, "encode", counted)
    call, _ = make_call(COMMAND, ["--name=shop"])
    config = ImageConfig(encoder, image_batch_size=1)
    expected = encode_paths([str(tmp_path / n) for n in names[:2]], config, lambda d, t: None)
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        encode_images(tmp_path, config, call.reporter)
    assert list(tmp_path.glob(".*.parts"))
    seen.clear()
    most = 9
    encode_images(tmp_path, config, call.reporter)
    assert [path.rpartition("/")[2] for path in seen] == names[2:]
    assert np.array_equal(np.load(tmp_path / "image_features.npy")[:2], expected)
    assert not list(tmp_path.glob(".*"))
    # The same name of an encoder, other weights.
    weights = pathlib.Path(encoder) / "README.md"
    weights.write_text("another")
    seen.clear()
    encode_images(tmp_path, config, call.reporter)
    assert len(seen) == len(names)
    weights.unlink()


def test_a_data_set_without_images_is_refused(tmp_path):
    pq.write_table(pa.table({"item_id": ["a"], "title": ["a"]}), tmp_path / "items.parquet")
    call, _ = make_call(COMMAND, ["--name=shop"])
    with pytest.raises(UserError, match="found no images in column image_path, expected some"):
        encode_images(tmp_path, ImageConfig(), call.reporter)
